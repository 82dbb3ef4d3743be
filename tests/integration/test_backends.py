"""Which backend runs a bundle or an engine, and what is said where it cannot."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.mini import INPUT_SIZE, ExportedMini
from vpp_deploy.errors import BackendError, VppDeployError
from vpp_deploy.manifests import EngineBuild, Manifest, write_manifest
from vpp_deploy.runtime.backends import choose_backend, import_tensorrt, warm_up_values
from vpp_deploy.runtime.cuda import list_gpus
from vpp_deploy.runtime.onnx_runner import OnnxRunner
from vpp_deploy.runtime.opening import open_bundle

FOLDER = Path("some/folder")


def engine_of(manifest: Manifest, backend: str = "tensorrt-rtx") -> Manifest:
    stages = [stage.name for stage in manifest.pipeline.stages]
    build = EngineBuild(
        backend=backend,
        version="1.7.1",
        architectures=("8.6",),
        gpu=None,
        driver=None,
        build_s=dict.fromkeys(stages, 1.0),
        layers={stage: {"float32": 1} for stage in stages},
        graphs_sha256=dict.fromkeys(stages, ""),
        max_frame_size=(1080, 64),
    )
    return dataclasses.replace(manifest, engine=build)


def has_gpu() -> bool:
    try:
        return bool(list_gpus())
    except BackendError:
        return False


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


class TestChoice:
    def test_a_bundle_runs_on_the_cpu_unless_asked_otherwise(
        self, mini_bundle: ExportedMini, mini_dense_bundle: ExportedMini
    ) -> None:
        for exported in (mini_bundle, mini_dense_bundle):
            assert choose_backend(FOLDER, exported.manifest, None) == "onnxruntime"
            assert choose_backend(FOLDER, exported.manifest, "onnxruntime") == "onnxruntime"
        chosen = choose_backend(FOLDER, mini_dense_bundle.manifest, "onnxruntime-cuda")
        assert chosen == "onnxruntime-cuda"

    def test_cuda_needs_graphs_for_it(self, mini_bundle: ExportedMini) -> None:
        with pytest.raises(BackendError, match=r"exported for the CPU.*--target gpu.*--fp16"):
            choose_backend(FOLDER, mini_bundle.manifest, "onnxruntime-cuda")

    @pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
    def test_a_bundle_is_no_engine(self, mini_bundle: ExportedMini, backend: str) -> None:
        with pytest.raises(BackendError, match=f"build-engine {FOLDER} --backend {backend}`"):
            choose_backend(FOLDER, mini_bundle.manifest, backend)

    @pytest.mark.parametrize("own", ["tensorrt", "tensorrt-rtx"])
    def test_an_engine_has_its_own(self, mini_dense_bundle: ExportedMini, own: str) -> None:
        manifest = engine_of(mini_dense_bundle.manifest, own)
        assert choose_backend(FOLDER, manifest, None) == own
        assert choose_backend(FOLDER, manifest, own) == own
        for other in {"onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"} - {own}:
            with pytest.raises(BackendError, match=f"engines for {own}, which {other} cannot run"):
                choose_backend(FOLDER, manifest, other)


class TestMissing:
    @without_gpu
    def test_cuda(self, mini_dense_bundle: ExportedMini) -> None:
        with pytest.raises(BackendError, match="no NVIDIA driver"):
            open_bundle(mini_dense_bundle.folder, "onnxruntime-cuda")

    @without_gpu
    @pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
    def test_an_engine(self, mini_dense_bundle: ExportedMini, tmp_path: Path, backend: str) -> None:
        """Its files are checked first; nothing of them is deserialised."""
        folder = shutil.copytree(mini_dense_bundle.folder, tmp_path / "engine")
        write_manifest(folder, engine_of(mini_dense_bundle.manifest, backend))
        with pytest.raises(BackendError, match="no NVIDIA driver"):
            open_bundle(folder)
        with (folder / "head.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(VppDeployError, match=r"head\.onnx is not the file"):
            open_bundle(folder)

    def test_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
        with pytest.raises(BackendError, match=r"install vpp-deploy\[tensorrt-rtx\]"):
            import_tensorrt("tensorrt-rtx")

    def test_cudas_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.runtime", None)
        with pytest.raises(BackendError, match=r"cuda-bindings is not installed; install vpp-de"):
            list_gpus()

    def test_bf16_on_the_cpu(self, mini_dense_bundle: ExportedMini) -> None:
        manifest = dataclasses.replace(mini_dense_bundle.manifest, precision="bf16")
        with pytest.raises(BackendError, match="bf16, which ONNX Runtime does not on the CPU"):
            OnnxRunner(mini_dense_bundle.folder, manifest)


class TestSizesThatVary:
    def test_what_the_warm_up_needs(self, mini_dense_bundle: ExportedMini) -> None:
        manifest = mini_dense_bundle.manifest
        height, width = INPUT_SIZE
        values = warm_up_values(manifest)
        assert values["frame_sizes"].tolist() == [[height, width]]
        assert values["row_weights"].shape == (1, height, height // 4)
        assert values["column_weights"].shape == (1, width // 4, width // 8, 8)
        # No larger than what the engines take.
        values = warm_up_values(engine_of(manifest))
        assert values["column_weights"].shape == (1, width // 4, 64 // 8, 8)
        assert values["row_weights"].shape == (1, height, height // 4)

    def test_a_cpu_bundle_has_no_masks(self, mini_bundle: ExportedMini) -> None:
        assert warm_up_values(mini_bundle.manifest).keys() == {"frame_sizes"}

    def test_onnx_runtime_on_the_cpu(self, mini_dense_bundle: ExportedMini) -> None:
        manifest = mini_dense_bundle.manifest
        runner = OnnxRunner(mini_dense_bundle.folder, manifest, threads=1)
        with pytest.raises(ValueError, match="masks needs row_weights, which has not been up"):
            runner.run("masks")
        height, width = INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4
        runner.upload("mask_logits", np.ones_like(runner.download("mask_logits")))
        for rows, num_bytes in ((5, 3), (7, 2), (5, 3)):
            runner.upload("row_weights", np.full((1, rows, height), 1 / height, np.float32))
            weights = np.full((1, width, num_bytes, 8), 1 / width, np.float32)
            weights[..., -1, 4:] = 0
            runner.upload("column_weights", weights)
            runner.run("masks")
            bits = runner.download("mask_bits")
            assert bits.shape[2:] == (rows, num_bytes)
            assert (bits[..., :-1] == 0xFF).all()
            assert (bits[..., -1] == 0xF0).all()
        with pytest.raises(ValueError, match=r"row_weights takes shape \(1, -1, 24\), got"):
            runner.upload("row_weights", np.zeros((1, 5, height + 1), np.float32))
        with pytest.raises(ValueError, match=r"mask_offset takes shape \(1,\), got"):
            runner.upload("mask_offset", np.zeros(2, np.int64))
