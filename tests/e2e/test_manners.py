"""What every command has in common: how much it says, where to, how it leaves, and completion."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from tests.mini import ExportedMini
from vpp_deploy.cli.main import app

COMMANDS: tuple[str, ...] = tuple(getattr(get_command(app), "commands"))  # noqa: B009
CODE = "import sys; sys.argv[0] = 'vpp-deploy'; from vpp_deploy.cli.main import main; main()"
ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


def vpp(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        cwd=cwd,
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def here(*arguments: str) -> Result:
    """Without a process: for what neither loads nor opens anything."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments, prog_name="vpp-deploy")


def in_shell(line: str, *arguments: object, code: str = CODE) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `vpp` is the command."""
    start = 'vpp() { "$PYTHON" -c "$CODE" "$@"; }; '
    return subprocess.run(
        ["bash", "-c", start + line, "bash", *map(str, arguments)],
        env={**ENVIRONMENT, "PYTHON": sys.executable, "CODE": code},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestHelp:
    def test_the_program(self) -> None:
        said = vpp("--help").stdout
        assert all(command in said for command in COMMANDS)
        words = " ".join(said.split())
        for code in ("0 done", "1 the input", "2 wrong usage", "130 interrupted", "143 terminated"):
            assert code in words

    @pytest.mark.parametrize("command", COMMANDS)
    def test_a_command(self, command: str) -> None:
        result = here(command, "--help")
        assert result.exit_code == 0
        assert f"Example: vpp-deploy {command}" in result.stdout
        assert "--quiet" in result.stdout
        assert "--verbose" in result.stdout


class TestHowMuch:
    def test_quiet(self, mini_bundle: ExportedMini) -> None:
        result = vpp("inspect", mini_bundle.folder, "-q")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

    def test_quiet_json(self, mini_bundle: ExportedMini) -> None:
        result = vpp("inspect", mini_bundle.folder, "--json", "--quiet")
        assert json.loads(result.stdout)["kind"] == "bundle"
        assert (result.returncode, result.stderr) == (0, "")

    def test_quiet_errors(self, tmp_path: Path) -> None:
        result = vpp("inspect", tmp_path, "-q")
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")

    def test_verbose(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        damaged = Path(shutil.copytree(mini_bundle.folder, tmp_path / "bundle"))
        (damaged / "head.onnx").write_bytes(b"")
        arguments = ("verify", mini_bundle.folder, "--against", damaged, "--frames", "2", "-v")
        result = vpp(*arguments)
        assert result.returncode == 1
        opened, error, *trace = result.stderr.splitlines()
        assert opened.startswith(f"{mini_bundle.folder}: opened in ")
        assert error.startswith("error: ")
        assert trace[0] == "Traceback (most recent call last):"
        assert "head.onnx" in trace[-1]

    @pytest.mark.parametrize("command", COMMANDS)
    def test_both_at_once(self, command: str) -> None:
        needed = {
            "export": ["m.pth"],
            "inspect": ["m"],
            "run": ["v.mp4"],
            "profile": ["m"],
            "verify": ["m", "--against", "n"],
            "calibrate": ["m", "v"],
            "eval": ["m", "d"],
        }
        result = here(command, *needed.get(command, []), "-q", "-v")
        assert result.exit_code == 2
        assert "contradict" in result.stderr

    def test_a_second_command_in_the_same_process(self, mini_bundle: ExportedMini) -> None:
        """What one was told does not last."""
        code = (
            "from typer.testing import CliRunner\n"
            "from vpp_deploy.cli.main import app\n"
            f"arguments = ['inspect', {str(mini_bundle.folder)!r}]\n"
            "for more in ['-q'], [], ['--json'], []:\n"
            "    print(len(CliRunner().invoke(app, arguments + more).output))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        quiet, first, as_json, second = map(int, result.stdout.split())
        assert quiet == 0
        assert first == second > 0
        assert as_json > 0


class TestFfmpegsMessages:
    @pytest.fixture
    def broken(self, tmp_path: Path) -> Path:
        path = tmp_path / "broken.mp4"
        path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
        return path

    def test_are_shown_on_demand(self, broken: Path) -> None:
        plain = vpp("export", "m.pth", "--like", broken)
        verbose = vpp("export", "m.pth", "--like", broken, "-v")
        assert plain.returncode == verbose.returncode == 1
        assert "moov" not in plain.stderr
        assert "moov atom not found" in verbose.stderr


class TestStreams:
    def test_a_reader_that_leaves(self, mini_bundle: ExportedMini) -> None:
        line = 'vpp inspect "$1" --json | head -n 1; echo "${PIPESTATUS[0]}"'
        result = in_shell(line, mini_bundle.folder)
        assert result.stdout.splitlines() in (["{", "0"], ["{", "1"])
        assert result.stderr == ""

    def test_a_reader_that_never_was(self, mini_bundle: ExportedMini) -> None:
        # `true` is gone long before anything is written.
        result = in_shell('vpp inspect "$1" | true; echo "${PIPESTATUS[0]}"', mini_bundle.folder)
        assert (result.stdout, result.stderr) == ("1\n", "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk(self, mini_bundle: ExportedMini) -> None:
        result = in_shell('vpp inspect "$1" --json >/dev/full', mini_bundle.folder)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert "No space left" in line

    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, mini_bundle: ExportedMini, closed: str) -> None:
        result = in_shell(f'vpp inspect "$1" {closed}', mini_bundle.folder)
        assert (result.returncode, result.stderr) == (0, "")
        assert (result.stdout == "") == (">&-" in closed.replace("2>&-", ""))
        assert in_shell(f'vpp inspect "$1/none" {closed}', mini_bundle.folder).returncode == 1


NONSENSE = [
    ("export m.pth --target moon", "none of cpu, gpu"),
    ("export m.pth --size 32x32", "from 64 to 8192"),
    ("export m.pth --size 544x960x3", "is no size"),
    ("export m.pth --int8 --fp16", "give one"),
    ("export m.pth --verify-frames 4", "--verify-frames"),
    ("build-engine --backend onnxruntime", "none of tensorrt, tensorrt-rtx"),
    ("build-engine --sm x", "names no architectures"),
    ("build-engine --workspace 0", "workspace_mb = 0"),
    ("build-engine --max-frame-size 99999x99999", "max_frame_size"),
    ("build-engine --level 6", "--level"),
    ("run v.mp4 --model m --backend tpu", "none of onnxruntime"),
    ("run v.mp4 --model m.pth --size 100x100", "multiples of 32"),
    ("run v.mp4 --model m --threads 0", "--threads"),
    ("run v.mp4 --model m.pth --rule guess", "--rule"),
    ("profile m --backend tpu", "none of onnxruntime"),
    ("profile m.pth --size huge", "is no size"),
    ("profile m --warmup -1", "--warmup"),
    ("verify m --against n --backend tpu", "none of onnxruntime"),
    ("verify m --against n --against-backend tpu", "none of onnxruntime"),
    ("verify m --against n --min-iou nan", "--min-iou"),
    ("verify m --against n --min-tokens 1.1", "--min-tokens"),
    ("verify m --against n --max-features nan", "--max-features"),
    ("verify m --against n --frames 1", "--frames"),
    ("verify m", "--against"),
    ("inspect m --recipe r.toml", "--recipe is for a checkpoint"),
    ("inspect", "Missing argument"),
    ("doctor --surprise", "No such option"),
]


@pytest.mark.parametrize(("line", "said"), NONSENSE, ids=[line for line, _ in NONSENSE])
def test_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = here(*line.split())
    assert result.exit_code == 2, result.stderr
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def completed(words: Sequence[str], cwd: Path) -> set[str]:
    """What bash is offered for the last of the words, by the protocol of its script."""
    line = {
        "_VPP_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["vpp-deploy", *words]),
        "COMP_CWORD": str(len(words)),
    }
    result = vpp(cwd=cwd, environment=line)
    assert result.stderr == ""
    return set(result.stdout.split())


class TestCompletion:
    def test_offers(self, tmp_path: Path) -> None:
        assert completed([""], tmp_path) == set(COMMANDS)
        assert completed(["ins"], tmp_path) == {"inspect"}
        assert {"--json", "--quiet", "--verbose"} <= completed(["inspect", "--"], tmp_path)
        assert completed(["run", "--backend", "ten"], tmp_path) == {"tensorrt", "tensorrt-rtx"}
        assert completed(["export", "m.pth", "--target", ""], tmp_path) == {"cpu", "gpu"}
        assert completed(["run", "--rule", "pub"], tmp_path) == {"published"}

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option(self, command: str, tmp_path: Path) -> None:
        parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
        names = {p.opts[0] for p in parameters if p.param_type_name == "option"}
        assert len(names) > 2
        assert names <= completed([command, "--"], tmp_path)

    @pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
    def test_in_bash(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "vpp-deploy"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CODE}" "$@"\n')
        script.chmod(0o755)
        (tmp_path / "street.mp4").touch()
        lines = """
            vpp-deploy --show-completion > completion.sh || exit 1
            bash -n completion.sh || exit 2
            source completion.sh
            offer() {
                COMP_WORDS=(vpp-deploy "$@"); COMP_CWORD=$#
                _vpp_deploy_completion vpp-deploy
                echo "${#COMPREPLY[@]} ${COMPREPLY[*]}"
            }
            offer doc
            offer inspect --js
            offer run str
            complete -p vpp-deploy
        """
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-c", lines],
            cwd=tmp_path,
            env={**ENVIRONMENT, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        command, option, file, how = result.stdout.splitlines()
        assert command == "1 doctor"
        assert option == "1 --json"
        # With nothing to offer, bash completes file names by itself.
        assert file.split()[0] == "0"
        assert "-o default" in how

    @pytest.mark.parametrize(
        ("shell", "line"),
        [
            ("zsh", {"_TYPER_COMPLETE_ARGS": "vpp-deploy inspect --js"}),
            (
                "fish",
                {
                    "_TYPER_COMPLETE_ARGS": "vpp-deploy inspect --js",
                    "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                },
            ),
        ],
    )
    def test_other_shells(self, shell: str, line: dict[str, str]) -> None:
        script = vpp(environment={"_VPP_DEPLOY_COMPLETE": f"source_{shell}"}).stdout
        assert f"_VPP_DEPLOY_COMPLETE=complete_{shell}" in script
        result = vpp(environment={"_VPP_DEPLOY_COMPLETE": f"complete_{shell}", **line})
        assert "--json" in result.stdout


def test_doctor_as_json() -> None:
    result = vpp("doctor", "--json")
    assert set(json.loads(result.stdout)) >= {"gpus", "libraries", "backends"}
