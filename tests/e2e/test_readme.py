"""Every command and every line of Python in README.md runs, over small stand-ins for its files."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.mini import (
    CLASSES,
    INPUT_SIZE,
    ExportedMini,
    frames,
    graphs_of,
    mini_config,
    mini_tensors,
    write_mini_recipe,
)
from tests.unit.evaluation.made_dataset import labels, masks, write_dataset
from vpp_deploy.checkpoints.formula import config_text
from vpp_deploy.cli.main import app
from vpp_deploy.export import bundle as bundle_module

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands(program: str) -> list[list[str]]:
    text = "\n".join(blocks("(?:sh|console)"))
    lines = [line.removeprefix("$ ") for line in text.split("\n")]
    return [
        shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")
    ]


@pytest.fixture
def stand_ins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mini_bundle: ExportedMini,
    mini_fp16_bundle: ExportedMini,
) -> Path:
    """A folder with the files that the README names, each small; exports find their graphs made."""
    traced = graphs_of(mini_bundle, mini_fp16_bundle)
    monkeypatch.setattr(bundle_module, "export_graph", traced)
    config = mini_config()
    checkpoint = {
        "state_dict": {k: torch.from_numpy(np.array(v)) for k, v in mini_tensors(config).items()},
        "meta": {"cfg": config_text(config), "dataset_meta": {"CLASSES": CLASSES}},
    }
    torch.save(checkpoint, tmp_path / "vpp_tiny.pth")
    (tmp_path / "export").mkdir()
    write_mini_recipe(tmp_path / "export" / "tiny-40.toml")
    with av.open(str(tmp_path / "street.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 96, "yuv420p"
        for frame in frames(2, size=(32, 96)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.rgb, "rgb24")))
        container.mux(stream.encode(None))
    images = {"a": [frame.rgb for frame in frames(2)]}
    truth = [(0, "dog", masks([(10, 10, 40, 50)] * 2, INPUT_SIZE))]
    write_dataset(tmp_path / "ytvis" / "valid", images, labels(images, CLASSES, truth))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def first_cells(text: str) -> set[str]:
    """First column of the tables in a terminal's output; a wide figure's second line has none."""
    cells = {line.split("│")[1].strip() for line in text.split("\n") if "│" in line}
    return cells - {""}


def test_commands_and_python(stand_ins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs: dict[str, str] = {}
    for arguments in commands("vpp-deploy"):
        if any("://" in argument for argument in arguments):
            continue  # test_live_run.py has streams to read
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, (arguments, result.output)
        outputs.setdefault(arguments[0], result.output)
    assert list(outputs) == [
        *("export", "run", "build-engine", "inspect", "verify", "eval", "calibrate", "profile")
    ]
    # What the README shows of the output has the rows that the commands print, not their figures.
    for shown in blocks("console"):
        command = shown.split()[2]
        assert first_cells(outputs[command]) == first_cells(shown)
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), {})
    assert re.match(r"0 \[.*\n1 \[", capsys.readouterr().out)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_targets_exist() -> None:
    for target in commands("make"):
        subprocess.run(["make", "--dry-run", *target], cwd=ROOT, check=True, capture_output=True)
