"""The head against the recorded runs, whose backbone outputs are its inputs.

The copy in tests/data/parity samples those features, so this needs the originals. The whole model
is compared with the copy elsewhere.
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
    num_frames,
)
from tests.unit.models.formula_head import KEY_PREFIX, formula_head, mask_logits
from vpp_deploy.checkpoints.formula import Size
from vpp_deploy.models.deformable import Sampler, sample_gather, sample_grid
from vpp_deploy.models.head import HeadOutput

SHARED = Path(__file__).parents[4] / "shared"
TOLERANCE = 2e-3
"""What the recordings' README calls generous."""
TIGHT = 2e-4
"""Ten times the float32 rounding seen here, on values up to 10."""
SIZES: dict[str, Size] = {VPP_TINY: "tiny", DENSE_TINY: "dense-tiny"}
MANIFESTS = {VPP_TINY: "vpp_tiny", DENSE_TINY: "dense_tiny"}

pytestmark = pytest.mark.skipif(
    not (SHARED / "parity").is_dir(), reason="needs the original recordings beside the repository"
)


class _Run(NamedTuple):
    output: HeadOutput
    memory: tuple[Tensor, ...]
    class_logits_of_layers: Tensor


def _recording(name: str) -> Recording:
    with np.load(SHARED / "parity" / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


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
        carried = recording.get(f"f{t}/track_queries_in", np.zeros((0, 256), np.float32))
        tracks = torch.from_numpy(carried)[None]
        valid = torch.ones(tracks.shape[:2], dtype=torch.bool)
        frame_masks = [torch.from_numpy(masks[f"f{t}/attn_mask{i}"])[None] for i in range(9)]
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
