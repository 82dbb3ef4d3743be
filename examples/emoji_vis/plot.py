"""Draws a training's curves: `python -m examples.emoji_vis.plot RUN_FOLDER` writes `curves.png`."""

import argparse
import csv
from pathlib import Path

from examples.emoji_vis.schedule import PHASES

_WINDOW = 5
"""Lines of the table that the losses are averaged over."""


def draw_curves(folder: Path) -> Path:
    """Losses above, what validation measured below. Returns the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 8), sharex=True, layout="tight")
    losses = _read(folder / "losses.csv")
    for name in ("loss", "classes", "masks", "dice", "guidance", "ratio"):
        steps, values = losses[name]
        above.plot(steps[_WINDOW - 1 :], _smooth(values), label=name)
    above.set(ylabel="loss", yscale="log")
    validation = _read(folder / "validation.csv")
    for name in ("iou", "class", "found", "tracked", "kept"):
        below.plot(*validation[name], label=name)
    below.set(xlabel="step", ylabel="share, on clips never trained on", ylim=(0, 1))
    end = 0
    for phase in PHASES[:-1]:
        end += phase.steps
        for axes in (above, below):
            axes.axvline(end, color="grey", linestyle=":")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


def _read(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Column to steps and values, where there are any."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: (
            [int(row["step"]) for row in rows if row[name]],
            [float(row[name]) for row in rows if row[name]],
        )
        for name in (rows[0] if rows else {})
    }


def _smooth(values: list[float]) -> list[float]:
    windows = (values[i - _WINDOW : i] for i in range(_WINDOW, len(values) + 1))
    return [sum(window) / _WINDOW for window in windows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.emoji_vis.plot")
    parser.add_argument("folder", type=Path)
    print(draw_curves(parser.parse_args().folder))
