"""The head against the recorded runs, whose backbone outputs are its inputs.

The copy in tests/data/parity samples those features, so most of this needs the originals. With the
copy alone, the whole model makes the features.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity_data import (
    DENSE_TINY,
    RECORDINGS,
    VPP_TINY,
    Recording,
    load_attention_masks,
    load_recording,
    num_frames,
    sample,
)
from tests.unit.models.formula_head import KEY_PREFIX, formula_head, mask_logits
from vpp_deploy.checkpoints.formula import (
    Size,
    formula_config,
    formula_tensors,
    published_shapes,
)
from vpp_deploy.checkpoints.keys import canonical_key, is_unused
from vpp_deploy.models.deformable import Sampler, sample_gather, sample_grid
from vpp_deploy.models.head import HeadOutput
from vpp_deploy.models.selectors import TokenMemory
from vpp_deploy.models.vpp import VppModel

SHARED = Path(__file__).parents[4] / "shared"
TOLERANCE = 2e-3
"""What the recordings' README calls generous."""
TIGHT = 2e-4
"""Ten times the float32 rounding seen here, on values up to 10."""
SIZES: dict[str, Size] = {VPP_TINY: "tiny", DENSE_TINY: "dense-tiny"}
MANIFESTS = {VPP_TINY: "vpp_tiny", DENSE_TINY: "dense_tiny"}

needs_originals = pytest.mark.skipif(
    not (SHARED / "parity").is_dir(), reason="needs the original recordings beside the repository"
)


class _Run(NamedTuple):
    output: HeadOutput
    memory: tuple[Tensor, ...]
    class_logits_of_layers: Tensor


def _recording(name: str) -> Recording:
    with np.load(SHARED / "parity" / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def _track_queries(recording: Recording, t: int) -> Tensor:
    carried = recording.get(f"f{t}/track_queries_in", np.zeros((0, 256), np.float32))
    return torch.from_numpy(carried)[None]


def _frame_masks(masks: Recording, t: int) -> list[Tensor]:
    return [torch.from_numpy(masks[f"f{t}/attn_mask{i}"])[None] for i in range(9)]


def _run_frames(name: str, recording: Recording, sampler: Sampler, forced: bool) -> Iterator[_Run]:
    """The head on each frame's recorded features and track queries."""
    masks = load_attention_masks(name)
    head = formula_head(SIZES[name], sampler)
    decoder = head.transformer_decoder
    layers: list[Tensor] = []
    memories: list[tuple[Tensor, ...]] = []
    head.pixel_decoder.register_forward_hook(lambda module, inputs, out: memories.append(out[1]))
    decoder.layers[0].register_forward_pre_hook(lambda module, inputs: layers.append(inputs[0]))
    for layer in decoder.layers:
        layer.register_forward_hook(lambda module, inputs, out: layers.append(out))
    for t in range(num_frames(recording)):
        layers.clear()
        features = [torch.from_numpy(recording[f"f{t}/feat{i}"])[None] for i in range(1, 5)]
        tracks = _track_queries(recording, t)
        valid = torch.ones(tracks.shape[:2], dtype=torch.bool)
        frame_masks = _frame_masks(masks, t)
        output = head(features, tracks, valid, frame_masks if forced else None)
        yield _Run(output, memories[-1], head.cls_embed(decoder.post_norm(torch.cat(layers))))


def _pairs(run: _Run, recording: Recording, t: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, ours, recorded) for whatever frame `t` of the recording holds."""
    ours = {
        "mask_features": run.output.mask_features_BDHW[0],
        "cls_all_layers": run.class_logits_of_layers,
        "mask_logits": mask_logits(run.output)[0],
        "queries": run.output.queries_BQD[0],
    }
    ours |= {f"memory{i}": level[0] for i, level in enumerate(run.memory)}
    for name, tensor in ours.items():
        if f"f{t}/{name}" in recording:
            yield name, tensor, torch.from_numpy(recording[f"f{t}/{name}"]).float()


@needs_originals
@pytest.mark.parametrize("sampler", [sample_grid, sample_gather])
@pytest.mark.parametrize("name", RECORDINGS)
def test_with_recorded_masks(name: str, sampler: Sampler) -> None:
    recording = _recording(name)
    compared: set[str] = set()
    for t, run in enumerate(_run_frames(name, recording, sampler, forced=True)):
        for what, ours, recorded in _pairs(run, recording, t):
            # mask_features are recorded in float16, which alone rounds by up to 1e-3.
            atol = TOLERANCE if what == "mask_features" else TIGHT
            torch.testing.assert_close(ours, recorded, rtol=0, atol=atol)
            compared.add(what)
        torch.testing.assert_close(
            run.output.class_logits_BQK[0], run.class_logits_of_layers[-1], rtol=0, atol=1e-5
        )
    assert len(compared) == 7


@needs_originals
@pytest.mark.parametrize("sampler", [sample_grid, sample_gather])
@pytest.mark.parametrize("name", RECORDINGS)
def test_free_running(name: str, sampler: Sampler) -> None:
    recording, masks = _recording(name), load_attention_masks(name)
    for t, run in enumerate(_run_frames(name, recording, sampler, forced=False)):
        for _, ours, recorded in _pairs(run, recording, t):
            beyond = (ours - recorded).abs() > TOLERANCE
            assert beyond.float().mean() <= 0.01
        for i, mask in enumerate(run.output.attention_masks):
            flipped = mask[0] != torch.from_numpy(masks[f"f{t}/attn_mask{i}"])
            assert flipped.float().mean() <= 0.001


@needs_originals
@pytest.mark.parametrize("name", RECORDINGS)
def test_keys_and_shapes_are_the_published_ones(name: str) -> None:
    manifest = SHARED / "checkpoints" / f"manifest_{MANIFESTS[name]}.tsv"
    published = {}
    for line in manifest.read_text().splitlines()[1:]:
        key, _, shape, _ = line.split("\t")
        if key.startswith(KEY_PREFIX):
            published[key] = tuple(int(side) for side in shape.split(","))
    state = formula_head(SIZES[name]).state_dict()
    assert {KEY_PREFIX + key: tuple(tensor.shape) for key, tensor in state.items()} == published


@pytest.mark.parametrize("name", RECORDINGS)
def test_whole_model_with_recorded_masks(name: str) -> None:
    config = formula_config(SIZES[name])
    model = VppModel(config).eval().requires_grad_(False)
    weights = formula_tensors(published_shapes(config))
    model.load_state_dict(
        {
            canonical_key(key): torch.from_numpy(value)
            for key, value in weights.items()
            if not is_unused(key)
        },
        strict=False,
    )
    recording, masks = load_recording(name), load_attention_masks(name)
    memories: tuple[TokenMemory | None, ...] = (None,)
    for t, frame in enumerate(recording["frames_rgb"]):
        tracks = _track_queries(recording, t)
        output = model(
            torch.from_numpy(frame)[None],
            torch.tensor([frame.shape[:2]]),
            memories,
            tracks,
            torch.ones(tracks.shape[:2], dtype=torch.bool),
            attention_masks=_frame_masks(masks, t),
        )
        memories = output.memories
        pairs = {
            "cls_last_layer": output.head.class_logits_BQK[0],
            "queries": output.head.queries_BQD[0],
            "mask_logits_sample": _sample(mask_logits(output.head)[0]),
        }
        pairs |= {
            f"feat{i}_sample": _sample(level[0]) for i, level in enumerate(output.features, 1)
        }
        for what, ours in pairs.items():
            recorded = torch.from_numpy(recording[f"f{t}/{what}"])
            torch.testing.assert_close(ours, recorded, rtol=0, atol=TIGHT)


def _sample(tensor: Tensor) -> Tensor:
    return torch.from_numpy(sample(tensor.numpy()))
