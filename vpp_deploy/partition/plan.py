"""From a model, an input size and budgets to stages and their specification."""

from dataclasses import dataclass

import torch
from torch import nn

from vpp_deploy.models.vpp import VppModel
from vpp_deploy.partition.head import Head
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


def plan_pipeline(
    model: VppModel,
    input_size: tuple[int, int],
    budgets: Budgets | None,
    track_slots: int | None,
    batch: int = 1,
) -> PipelinePlan:
    """Cuts `model` for one input size.

    Args:
        model: pruned or dense.
        input_size: (H, W), multiples of 32.
        budgets: fixed counts, or None for the published threshold rule (one stream, torch only).
            Ignored for a dense model.
        track_slots: track queries that the head takes; None: any number (torch only).
        batch: streams that are stepped together.
    """
    config = model.config
    h, w = model.backbone.grid(input_size)
    tokens, width, dim = h * w, config.width, config.head_width
    slots = VARIES if track_slots is None else track_slots
    queries = VARIES if track_slots is None else config.num_queries + track_slots

    def floats(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "float32", (batch, *shape))

    def ints(name: str, *shape: int) -> TensorSpec:
        return TensorSpec(name, "int64", (batch, *shape))

    frame = (
        TensorSpec("frames", "uint8", (batch, *input_size, 3)),
        ints("frame_sizes", 2),
    )
    stem_out = (
        floats("tokens", tokens, width),
        floats("pyramid", 21 * tokens // 4, width),
        floats("stride4", config.stem_width, input_size[0] // 4, input_size[1] // 4),
    )
    projected = tuple(
        floats(f"projected{s}", dim, input_size[0] // s, input_size[1] // s) for s in STRIDES
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
        return PipelinePlan(PipelineSpec((stem_spec, trunk_spec, head_spec), (), None), dense)

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
    memory = (floats("ref_tokens", k3, width), floats("ref_scores", k3), ints("ref_positions", k3))
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
    return PipelinePlan(spec, {"stem": stem, "selector": selector, "trunk": trunk, "head": head})
