"""Who imports whom: downwards only, and on a deployment machine without the heavy packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vpp_deploy

ROOT = Path(vpp_deploy.__file__).parent
MAX_LINES = 400

LEVELS = (
    ("cli",),
    ("profiling", "parity", "drift", "inspection", "calibration", "evaluation"),
    ("runtime", "export"),
    ("engines", "partition", "video"),
    ("checkpoints",),
    ("models",),
    ("recipe_files", "folders"),
    ("folders",),
    ("manifests", "recipes", "pages"),
    ("specs", "results", "parity_report", "files"),
    ("errors",),
    ("__init__",),  # the version; what else it names is imported when somebody asks for it
)
"""From the top down; a part imports itself and parts of lower levels, never one beside it."""

RANK = {part: rank for rank, level in enumerate(LEVELS) for part in level}

HEAVY = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "onnxruntime",
    "safetensors",
    "vpp_deploy.models",
    "vpp_deploy.partition",
    "vpp_deploy.checkpoints",
    "vpp_deploy.export",
)

BLOCK = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == heavy or name.startswith(heavy + ".") for heavy in {HEAVY!r}):
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """`vpp_deploy.runtime.session` -> `runtime`."""
    _, *rest = module.split(".")
    return rest[0] if rest else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Modules of vpp_deploy that a module imports, in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from vpp_deploy import video` names a part; `from vpp_deploy.specs import X` does not
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module != "vpp_deploy":
                names = [node.module]
            elif [alias.name for alias in node.names] == ["__version__"]:
                names = ["vpp_deploy"]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "vpp_deploy")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    part = part_of(name_of(path))
    if part == "__init__":
        return
    for imported in imports(path):
        other = part_of(imported)
        assert other == part or RANK[other] > RANK[part], f"{part} imports {imported}"


def test_the_public_names_are_complete() -> None:
    for name in vpp_deploy.__all__:
        assert getattr(vpp_deploy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vpp_deploy.nonsense
    out = run_python("import sys, vpp_deploy; print(*sys.modules)").split()
    assert [name for name in out if name.startswith("vpp_deploy")] == ["vpp_deploy"]


def test_every_part_has_its_level() -> None:
    assert {part_of(name_of(path)) for path in modules()} <= RANK.keys()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_a_deployment_machine_needs_no_heavy_package() -> None:
    light = {"cli", "profiling", "drift", "inspection", "evaluation", "calibration", "pages"}
    light |= {"runtime", "engines", "video"}
    light |= {
        "manifests",
        "recipes",
        "recipe_files",
        "folders",
        "files",
        "specs",
        "results",
        "errors",
        "__init__",
    }
    names = [name_of(path) for path in modules() if part_of(name_of(path)) in light]
    assert len(names) > 20
    loaded = run_python(
        BLOCK
        + f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        + "print(*sys.modules)"
    ).split()
    assert set(names) <= set(loaded)
    assert not set(HEAVY) & set(loaded)


def test_every_help_works_there() -> None:
    out = run_python(
        BLOCK
        + """
import typer
from vpp_deploy.cli.main import app, main

def names(command, path=()):
    yield path
    for name, sub in getattr(command, "commands", {}).items():
        yield from names(sub, (*path, name))

for path in list(names(typer.main.get_command(app))):
    for option in ("--help", "-h"):
        sys.argv = ["vpp-deploy", *path, option]
        try:
            main()
        except SystemExit as end:
            assert end.code == 0, (path, end.code)
        print("HELP OF", "/".join(path))
sys.argv = ["vpp-deploy", "--version"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
"""
    )
    for command in ("", "export", "run", "profile"):
        assert f"HELP OF {command}\n" in out
    assert f"vpp-deploy {vpp_deploy.__version__}" in out
    assert "CHECKPOINT" in out
    assert "--annotate" in out


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["export", "model.pth"], "vpp-deploy[export,cpu]"),
        (["run", "{image}", "--model", "model.pth"], "vpp-deploy[export]"),
        (["profile", "model.pth"], "vpp-deploy[export]"),
        (["inspect", "model.pth"], "vpp-deploy[export]"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: list[str], missing: str) -> None:
    import cv2
    import numpy as np

    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "0.png"), np.zeros((32, 32, 3), np.uint8))
    argv = [a.format(image=tmp_path / "frames") for a in ("vpp-deploy", *arguments)]
    code = BLOCK + f"from vpp_deploy.cli.main import main\nsys.argv = {argv!r}\nmain()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert missing in line
    assert "Traceback" not in result.stderr
