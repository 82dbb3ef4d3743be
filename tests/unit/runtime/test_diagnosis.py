"""`vpp-deploy doctor`: what is said of a machine, whatever its libraries do."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import pytest

from vpp_deploy.runtime.diagnosis import BackendState, Diagnosis, diagnose
from vpp_deploy.runtime.probes import PROBES, run_probe
from vpp_deploy.specs import BACKENDS

GPU = {"name": "NVIDIA H100", "architecture": "9.0", "memory_bytes": 85_000_000_000}
ALL_WELL: dict[str, dict[str, Any]] = {
    "gpu": {"driver": "580.1", "gpus": [GPU]},
    "onnxruntime": {"version": "1.32.0", "providers": ["CUDAExecutionProvider"]},
    **{name: {"version": "1"} for name in BACKENDS[1:]},
}
RUN = "from vpp_deploy.cli.main import main; main()"
NO_GPU: dict[str, Any] = {"driver": None, "gpus": [], "error": "this machine has no NVIDIA driver"}


def diagnosis(changes: dict[str, dict[str, Any]]) -> Diagnosis:
    found = ALL_WELL | changes
    return diagnose(lambda name: found[name])


def state(found: Diagnosis, name: str) -> BackendState:
    (backend,) = (backend for backend in found.backends if backend.name == name)
    return backend


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the packages that are installed; append to it."""

    class Distribution:
        version = "1.0"

        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    names = ["onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "cuda-bindings", "requests"]
    monkeypatch.setattr(metadata, "distributions", lambda: [Distribution(n) for n in names])
    return names


class TestDiagnosis:
    def test_all_is_well(self, installed: list[str]) -> None:
        found = diagnosis({})
        assert [(b.name, b.missing) for b in found.backends] == [(n, None) for n in BACKENDS]
        assert found.gpus == (GPU,)
        assert found.driver == "580.1"
        assert found.gpu_error is None
        assert found.notes == ()
        assert list(found.libraries) == [
            "cuda-bindings",
            "onnxruntime-gpu",
            "tensorrt",
            "tensorrt-rtx",
        ]

    def test_no_gpu(self, installed: list[str]) -> None:
        broken = {name: {"error": "this machine has no NVIDIA driver"} for name in BACKENDS[1:]}
        found = diagnosis({"gpu": NO_GPU, **broken})
        assert state(found, "onnxruntime").missing is None
        for name in BACKENDS[1:]:
            assert state(found, name) == BackendState(name, "there is no GPU that works", None)
        assert found.gpu_error == "this machine has no NVIDIA driver"

    def test_nothing_is_installed(self, installed: list[str]) -> None:
        installed.clear()
        found = diagnosis({name: {"error": "no module"} for name in BACKENDS})
        assert state(found, "onnxruntime") == BackendState(
            "onnxruntime", "onnxruntime is not installed", 'pip install "vpp-deploy[cpu]"'
        )
        assert state(found, "onnxruntime-cuda") == BackendState(
            "onnxruntime-cuda", "onnxruntime-gpu is not installed", 'pip install "vpp-deploy[gpu]"'
        )
        assert state(found, "tensorrt").install == 'pip install "vpp-deploy[tensorrt]"'

    def test_both_builds_of_onnx_runtime(self, installed: list[str]) -> None:
        installed.append("onnxruntime")
        found = diagnosis({"onnxruntime-cuda": {"error": "this ONNX Runtime has no CUDA"}})
        assert "both installed" in found.notes[0]
        backend = state(found, "onnxruntime-cuda")
        assert backend.missing == "this ONNX Runtime has no CUDA"
        assert backend.install is not None
        assert backend.install.startswith("pip uninstall -y onnxruntime onnxruntime-gpu; pip inst")

    def test_a_library_that_crashes(self, installed: list[str]) -> None:
        found = diagnosis({"tensorrt": {"error": "crashes when it is used (signal 11)"}})
        assert state(found, "tensorrt").missing == "crashes when it is used (signal 11)"
        assert state(found, "tensorrt-rtx").missing is None


class TestProbes:
    def test_there_is_one_for_each_backend(self) -> None:
        assert PROBES.keys() == {"gpu", *BACKENDS}

    def test_onnx_runtime(self) -> None:
        found = run_probe("onnxruntime")
        assert "CPUExecutionProvider" in found["providers"]
        assert found["version"] == metadata.version("onnxruntime")

    @pytest.mark.parametrize("name", ["gpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
    def test_each_answers(self, name: str) -> None:
        """With what it found, or why it did not."""
        found = run_probe(name)
        assert found.get("error") or found.get("version") or found.get("gpus")

    def test_one_that_does_not_exist(self) -> None:
        assert "error" in run_probe("nonsense")

    @pytest.fixture
    def pretend(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Has another program answer."""
        start = subprocess.Popen

        def pretend(code: str) -> None:
            def popen(_: object, **options: Any) -> subprocess.Popen[str]:
                return start([sys.executable, "-c", code], **options)

            monkeypatch.setattr(subprocess, "Popen", popen)

        return pretend

    def test_a_crash(self, pretend: Any) -> None:
        pretend(f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})")
        assert run_probe("gpu") == {"error": f"crashes when it is used (signal {signal.SIGSEGV})"}

    def test_a_crash_after_the_answer(self, pretend: Any) -> None:
        pretend(
            f"print('{{}}', flush=True); import os; os.kill(os.getpid(), {signal.SIGSEGV.value})"
        )
        assert "crashes" in run_probe("gpu")["error"]

    def test_no_answer(self, pretend: Any) -> None:
        pretend("import time; time.sleep(60)")
        start = time.monotonic()
        assert run_probe("gpu", timeout_s=0.5) == {"error": "no answer within 0.5 s"}
        assert time.monotonic() - start < 10

    @pytest.mark.parametrize("output", ["", "hello", "[1]", "1\\n{"])
    def test_nonsense(self, pretend: Any, output: str) -> None:
        pretend(f"print('{output}')")
        assert run_probe("gpu") == {"error": "fails when it is used (exit code 0)"}

    def test_what_a_library_prints_before_the_answer(self, pretend: Any) -> None:
        pretend("print('warning: old'); print('{\"version\": \"1\"}')")
        assert run_probe("gpu") == {"version": "1"}


class TestCommand:
    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-c", RUN, "doctor", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, **environment},
        )
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        return result

    def test_for_people(self) -> None:
        out = self.run().stdout
        for name in BACKENDS:
            assert f"  {name} " in out
        assert "onnxruntime       ready" in out
        assert "GPU: " in out

    def test_as_json(self) -> None:
        document = json.loads(self.run("--json").stdout)
        assert [backend["name"] for backend in document["backends"]] == list(BACKENDS)
        assert document["backends"][0]["missing"] is None
        assert "onnxruntime" in " ".join(document["libraries"])
