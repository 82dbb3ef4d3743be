"""Comparing a runner with the PyTorch model over a sequence of frames, state fed back.

Decisions are compared as decisions: the share of tokens that both select. Values are compared
under equal decisions: the model then runs with the runner's tokens and the runner's attention
masks, because a score or a mask logit within rounding of its threshold would otherwise turn a
difference of 1e-6 into another frame, and say nothing of the graphs.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vpp_deploy.checkpoints.load import build_model
from vpp_deploy.manifests import Manifest
from vpp_deploy.models.backbone import GridConstants, Selection, TrunkOutput
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.tokens import all_positions
from vpp_deploy.models.vpp import VppModel, normalise
from vpp_deploy.parity_report import OutputDifference, ParityReport
from vpp_deploy.partition.plan import inspected_plan
from vpp_deploy.partition.prepare import Prepared
from vpp_deploy.runtime.onnx_runner import OnnxRunner, import_onnxruntime
from vpp_deploy.runtime.runner import PipelineRunner
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.torch_runner import TorchRunner
from vpp_deploy.video.source import Frame, open_source
from vpp_deploy.video.synthetic import moving_scene

SHIPPED_HEAD = "head as shipped"
MIN_FRAMES = 5  # cold, warm on a cold frame, warm on a warm one; after a reset, cold and warm


def compare(
    model: VppModel,
    counts: tuple[int, int, int] | None,
    runner: PipelineRunner,
    frames: Iterable[list[Frame]],
    reset_at: int | None = None,
    precision: str = "fp32",
) -> ParityReport:
    """Steps `runner` over `frames`, shadowed by `model`.

    The last frame's head is run once more with half of the track slots filled: a scene in which
    nothing is found would leave them empty.

    Args:
        model: the reference; its own state is fed back, not the runner's.
        counts: budgets in blocks 3-5, 6-8, 9-11; None for a dense model.
        runner: its head must show its attention masks (`attention_mask0`, ...).
        frames: one list of frames, one for each stream, per step.
        reset_at: all streams are reset before this step.
        precision: of the runner, which decides how far it may be off.
    """
    session = VideoSession(runner)
    shadow = _Shadow(model, counts, runner)
    report = ParityReport(precision=precision)
    for step, batch in enumerate(frames):
        if step == reset_at:
            session.reset()
            shadow.memory = None
        session.step_batch(batch)
        shadow.step(report)
        report.frames += 1
    shape = runner.spec.tensor("track_queries").shape
    queries = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    runner.upload("track_queries", queries)
    runner.upload("track_valid", np.tile(np.arange(shape[1]) < shape[1] / 2, (shape[0], 1)))
    runner.run("head")
    shadow.head(report)
    if counts is not None and "kept_1_2" not in report.equal_tokens:
        report.gaps.append("no frame followed another, so Map-SM was not compared")
    return report


class BundleVerifier:
    """What `export --verify` calls on a staged bundle, before it appears under its name.

    Attributes:
        report: of the comparison, once it has run.
    """

    def __init__(
        self, prepared: Prepared, num_frames: int | None, like: Path | None = None
    ) -> None:
        """Takes the model that was exported.

        Args:
            prepared: model and plan.
            num_frames: to compare, at least `MIN_FRAMES`; all streams are reset before the last
                two. None: the graphs are loaded, and nothing is compared.
            like: video to take them from; None makes moving scenes.

        Raises:
            BackendError: ONNX Runtime is not installed.
        """
        import_onnxruntime()
        self.report: ParityReport | None = None
        self._prepared = prepared
        # Not the sampler that was exported: an error of it would be in both.
        assert prepared.recipe is not None
        self._model = build_model(prepared.checkpoint, prepared.recipe.model)
        self._num_frames = num_frames
        self._like = like

    def __call__(
        self, folder: Path, manifest: Manifest, inspected: Manifest
    ) -> dict[str, object] | None:
        """Loads the bundle in `folder` as a runtime would, and compares its graphs with the model.

        Of a bundle in bf16, which ONNX Runtime cannot run on the CPU, the modules that its graphs
        were exported from are compared instead.

        Raises:
            BundleError: ONNX Runtime cannot load a graph, or its tensors are not the manifest's.
            ExportError: something is outside the tolerance.
        """
        graphs = manifest.precision != "bf16"
        shipped = OnnxRunner(folder, manifest) if graphs else None
        if self._num_frames is None:
            return None
        budgets = self._prepared.budgets
        counts = None if budgets is None else dataclasses.astuple(budgets)[1:]
        # ONNX Runtime has no bfloat16 on the CPU: what can be compared is the graphs' source.
        runner: PipelineRunner = (
            OnnxRunner(folder, inspected)
            if graphs
            else TorchRunner(inspected_plan(self._prepared.plan))
        )
        frames = self._frames(manifest, self._num_frames)
        reset_at = self._num_frames - 2
        report = compare(self._model, counts, runner, frames, reset_at, manifest.precision)
        if report.frames < self._num_frames:
            report.gaps.append(
                f"{self._like} has frames for {report.frames} steps, {self._num_frames} were to be "
                "compared"
            )
        report.runner = "ONNX Runtime" if graphs else f"PyTorch in {manifest.precision}"
        if shipped is not None:
            _compare_heads(report, shipped, runner)
        self.report = report
        report.check()
        return report.summary()

    def _frames(self, manifest: Manifest, num_frames: int) -> Iterator[list[Frame]]:
        if self._like is None:
            size = manifest.preprocessing.input_size
            scenes = [moving_scene(size, num_frames, seed) for seed in range(manifest.batch)]
            yield from (list(frames) for frames in zip(*scenes, strict=True))
            return
        with open_source(self._like, stop=num_frames + manifest.batch - 1) as source:
            # Each stream is a frame ahead of the one before it, so that none sees what another
            # sees: streams that get mixed up do not go unnoticed.
            window: deque[Frame] = deque(maxlen=manifest.batch)
            for frame in source:
                window.append(frame)
                if len(window) == manifest.batch:
                    yield list(window)


def _compare_heads(
    report: ParityReport, shipped: PipelineRunner, inspected: PipelineRunner
) -> None:
    """The head that ships lists no masks as outputs; it must give what the compared one gives."""
    difference = report.outputs.setdefault(SHIPPED_HEAD, OutputDifference())
    stage = next(stage for stage in shipped.spec.stages if stage.name == "head")
    for spec in stage.inputs:
        shipped.upload(spec.name, inspected.download(spec.name))
    shipped.run("head")
    for spec in stage.outputs:
        difference.add(shipped.download(spec.name), inspected.download(spec.name))


class _Shadow:
    """Repeats in PyTorch the frame that a runner has just done, under its decisions."""

    def __init__(
        self, model: VppModel, counts: tuple[int, int, int] | None, runner: PipelineRunner
    ) -> None:
        self.memory: TokenMemory | None = None
        self._model = model
        self._counts = counts
        self._runner = runner
        self._layers = model.config.decoder_layers
        frames = runner.spec.tensor("frames").shape
        self._input_size = (frames[1], frames[2])
        self._features: tuple[Tensor, ...] = ()
        self._constants: GridConstants = model.backbone.constants(self._input_size)

    @torch.inference_mode()
    def step(self, report: ParityReport) -> None:
        """Compares every stage's outputs of the runner's last frame."""
        backbone, grid = self._model.backbone, self._model.backbone.grid(self._input_size)
        image = normalise(self._get("frames"), self._get("frame_sizes"))
        stem = backbone.stem(image, self._constants)
        for name, value in zip(("tokens", "pyramid", "stride4"), stem, strict=True):
            self._value(report, name, value)
        keep = None
        if self._counts is not None:
            if self.memory is None:
                keep = all_positions(*stem.tokens_BNC.shape[:2])
            else:
                noise = self._get("rank_noise")
                chosen = backbone.select(stem.tokens_BNC, self.memory, self._constants, grid, noise)
                keep = self._get("kept_1_2")
                _share(report, "kept_1_2", keep, chosen)
        trunk = backbone.trunk(
            stem.tokens_BNC, stem.pyramid_BMC, keep, self._selection(), self._constants, grid
        )
        self._features = backbone.features(
            trunk.tokens_BNC, trunk.pyramid_BMC, stem.stride4_BSHW, grid
        )
        blocks = self._model.panoptic_head.pixel_decoder.projections
        for stride, block, feature in zip((4, 8, 16, 32), blocks, self._features, strict=True):
            self._value(report, f"projected{stride}", block.conv(feature))
        self._memory(report, trunk)
        self.head(report)

    def _selection(self) -> Selection:
        if self._counts is None:
            return Selection()
        # The runner's state has moved on: what was `next_ref_positions` is `ref_positions` now.
        names = ("ref_positions", "kept_6_8", "kept_9_11")
        kept_3_5, kept_6_8, kept_9_11 = (self._get(name) for name in names)
        return Selection(self._counts, forced=(kept_3_5, kept_6_8, kept_9_11))

    def _memory(self, report: ParityReport, trunk: TrunkOutput) -> None:
        self.memory = trunk.memory
        if trunk.memory is None:
            return
        self._value(report, "ref_tokens", trunk.memory.tokens_BKC)
        self._value(report, "ref_scores", trunk.memory.scores_BK)
        names = ("ref_positions", "kept_6_8", "kept_9_11")
        shown = ("kept_3_5", "kept_6_8", "kept_9_11")
        for name, label, chosen in zip(names, shown, trunk.kept, strict=True):
            _share(report, label, self._get(name), chosen)

    @torch.inference_mode()
    def head(self, report: ParityReport) -> None:
        """Compares the head's outputs on the last frame's features."""
        masks = [self._get(f"attention_mask{i}") for i in range(self._layers)]
        valid = self._get("track_valid")
        out = self._model.panoptic_head(self._features, self._get("track_queries"), valid, masks)
        # A slot without a track has rows of its own that nobody reads.
        static = torch.ones(valid.shape[0], self._model.config.num_queries, dtype=torch.bool)
        read = torch.cat([static, valid], dim=1)
        self._value(report, "class_logits", out.class_logits_BQK, read)
        self._value(report, "queries", out.queries_BQD, read)
        mask_logits = out.mask_embeds_BQD @ out.mask_features_BDHW.flatten(2)
        mask_logits = mask_logits.unflatten(2, out.mask_features_BDHW.shape[2:])
        self._value(report, "mask_logits", mask_logits, read)

    def _get(self, name: str) -> Tensor:
        # A copy: inference tensors must not share memory with buffers that a runner rewrites.
        value = torch.from_numpy(self._runner.download(name).copy())
        return value.float() if value.is_floating_point() else value

    def _value(
        self, report: ParityReport, name: str, expected: Tensor, rows: Tensor | None = None
    ) -> None:
        got = self._get(name)
        if rows is not None:
            got, expected = got[rows], expected[rows]
        _add(report, name, got, expected)


def _add(report: ParityReport, name: str, got: Tensor, expected: Tensor) -> None:
    difference = report.outputs.setdefault(name, OutputDifference())
    difference.add(got.numpy(), expected.numpy())


def _share(report: ParityReport, name: str, got: Tensor, chosen: Tensor) -> None:
    shares = [
        np.intersect1d(g, c).size / len(g) for g, c in zip(got.numpy(), chosen.numpy(), strict=True)
    ]
    report.equal_tokens[name] = min([report.equal_tokens.get(name, 1.0), *shares])
