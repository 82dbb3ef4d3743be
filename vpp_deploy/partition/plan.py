"""From a model, an input size and budgets to stages and their specification."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from vpp_deploy.models.precision import DTYPES, ISLANDS, Island, lower
from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.head import Head
from vpp_deploy.partition.masks import MAX_MASKS, Masks
from vpp_deploy.partition.stages import (
    DenseTrunk,
    PublishedSelector,
    PublishedTrunk,
    Selector,
    Stem,
    Trunk,
)
from vpp_deploy.recipes import Budgets
from vpp_deploy.specs import ColdStart, PipelineSpec, StageSpec, StateEdge, TensorSpec

STRIDES = (4, 8, 16, 32)
VARIES = -1


@dataclass(frozen=True)
class PipelinePlan:
    """Stages as modules, by name, and the specification that a runtime needs."""

    spec: PipelineSpec
    stages: dict[str, nn.Module]

    def stage(self, name: str) -> StageSpec:
        """The specification of one stage."""
        return next(stage for stage in self.spec.stages if stage.name == name)


def plan_pipeline(
    model: VppModel,
    input_size: tuple[int, int],
    budgets: Budgets | None,
    track_slots: int | None,
    batch: int = 1,
    precision: str = "fp32",
    target: str = "cpu",
    islands: tuple[Island, ...] = ISLANDS,
) -> PipelinePlan:
    """Cuts `model` for one input size. In half precision its weights are cast, in place.

    Args:
        model: pruned or dense.
        input_size: (H, W), multiples of 32.
        budgets: fixed counts, or None for the published threshold rule (one stream, torch only).
            Ignored for a dense model.
        track_slots: track queries that the head takes; None: any number (torch only).
        batch: streams that are stepped together.
        precision: what the stages compute in, see `lower`; "int8" is made of "fp32".
        target: "gpu" adds the stage that makes masks.
        islands: what stays in float32 in half precision.
    """
    dtype = DTYPES.get(precision, torch.float32)
    config = model.config
    h, w = model.backbone.grid(input_size)
    tokens, width, dim = h * w, config.width, config.head_width
    slots = VARIES if track_slots is None else track_slots
    queries = VARIES if track_slots is None else config.num_queries + track_slots

    def halves(name: str, *shape: int) -> TensorSpec:
        """What the stages hand to each other in the type that they compute in."""
        return TensorSpec(name, str(dtype).removeprefix("torch."), (batch, *shape))

    def floats(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "float32", (batch, *shape))

    def ints(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "int64", (batch, *shape))

    frame = (
        TensorSpec("frames", "uint8", (batch, *input_size, 3)),
        ints("frame_sizes", 2),
    )
    stem_out = (
        halves("tokens", tokens, width),
        halves("pyramid", 21 * tokens // 4, width),
        halves("stride4", config.stem_width, input_size[0] // 4, input_size[1] // 4),
    )
    projected = tuple(
        halves(f"projected{s}", dim, input_size[0] // s, input_size[1] // s) for s in STRIDES
    )
    head_spec = StageSpec(
        "head",
        (
            *projected,
            floats("track_queries", slots, dim),
            TensorSpec("track_valid", "bool", (batch, slots)),
        ),
        (
            floats("class_logits", queries, len(config.classes) + 1),
            floats("mask_logits", queries, input_size[0] // 4, input_size[1] // 4),
            floats("queries", queries, dim),
        ),
    )
    stem_spec = StageSpec("stem", frame, stem_out)
    with torch.no_grad():
        constants = model.backbone.constants(input_size)
    stem, head = Stem(model, (h, w), constants), Head(model)
    if not config.pruned:
        trunk_spec = StageSpec("trunk", stem_out, projected)
        dense = {"stem": stem, "trunk": DenseTrunk(model, (h, w), constants), "head": head}
        spec = PipelineSpec((stem_spec, trunk_spec, head_spec), (), None)
        return _finished(spec, dense, dtype, target, islands)

    published = budgets is None
    k1, k3, k6, k9 = (
        (VARIES,) * 4
        if budgets is None
        else (
            budgets.blocks_1_2,
            budgets.blocks_3_5,
            budgets.blocks_6_8,
            budgets.blocks_9_11,
        )
    )
    flag = (TensorSpec("keep_all", "bool", (1,)),) if published else ()
    memory = (halves("ref_tokens", k3, width), floats("ref_scores", k3), ints("ref_positions", k3))
    next_memory = tuple(TensorSpec(f"next_{t.name}", t.dtype, t.shape) for t in memory)
    selector_spec = StageSpec(
        "selector",
        (stem_out[0], *memory, floats("rank_noise", tokens)),
        (ints("kept_1_2", k1), *flag),
    )
    trunk_spec = StageSpec(
        "trunk",
        (*stem_out, ints("kept_1_2", k1 if k1 == tokens else VARIES), *flag),
        (*projected, *next_memory, ints("kept_6_8", k6), ints("kept_9_11", k9)),
    )
    spec = PipelineSpec(
        (stem_spec, selector_spec, trunk_spec, head_spec),
        tuple(StateEdge(f"next_{t.name}", t.name) for t in memory),
        ColdStart(skip=("selector",), keep="kept_1_2", num_tokens=tokens),
    )
    selector: nn.Module
    trunk: nn.Module
    if published:
        selector = PublishedSelector(model, (h, w), constants)
        trunk = PublishedTrunk(model, (h, w), constants)
    else:
        selector = Selector(model, (h, w), constants)
        trunk = Trunk(model, (h, w), constants, (k3, k6, k9))
    stages: dict[str, nn.Module] = {
        "stem": stem,
        "selector": selector,
        "trunk": trunk,
        "head": head,
    }
    return _finished(spec, stages, dtype, target, islands)


def inspected_plan(plan: PipelinePlan) -> PipelinePlan:
    """The same pipeline, with the mask that each decoder layer receives among the head's outputs.

    Comparisons need them: values are compared under equal masks.
    """
    head, spec = plan.stages["head"], plan.stage("head")
    assert isinstance(head, Head)
    sizes = {t.name: t.shape for t in spec.inputs}
    batch, queries = spec.outputs[0].shape[:2]
    cells = [sizes[f"projected{s}"][2] * sizes[f"projected{s}"][3] for s in (32, 16, 8)]
    masks = tuple(
        TensorSpec(f"attention_mask{i}", "bool", (batch, queries, cells[i % 3]))
        for i in range(head.num_layers)
    )
    shown = dataclasses.replace(spec, outputs=(*spec.outputs, *masks))
    stages = tuple(shown if stage is spec else stage for stage in plan.spec.stages)
    return PipelinePlan(
        dataclasses.replace(plan.spec, stages=stages), {**plan.stages, "head": head.with_masks()}
    )


def _finished(
    spec: PipelineSpec,
    stages: dict[str, nn.Module],
    dtype: torch.dtype,
    target: str,
    islands: tuple[Island, ...],
) -> PipelinePlan:
    """The stages in their precision, and the one that only some targets have."""
    for stage in stages.values():
        lower(stage, dtype, islands)
    if target == "gpu":
        masks = _masks_spec(spec.stages[-1])
        spec = dataclasses.replace(spec, stages=(*spec.stages, masks))
        stages = {**stages, masks.name: Masks()}
    return PipelinePlan(spec, stages)


def _masks_spec(head: StageSpec) -> StageSpec:
    """Its sizes follow the head's, and, in mid-video, the frame's."""
    class_logits, mask_logits, _ = head.outputs
    track_valid = head.inputs[-1]
    batch, num_queries, height, width = mask_logits.shape
    num_masks = min(MAX_MASKS, num_queries)

    def made(name: str, dtype: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, dtype, (batch, num_masks, *shape))

    return StageSpec(
        "masks",
        (
            class_logits,
            mask_logits,
            track_valid,
            TensorSpec("row_weights", "float32", (batch, VARIES, height)),
            TensorSpec("column_weights", "float32", (batch, width, VARIES, 8)),
            TensorSpec("mask_offset", "int64", (1,)),
        ),
        (
            made("mask_queries", "int64"),
            made("mask_bits", "uint8", VARIES, VARIES),
            made("mask_sums", "float32"),
            made("mask_checks", "float32"),
        ),
    )
