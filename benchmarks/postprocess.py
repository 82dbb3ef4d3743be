"""Post-processing and tracking alone, beside the public code's way, on made predictions.

    python -m benchmarks.postprocess

Two kinds of frame: a few compact instances, as a trained model finds them, and masks of noise over
the whole frame from most of the queries, as weights by formula give. Both ways get the same
predictions in turns; what is reported is the median of the times and of the ratios.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import environment
from benchmarks.reference_tracking import ReferenceTracker, find_instances
from vpp_deploy.runtime.postprocess import PostprocessSettings, detect
from vpp_deploy.runtime.tracker import Tracker

NUM_QUERIES, NUM_CLASSES, WIDTH = 100, 40, 256
INPUT_SIZE, RESIZED, FRAME_SIZE = (544, 960), (540, 960), (720, 1280)
HEIGHT, LENGTH = INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4


@dataclass(frozen=True)
class Predictions:
    """The head's output for a frame without tracks, as `detect` takes it."""

    class_logits: NDArray[np.float32]
    mask_logits: NDArray[np.float32]


def few_compact(rng: np.random.Generator) -> Predictions:
    """Four ellipses of a tenth to a third of the frame's width, one query each."""
    y, x = np.mgrid[:HEIGHT, :LENGTH]
    features = np.zeros((WIDTH, HEIGHT, LENGTH), np.float32)
    for i in range(4):
        radii = LENGTH * rng.uniform(0.05, 0.16, 2)
        distance = np.hypot(
            (y - rng.uniform(0.2, 0.8) * HEIGHT) / radii[0],
            (x - (0.2 + 0.2 * i) * LENGTH) / radii[1],
        )
        features[i] = 12 * (1 - distance)
    scores = np.zeros(NUM_QUERIES)
    scores[:4] = rng.uniform(0.6, 0.95, 4)
    return _predictions(rng, scores, np.eye(NUM_QUERIES, WIDTH), features)


def much_noise(rng: np.random.Generator) -> Predictions:
    """Eighty masks of smooth noise, variations of twenty; about half of each frame is inside."""
    noise = rng.standard_normal((WIDTH, HEIGHT, LENGTH)).astype(np.float32)
    features = np.array([cv2.GaussianBlur(channel, (0, 0), 1.5) for channel in noise])
    embeds = np.repeat(rng.standard_normal((NUM_QUERIES // 5, WIDTH)), 5, axis=0)
    embeds += 0.5 * rng.standard_normal(embeds.shape)
    scores = np.where(np.arange(NUM_QUERIES) % 5 < 4, rng.uniform(0.32, 0.9, NUM_QUERIES), 0)
    return _predictions(rng, scores, 0.7 * embeds, features)


def _predictions(
    rng: np.random.Generator,
    scores: NDArray[np.float64],
    embeds: NDArray[np.float64],
    features: NDArray[np.float32],
) -> Predictions:
    """One class of each query has the given score, the background the rest."""
    probabilities = np.full((NUM_QUERIES, NUM_CLASSES + 1), 1e-6)
    probabilities[np.arange(NUM_QUERIES), rng.integers(0, NUM_CLASSES, NUM_QUERIES)] += scores
    probabilities[:, -1] += 1 - scores
    mask_logits = np.tensordot(embeds.astype(np.float32), features, 1)
    return Predictions(np.log(probabilities).astype(np.float32), mask_logits)


def ours(made: Predictions, queries: NDArray[np.float32], threads: int) -> tuple[float, float, int]:
    """Milliseconds of post-processing and of tracking, and the number of tracks."""
    settings = PostprocessSettings(threads=threads)
    start = time.perf_counter()
    found = detect(
        made.class_logits,
        made.mask_logits,
        np.zeros(0, np.bool_),
        INPUT_SIZE,
        RESIZED,
        FRAME_SIZE,
        settings,
    )
    middle = time.perf_counter()
    tracks = Tracker(slots=None).update(0, found, queries).tracks
    end = time.perf_counter()
    return (middle - start) * 1e3, (end - middle) * 1e3, len(tracks)


@torch.inference_mode()
def reference(made: Predictions, queries: NDArray[np.float32]) -> tuple[float, float, int]:
    """The same for the public code's way."""
    logits, class_logits = torch.from_numpy(made.mask_logits), torch.from_numpy(made.class_logits)
    start = time.perf_counter()
    found = find_instances(class_logits, logits, NUM_QUERIES, INPUT_SIZE, RESIZED, FRAME_SIZE)
    middle = time.perf_counter()
    tracks = ReferenceTracker(WIDTH).update(0, found, torch.from_numpy(queries))
    end = time.perf_counter()
    return (middle - start) * 1e3, (end - middle) * 1e3, len(tracks)


def measure(
    kind: Callable[[np.random.Generator], Predictions], threads: int, repetitions: int
) -> list[str]:
    """A row of the table, after one repetition that is not counted."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    rng = np.random.default_rng(0)
    made = kind(rng)
    queries = rng.standard_normal((NUM_QUERIES, WIDTH)).astype(np.float32)
    times, ratios = [], []
    for repetition in range(repetitions + 1):
        theirs, mine = reference(made, queries), ours(made, queries, threads)
        assert theirs[2] == mine[2], f"{theirs[2]} tracks by the reference, {mine[2]} by ours"
        if repetition > 0:
            times.append([*theirs[:2], *mine[:2]])
            ratios.append(sum(theirs[:2]) / sum(mine[:2]))
    medians = [f"{median(column):.1f}" for column in zip(*times, strict=True)]
    name = kind.__name__.replace("_", " ")
    return [name, str(threads), str(mine[2]), *medians, f"{median(ratios):.1f}"]


def main(
    repetitions: Annotated[int, typer.Option(min=1, help="Of each kind of frame.")] = 10,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="May be repeated.")] = None,
) -> None:
    """Time both ways on 1280x720 frames from a 544x960 input."""
    table = Table(title="post-processing + tracker, milliseconds, medians")
    columns = ("reference", "+ tracker", "vpp-deploy", "+ tracker")
    for column in ("frame", "threads", "tracks", *columns, "times as fast"):
        table.add_column(column, justify="left" if column == "frame" else "right")
    for kind in (few_compact, much_noise):
        for number in threads or (1, 2):
            table.add_row(*measure(kind, number, repetitions))
    Console().print(table)
    for key, value in environment.describe().items():
        print(f"- {key}: {value}")


if __name__ == "__main__":
    typer.run(main)
