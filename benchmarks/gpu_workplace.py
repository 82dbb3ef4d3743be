"""What the models of a GPU benchmark are made from, each thing made once, when it is first needed.

Checkpoints come by formula with calibrated selectors (`checkpoints.py`), bundles in float16 from
them, engines from the bundles. What fails once fails the same way, at once, for everyone after.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.checkpoints import make_checkpoint
from benchmarks.cpu import DENSE, RECIPES
from benchmarks.gpu_acceptance import ask
from benchmarks.gpu_cases import Case, Own
from benchmarks.gpu_torch import DeviceTorchRunner, compile_stages
from vpp_deploy.checkpoints.formula import Size
from vpp_deploy.drift import Bounds
from vpp_deploy.engines.build import build_engines
from vpp_deploy.engines.recipes import EngineRecipe
from vpp_deploy.engines.target import Gpu, choose_target
from vpp_deploy.errors import BackendError, RecipeError
from vpp_deploy.export.bundle import export_bundle
from vpp_deploy.manifests import Manifest, read_manifest
from vpp_deploy.partition.prepare import Prepared, prepare_budgets
from vpp_deploy.runtime.backends import import_tensorrt
from vpp_deploy.runtime.opening import OpenedModel, open_bundle
from vpp_deploy.runtime.probes import run_probe
from vpp_deploy.video.source import Frame

T = TypeVar("T")


class Workplace:
    """Artefacts of one run of the benchmark.

    Attributes:
        device: where PyTorch's rows run.
        out: folder of the artefacts.
        input_size: (H, W) of the padded input.
        frames: what every row is stepped through, again and again.
        bounds: what a correct row may differ by.
    """

    def __init__(
        self,
        device: torch.device,
        out: Path,
        input_size: tuple[int, int],
        video: Path,
        frames: list[Frame],
        bounds: Bounds,
        own: Own | None,
        tell: Callable[[str], None],
    ) -> None:
        """Makes nothing yet.

        Args:
            device: "cuda" or "cpu".
            out: folder of the artefacts.
            input_size: (H, W), multiples of 32.
            video: a file; selectors are calibrated on its first frames.
            frames: of that video.
            bounds: what a correct row may differ by.
            own: what all cases are of; None: weights by formula.
            tell: told what is being done.
        """
        self.device = device
        self.out = out
        self.input_size = input_size
        self.frames = frames
        self.bounds = bounds
        self._own = own
        self._video = video
        self._tell = tell
        self._made: dict[Any, Any] = {}

    def checkpoint(self, case: Case) -> Path:
        """Weights of a case's model."""
        if self._own is not None:
            return self._own.checkpoint
        path = self.out / f"{case.model}-{self._size}.safetensors"
        size: Size = case.model if case.kind == DENSE else case.shape  # type: ignore[assignment]

        def make() -> Path:
            self._tell(f"making weights for {case.model}")
            make_checkpoint(path, size, self.recipe(case.single), self._video, self.input_size)
            return path

        return self._once(path, make)

    def recipe(self, case: Case) -> Path:
        """The case's recipe: one of `export/`, or a copy of it for another batch.

        Raises:
            RecipeError: it has no line for its batch.
        """
        own = self._own.recipe if self._own is not None else RECIPES / f"{case.model}.toml"
        if case.batch == 1:
            return own
        text, count = re.subn(r"(?m)^batch = 1$", f"batch = {case.batch}", own.read_text())
        if count != 1:
            raise RecipeError(f"{own} has no line `batch = 1` to change; add it to its [input]")
        path = self.out / f"{case.model}-b{case.batch}.toml"
        path.write_text(text)
        return path

    def prepared(self, case: Case, precision: str) -> Prepared:
        """A model of one's own, cut for GPUs."""
        return prepare_budgets(
            self.checkpoint(case), self.recipe(case), self.input_size, precision, "gpu"
        )

    def bundle(self, case: Case) -> Path:
        """The case's graphs in float16."""
        folder = self._bundle_folder(case)

        def make() -> Path:
            prepared = self.prepared(case, "fp16")
            return export_bundle(
                prepared, folder, progress=lambda step: self._tell(f"{case.name}: {step}")
            ).folder

        return self._once(folder, make)

    def manifest(self, case: Case) -> Manifest | None:
        """Of the case's bundle; None if nobody has needed that yet, or it could not be made."""
        made = self._made.get(self._bundle_folder(case))
        return read_manifest(made) if isinstance(made, Path) else None

    def engines(self, case: Case, backend: str) -> Path:
        """Engines of the case's bundle.

        Raises:
            BackendError: the library is not here, or does not accept this GPU.
        """
        folder = self.out / backend / self.bundle(case).name

        def make() -> Path:
            answer = self.acceptance(backend)
            if not answer["accepted"]:
                raise BackendError(f"{backend} does not accept this GPU: {answer['answer']}")
            found = run_probe("gpu")
            first = found["gpus"][0]
            gpu = Gpu(first["name"], first["architecture"], found.get("driver"))
            target = choose_target(backend, (gpu.architecture,), gpu)
            trt = import_tensorrt(backend)
            self._tell(f"{case.name}: building engines with {backend}")
            return build_engines(trt, self.bundle(case), folder, target, EngineRecipe()).folder

        return self._once(folder, make)

    def acceptance(self, backend: str) -> dict[str, Any]:
        """Whether a TensorRT accepts this GPU, see `gpu_acceptance.ask`."""
        return self._once(("acceptance", backend), lambda: ask(backend))

    def in_pytorch(
        self, prepared: Prepared, name: str, compile_mode: str | None = None
    ) -> Callable[[bool], OpenedModel]:
        """From whether it is to be timed, to the model's stages in PyTorch on the device."""
        compiled = None
        if compile_mode is not None:
            compiled = compile_stages(prepared.plan, self.device, compile_mode)

        def opened(timed: bool) -> OpenedModel:
            runner = DeviceTorchRunner(prepared.plan, self.device, compiled, timed=timed)
            budgets = prepared.budgets
            return OpenedModel(
                name=name,
                kind=f"stages on PyTorch ({self.device})",
                runner=runner,
                classes=prepared.model.config.classes,
                budgets=None if budgets is None else dataclasses.astuple(budgets),
                sha256=prepared.checkpoint.sha256,
                operations=None,
                threads=None,
            )

        return opened

    def exact(self, case: Case) -> OpenedModel:
        """The case's model with one stream in fp32 on the device: what fp16 is compared with."""
        single = case.single

        def make() -> OpenedModel:
            return self.in_pytorch(self.prepared(single, "fp32"), f"fp32 on {self.device}")(False)

        return self._once(("exact", single), make)

    def on_cpu(self, case: Case) -> OpenedModel:
        """The case's graphs with one stream in ONNX Runtime on the CPU."""
        single = case.single
        return self._once(("cpu", single), lambda: open_bundle(self.bundle(single)))

    def release(self) -> None:
        """Lets go of the models that others were compared with; files stay."""
        for key in [k for k in self._made if isinstance(k, tuple) and k[0] in ("exact", "cpu")]:
            del self._made[key]

    def _bundle_folder(self, case: Case) -> Path:
        return self.out / f"{case.model}-{self._size}-b{case.batch}-fp16"

    @property
    def _size(self) -> str:
        return f"{self.input_size[0]}x{self.input_size[1]}"

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._made:
            try:
                self._made[key] = make()
            except Exception as error:
                self._made[key] = error
        made: T = self._made[key]
        if isinstance(made, Exception):
            raise made.with_traceback(None)
        return made
