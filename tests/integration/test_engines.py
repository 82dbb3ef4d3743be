"""Engines as TensorRT for RTX really builds them, on a machine without a GPU."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.mini import ExportedMini
from vpp_deploy.engines.build import EngineFolder, build_engines, stage_job, stage_profiles
from vpp_deploy.engines.loading import check_loadable, rebuild_command
from vpp_deploy.engines.network import parse_stage
from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.engines.stage_build import build_stage
from vpp_deploy.engines.target import Target, choose_target
from vpp_deploy.engines.watching import new_log
from vpp_deploy.errors import BackendError, BundleError, EngineError
from vpp_deploy.manifests import MANIFEST_NAME, read_manifest, write_manifest
from vpp_deploy.runtime.backends import choose_backend
from vpp_deploy.specs import StageSpec, TensorSpec

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

FLOATS = {"fp32": {"float32"}, "fp16": {"float16", "float32"}}


@dataclasses.dataclass(frozen=True)
class Built:
    bundle: ExportedMini
    engines: EngineFolder


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every stage, of a dense model in fp32 and of a pruned one in fp16, for two architectures."""
    name = {"fp32": "mini_dense_bundle", "fp16": "mini_fp16_bundle"}[request.param]
    bundle: ExportedMini = request.getfixturevalue(name)
    folder = tmp_path_factory.mktemp("engines") / "mini"
    recipe = EngineRecipe(precision=request.param, workspace_mb=4096)
    target = choose_target("tensorrt-rtx", ("8.6", "8.9"), None)
    return Built(bundle, build_engines(trt, bundle.folder, folder, target, recipe))


@pytest.fixture
def engines(built: Built, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(built.engines.folder, tmp_path / "engines"))


TARGET = choose_target("tensorrt-rtx", ("8.6",), None)


class TestBuilding:
    def test_every_stage_is_built(self, built: Built) -> None:
        manifest, source = built.engines.manifest, built.bundle.manifest
        stages = ["stem", "selector", "trunk", "head", "masks"]
        if source.precision == "fp32":
            stages.remove("selector")
        assert list(manifest.files) == stages
        names = {path.name for path in built.engines.folder.iterdir()}
        assert names == {MANIFEST_NAME, *(f"{stage}.engine" for stage in stages)}
        for stage, file in manifest.files.items():
            assert (built.engines.folder / file).stat().st_size > 100_000, stage
        assert manifest.pipeline == source.pipeline
        assert manifest.precision == source.precision

    def test_what_the_manifest_says_of_the_build(self, built: Built) -> None:
        manifest, source = built.engines.manifest, built.bundle.manifest
        engine = manifest.engine
        assert engine is not None
        assert (engine.backend, engine.version) == ("tensorrt-rtx", trt.__version__)
        assert engine.architectures == ("8.6", "8.9")
        assert (engine.gpu, engine.driver) == (None, None)
        assert engine.graphs_sha256 == {s: source.sha256[f] for s, f in source.files.items()}
        assert all(0 < seconds < 600 for seconds in engine.build_s.values())

    def test_layers_are_of_the_precision(self, built: Built) -> None:
        manifest = built.engines.manifest
        assert manifest.engine is not None
        for stage, layers in manifest.engine.layers.items():
            floats = {name for name in layers if "float" in name}
            island = stage in ("selector", "masks")
            assert floats == ({"float32"} if island else FLOATS[manifest.precision]), stage

    def test_no_gpu_looks_into_the_engines(self, built: Built) -> None:
        assert set(built.engines.inspected.values()) == {None}

    def test_profiles(self, mini_fp16_bundle: ExportedMini) -> None:
        manifest = mini_fp16_bundle.manifest
        stages = {stage.name: stage for stage in manifest.pipeline.stages}
        assert [stage_profiles(manifest, stages[s], (9, 9)) for s in ("stem", "head")] == [(), ()]
        kept = [p["kept_1_2"] for p in stage_profiles(manifest, stages["trunk"], (1080, 1920))]
        # 96x128 pixels are 48 tokens, 0.7 of which are kept.
        assert kept == [(33, 33, 33), (48, 48, 48)]
        (masks,) = stage_profiles(manifest, stages["masks"], (1080, 1921))
        assert masks == {"row_weights": (1, 720, 1080), "column_weights": (1, 160, 241)}
        (masks,) = stage_profiles(manifest, stages["masks"], (480, 640))
        assert masks == {"row_weights": (1, 480, 480), "column_weights": (1, 80, 80)}

    def test_progress_is_told(self, built: Built) -> None:
        manifest, told = built.bundle.manifest, []
        stage = manifest.pipeline.stages[0]
        job = stage_job(built.bundle.folder, manifest, stage, TARGET, EngineRecipe(level=0))
        build_stage(trt, job, report=lambda *step: told.append(step))
        assert ("Building engine", 0, 6) in told
        assert all(0 <= done <= total for _, done, total in told)


class TestRefusals:
    @pytest.fixture
    def bundle(self, mini_fp16_bundle: ExportedMini, tmp_path: Path) -> Path:
        return Path(shutil.copytree(mini_fp16_bundle.folder, tmp_path / "mini"))

    def build(self, bundle: Path, out: Path, target: Target = TARGET, **recipe: Any) -> None:
        build_engines(trt, bundle, out, target, EngineRecipe(**recipe))

    def refused(self, bundle: Path, out: Path, error: type[Exception], **options: Any) -> str:
        with pytest.raises(error) as info:
            self.build(bundle, out, **options)
        assert "\n" not in str(info.value)
        left = {path.name for path in out.parent.iterdir()} - {bundle.name}
        assert not left, "a failed build left something"
        return str(info.value)

    def test_graphs_for_the_cpu(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        said = self.refused(mini_bundle.folder, tmp_path / "out", BundleError)
        assert "exported for the CPU" in said

    def test_graphs_of_another_precision(self, bundle: Path, tmp_path: Path) -> None:
        said = self.refused(bundle, tmp_path / "out", BundleError, precision="fp32")
        assert "is in fp16" in said

    def test_an_architecture_that_the_library_has_not(self, bundle: Path, tmp_path: Path) -> None:
        hopper = choose_target("tensorrt-rtx", ("8.6", "9.0"), None)
        said = self.refused(bundle, tmp_path / "out", EngineError, target=hopper)
        assert "builds for --sm 75,80,86,89,120,121, not for 90" in said

    def test_what_the_library_says_is_passed_on(self, bundle: Path, tmp_path: Path) -> None:
        """Turing multiplies no float32 matrices, and the third stage fails."""
        with pytest.raises(EngineError, match=r"no float32 products for compute capability 7\.5"):
            choose_target("tensorrt-rtx", ("7.5",), None)
        turing = Target("tensorrt-rtx", ("7.5",), None, ahead_of_time=True)
        said = self.refused(bundle, tmp_path / "out", EngineError, target=turing)
        assert "FP32 GEMM is not supported" in said
        assert "cudaError" not in said

    def test_a_graph_under_a_wrong_precision(self, bundle: Path, tmp_path: Path) -> None:
        manifest = read_manifest(bundle)
        lying = {stage: count + 1 for stage, count in manifest.float32_products.items()}
        write_manifest(bundle, dataclasses.replace(manifest, float32_products=lying))
        said = self.refused(bundle, tmp_path / "out", EngineError)
        assert "stem was asked for in fp16, with 1 matrix products" in said

    def test_a_folder_with_other_things(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        with pytest.raises(EngineError, match=r"holds more than a bundle \(notes.txt"):
            self.build(bundle, tmp_path / "out")
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    def test_the_bundle_is_not_overwritten(self, bundle: Path) -> None:
        with pytest.raises(EngineError, match="is the bundle itself"):
            self.build(bundle, bundle)
        read_manifest(bundle)

    def test_engines_are_no_source(self, engines: Path, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="holds engines"):
            self.build(engines, tmp_path / "out")

    def test_older_engines_stay_if_new_ones_fail(self, bundle: Path, engines: Path) -> None:
        before = (engines / MANIFEST_NAME).read_bytes()
        with pytest.raises(EngineError, match=r"cannot build stem: .* workspace"):
            self.build(bundle, engines, workspace_mb=1)
        assert (engines / MANIFEST_NAME).read_bytes() == before
        read_manifest(engines)


class TestLoading:
    """Asked before anything is deserialised: see `check_loadable` and `read_manifest`."""

    def test_what_fits(self, built: Built) -> None:
        check_loadable(built.engines.manifest, trt.__version__, "8.9")
        assert choose_backend(built.engines.folder, built.engines.manifest, None) == "tensorrt-rtx"

    def test_another_architecture(self, built: Built) -> None:
        with pytest.raises(EngineError) as info:
            check_loadable(built.engines.manifest, trt.__version__, "12.0")
        said = str(info.value)
        assert "built for compute capability 8.6, 8.9, and this GPU has 12.0" in said
        precision = built.engines.manifest.precision
        name = built.bundle.folder.name
        command = f"build-engine export/{name} --{precision} --backend tensorrt-rtx --sm 120"
        assert said.endswith(command)

    def test_another_version(self, built: Built) -> None:
        with pytest.raises(EngineError) as info:
            check_loadable(built.engines.manifest, "1.8.0.1", "8.6")
        assert f"{trt.__version__}, and 1.8.0.1 is installed" in str(info.value)
        assert "build-engine export/" in str(info.value)

    def test_another_library(self, built: Built) -> None:
        with pytest.raises(BackendError, match="engines for tensorrt-rtx, which tensorrt cannot"):
            choose_backend(built.engines.folder, built.engines.manifest, "tensorrt")

    def test_a_bundle_is_no_engine(self, built: Built) -> None:
        with pytest.raises(EngineError, match="is a bundle of graphs"):
            check_loadable(built.bundle.manifest, trt.__version__, "8.6")

    def test_the_command_for_what_they_were_built_for(self, built: Built) -> None:
        assert rebuild_command(built.engines.manifest).endswith("--sm 86,89")

    @pytest.mark.parametrize("size", [0, 1000])
    def test_a_truncated_engine(self, engines: Path, size: int) -> None:
        file = engines / "trunk.engine"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(BundleError, match=r"trunk\.engine is not the file that was built"):
            read_manifest(engines)

    def test_a_missing_engine(self, engines: Path) -> None:
        (engines / "head.engine").unlink()
        with pytest.raises(BundleError, match=r"head\.engine is missing; build it again"):
            read_manifest(engines)

    def test_a_foreign_folder(self, engines: Path) -> None:
        (engines / MANIFEST_NAME).unlink()
        with pytest.raises(BundleError, match=r"no engine of ours: it has no manifest\.json"):
            read_manifest(engines)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"backend": "onnxruntime"}, "backend is 'onnxruntime'"),
            ({"architectures": []}, "engine.architectures is"),
            ({"architectures": ["86"]}, "engine.architectures is"),
            ({"graphs_sha256": {}}, "engine.graphs_sha256 is given for"),
            ({"build_s": {"stem": 1.0}}, "engine.build_s is given for"),
            ({"layers": {}}, "engine.layers is given for"),
            ({"version": 11}, "engine.version: Input should be a valid string"),
        ],
    )
    def test_a_tampered_manifest(self, engines: Path, change: dict[str, Any], said: str) -> None:
        path = engines / MANIFEST_NAME
        document = json.loads(path.read_text())
        document["engine"] |= change
        path.write_text(json.dumps(document))
        with pytest.raises(BundleError) as info:
            read_manifest(engines)
        assert said in str(info.value)
        assert "\n" not in str(info.value)

    @pytest.mark.parametrize(("field", "value"), [("precision", "int8"), ("target", "cpu")])
    def test_graphs_that_no_engine_is_built_from(
        self, engines: Path, field: str, value: str
    ) -> None:
        manifest = read_manifest(engines)
        changed: dict[str, Any] = {field: value}
        write_manifest(engines, dataclasses.replace(manifest, **changed))
        with pytest.raises(BundleError, match="engines of graphs in"):
            read_manifest(engines)


class TestGraphs:
    """Graphs of one operation, through the parser and the lint."""

    def parse(self, folder: Path, nodes: list[onnx.NodeProto], spec: StageSpec) -> None:
        types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

        def values(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
            return [
                helper.make_tensor_value_info(
                    s.name, types[s.dtype], [d if d >= 0 else "n" for d in s.shape]
                )
                for s in specs
            ]

        graph = helper.make_graph(nodes, "g", values(spec.inputs), values(spec.outputs))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, folder / "g.onnx")
        parse_stage(trt, new_log(trt), folder / "g.onnx", spec)

    def refused(self, folder: Path, nodes: list[onnx.NodeProto], *specs: TensorSpec) -> str:
        with pytest.raises(EngineError) as info:
            self.parse(folder, nodes, StageSpec("stem", specs[:-1], specs[-1:]))
        assert "\n" not in str(info.value)
        return str(info.value)

    def constant(self, name: str, value: Any) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(np.asarray(value), name)
        return helper.make_node("Constant", [], [name], value=tensor)

    def top_k(self, k: int) -> list[onnx.NodeProto]:
        node = helper.make_node("TopK", ["x", "k"], ["values", "y"], axis=1)
        return [self.constant("k", np.array([k])), node]

    def test_top_k(self, tmp_path: Path) -> None:
        x = TensorSpec("x", "float32", (1, 8000))
        most = StageSpec("stem", (x,), (TensorSpec("y", "int64", (1, 3840)),))
        self.parse(tmp_path, self.top_k(3840), most)
        said = self.refused(tmp_path, self.top_k(3841), x, TensorSpec("y", "int64", (1, 3841)))
        assert "TopK of 3841: TensorRT takes at most 3840" in said

    def test_grid_sample(self, tmp_path: Path) -> None:
        node = helper.make_node("GridSample", ["x", "grid"], ["y"])
        sizes = {"x": (1, 2, 4, 4), "grid": (1, 3, 3, 2), "y": (1, 2, 3, 3)}
        specs = [TensorSpec(name, "float32", shape) for name, shape in sizes.items()]
        assert "GRID_SAMPLE: TensorRT 10.13" in self.refused(tmp_path, [node], *specs)

    def test_non_zero(self, tmp_path: Path) -> None:
        node = helper.make_node("NonZero", ["x"], ["y"])
        x, y = TensorSpec("x", "float32", (3, 4)), TensorSpec("y", "int64", (2, -1))
        assert "parser refuses the graph of stem: NonZero" in self.refused(tmp_path, [node], x, y)

    def test_scatter_with_a_reduction(self, tmp_path: Path) -> None:
        nodes = [
            self.constant("i", np.zeros((1, 4), np.int64)),
            helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], axis=1, reduction="add"),
        ]
        x, y = TensorSpec("x", "float32", (1, 4)), TensorSpec("y", "float32", (1, 4))
        assert "Unsupported reduction" in self.refused(tmp_path, nodes, x, y)

    def test_deformable_convolution(self, tmp_path: Path) -> None:
        nodes = [
            self.constant("w", np.ones((2, 2, 1, 1), np.float32)),
            helper.make_node("DeformConv", ["x", "w", "o"], ["y"], kernel_shape=[1, 1]),
        ]
        sizes = {"x": (1, 2, 4, 4), "o": (1, 2, 4, 4), "y": (1, 2, 4, 4)}
        specs = [TensorSpec(name, "float32", shape) for name, shape in sizes.items()]
        assert "parser refuses the graph of stem: DeformConv" in self.refused(
            tmp_path, nodes, *specs
        )

    @pytest.mark.parametrize(
        ("spec", "said"),
        [
            (TensorSpec("y", "float16", (3, 4)), "y is float32 [3, 4], the manifest says float16"),
            (TensorSpec("y", "float32", (3, 5)), "the manifest says float32 [3, 5]"),
            (TensorSpec("y", "float32", (3,)), "the manifest says float32 [3]"),
            (TensorSpec("z", "float32", (3, 4)), "its outputs are ['y'], the manifest says ['z']"),
        ],
    )
    def test_tensors_that_are_not_the_stages(
        self, tmp_path: Path, spec: TensorSpec, said: str
    ) -> None:
        x, y = TensorSpec("x", "float32", (3, 4)), TensorSpec("y", "float32", (3, 4))
        self.parse(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], StageSpec("stem", (x,), (y,)))
        with pytest.raises(EngineError) as info:
            parse_stage(trt, new_log(trt), tmp_path / "g.onnx", StageSpec("stem", (x,), (spec,)))
        assert said in str(info.value)

    def test_no_graph_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "g.onnx").write_bytes(b"no graph")
        with pytest.raises(EngineError, match="parser refuses the graph of stem: "):
            parse_stage(trt, new_log(trt), tmp_path / "g.onnx", StageSpec("stem", (), ()))
