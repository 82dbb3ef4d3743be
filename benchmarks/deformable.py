"""One deformable attention layer of the pixel decoder in ONNX Runtime, by how it samples.

    python -m benchmarks.deformable [--size 544x960] [--threads N] [--repeat N]

The same layer is exported with each sampler and run in turn on the same input; what is compared
with is GridSample, which the exports refuse.
"""

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from torch import Tensor, nn

from benchmarks.environment import describe
from vpp_deploy.cli.arguments import parse_size
from vpp_deploy.export.graphs import export_graph
from vpp_deploy.models.deformable import (
    LevelSizes,
    MultiScaleDeformableAttention,
    Sampler,
    sample_deform_conv,
    sample_gather,
    sample_grid,
)
from vpp_deploy.models.positions import cell_centres
from vpp_deploy.runtime.onnx_runner import open_sessions
from vpp_deploy.specs import StageSpec, TensorSpec

SAMPLERS: dict[str, Sampler] = {
    "GridSample": sample_grid,
    "gather": sample_gather,
    "DeformConv": sample_deform_conv,
}
WIDTH, HEADS, POINTS = 256, 8, 4


class _Layer(nn.Module):
    def __init__(self, sizes: LevelSizes, sampler: Sampler) -> None:
        super().__init__()
        self.sizes = sizes
        self.centres = cell_centres(sizes)
        torch.manual_seed(0)
        self.attention = MultiScaleDeformableAttention(WIDTH, HEADS, len(sizes), POINTS, sampler)
        # Trained offsets reach a few cells.
        nn.init.normal_(self.attention.sampling_offsets.bias, std=3.0)

    def forward(self, query_BSC: Tensor) -> Tensor:
        """Self attention of the levels' cells."""
        attended: Tensor = self.attention(query_BSC, query_BSC, self.centres, self.sizes)
        return attended


def main(
    size: Annotated[str, typer.Option(metavar="HxW", help="Of the input, in pixels.")] = "544x960",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: one per core.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Measured turns.")] = 10,
) -> None:
    """Prints each sampler's median and its ratio to GridSample's, turn by turn."""
    height, width = parse_size(size)
    sizes = tuple((height // stride, width // stride) for stride in (32, 16, 8))
    num_cells = sum(h * w for h, w in sizes)
    shape = (1, num_cells, WIDTH)
    stage = StageSpec(
        "attention",
        (TensorSpec("query", "float32", shape),),
        (TensorSpec("attended", "float32", shape),),
    )
    query = np.random.default_rng(0).standard_normal(shape, np.float32)
    outputs, times_ms = {}, defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {name: Path(folder) / f"{name}.onnx" for name in SAMPLERS}
        for name, sampler in SAMPLERS.items():
            layer = _Layer(sizes, sampler).eval().requires_grad_(False)
            onnx.save(export_graph(layer, stage), graphs[name])
        sessions = open_sessions(graphs, threads)
        for turn in range(repeat + 1):
            for name, session in sessions.items():
                start = time.perf_counter()
                (outputs[name],) = session.run(None, {"query": query})
                if turn:
                    times_ms[name].append((time.perf_counter() - start) * 1e3)
    print("; ".join(f"{key}: {value}" for key, value in describe().items()))
    print(f"{num_cells} queries, {HEADS} heads, {len(sizes)} levels, {POINTS} points, {size}")
    print("| sampling | ms (p50) | / GridSample | largest difference |")
    print("|---|---|---|---|")
    reference = "GridSample"
    for name, values in times_ms.items():
        ratio = np.median(np.array(values) / np.array(times_ms[reference]))
        difference = np.abs(outputs[name] - outputs[reference]).max()
        print(f"| {name} | {np.median(values):.1f} | {ratio:.2f} | {difference:.1e} |")


if __name__ == "__main__":
    typer.run(main)
