"""`vpp-deploy build-engine` from outside, with TensorRT for RTX and without a GPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mini import ExportedMini
from tests.unit.test_imports import BLOCK
from vpp_deploy.manifests import MANIFEST_NAME, read_manifest

COMMAND = [sys.executable, "-c", "from vpp_deploy.cli.main import main; main()"]
RTX = "--backend=tensorrt-rtx"

ENVIRONMENT = {**os.environ, "COLUMNS": "200"}

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


def vpp(*arguments: object, cwd: Path, command: list[str] = COMMAND) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    result = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def fails(*arguments: object, cwd: Path) -> str:
    """The one line on stderr."""
    code, _, errors = vpp(*arguments, cwd=cwd)
    assert code == 1, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def fp16(tmp_path: Path, mini_fp16_bundle: ExportedMini) -> Path:
    """A folder whose export/ holds a bundle in half precision."""
    shutil.copytree(mini_fp16_bundle.folder, tmp_path / "export" / "mini-fp16")
    return tmp_path


@needs_rtx
class TestBuilding:
    def test_from_a_bundle_for_the_cpu(self, fp16: Path, mini_bundle: ExportedMini) -> None:
        """The typed graphs are those beside it; test_readme.py has a command that makes them."""
        newest = shutil.copytree(mini_bundle.folder, fp16 / "export" / "mini")
        (newest / MANIFEST_NAME).touch()
        typed = fp16 / "export" / "mini-fp16" / MANIFEST_NAME
        before = typed.stat().st_ino
        code, out, errors = vpp("build-engine", "--fp16", RTX, cwd=fp16)
        assert code == 0, errors
        assert typed.stat().st_ino == before
        engines = read_manifest(fp16 / "engines" / "mini-fp16")
        assert engines.engine is not None
        assert engines.engine.architectures == ("8.0", "8.6", "8.9", "12.0")
        assert "engines/mini-fp16: 5 engines, fp16, tensorrt-rtx" in out
        assert not errors

    def test_without_torch_by_a_recipe(self, fp16: Path) -> None:
        (fp16 / "mine.toml").write_text(
            'backend = "tensorrt-rtx"\narchitectures = ["8.6"]\nmax_frame_size = [480, 640]\n'
        )
        blocked = BLOCK + "from vpp_deploy.cli.main import main; main()"
        arguments = ["export/mini-fp16", "--recipe=mine.toml", "--sm=89", "--out=e", "--level=1"]
        code, out, errors = vpp(
            "build-engine", *arguments, cwd=fp16, command=[sys.executable, "-c", blocked]
        )
        assert code == 0, errors
        engine = read_manifest(fp16 / "e").engine
        assert engine is not None
        assert (engine.architectures, engine.max_frame_size) == (("8.9",), (480, 640))
        assert "built ahead of time, on no GPU" in out

    def test_interrupted(self, fp16: Path) -> None:
        with subprocess.Popen(
            [*COMMAND, "build-engine", "export/mini-fp16", RTX],
            cwd=fp16,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            # The first two stages are there: the third is the longest.
            until = time.monotonic() + 120
            while not list((fp16 / "engines").glob(".mini*/bundle/selector.engine")):
                assert time.monotonic() < until
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert not list((fp16 / "engines").iterdir())


class TestRefusals:
    def test_nothing_to_build_from(self, tmp_path: Path) -> None:
        said = fails("build-engine", "--fp16", cwd=tmp_path)
        assert "no bundle in export/; make one with `vpp-deploy export CHECKPOINT`" in said

    def test_no_bundle(self, tmp_path: Path) -> None:
        assert "nowhere is no bundle" in fails("build-engine", "nowhere", RTX, cwd=tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--fp16", "--fp32"], "give one"),
            (["--max-frame-size", "big"], "is no size"),
            (["--level", "6"], "--level"),
            (["--sm=x"], "names no architectures"),
            (["--workspace=0"], "workspace_mb = 0"),
            (["--backend=onnx"], "is none of tensorrt, tensorrt-rtx"),
        ],
    )
    def test_wrong_usage(self, tmp_path: Path, arguments: list[str], said: str) -> None:
        code, _, errors = vpp("build-engine", *arguments, cwd=tmp_path)
        assert code == 2
        assert said in errors

    @needs_rtx
    def test_a_checkpoint_that_is_gone(self, tmp_path: Path, mini_bundle: ExportedMini) -> None:
        folder = tmp_path / "export" / "mini"
        shutil.copytree(mini_bundle.folder, folder)
        document = json.loads((folder / MANIFEST_NAME).read_text())
        document["checkpoint"] = "gone.pth"
        (folder / MANIFEST_NAME).write_text(json.dumps(document))
        said = fails("build-engine", "--fp16", RTX, cwd=tmp_path)
        assert "gone.pth is not there" in said
        assert "--checkpoint" in said
        assert [path.name for path in tmp_path.iterdir()] == ["export"]

    @pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
    def test_tensorrt_where_it_is_not(self, fp16: Path) -> None:
        said = fails("build-engine", "--backend=tensorrt", cwd=fp16)
        assert "vpp-deploy[tensorrt]" in said

    @needs_rtx
    def test_an_architecture_that_the_library_has_not(self, fp16: Path) -> None:
        said = fails("build-engine", "export/mini-fp16", RTX, "--sm=86,90", cwd=fp16)
        assert "not for 90" in said
        assert not list((fp16 / "engines").iterdir())
