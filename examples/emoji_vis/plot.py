"""Draws a training's curves: `python -m examples.emoji_vis.plot RUN_FOLDER` writes `curves.png`."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from examples.emoji_vis.commands import command
from examples.emoji_vis.schedule import PHASES
from vpp_deploy.errors import VppDeployError
from vpp_deploy.files import written_aside

_LOSSES = ("loss", "classes", "masks", "dice", "guidance", "ratio")
_MEASURED = ("iou", "class", "found", "tracked", "kept")

_WINDOW = 5
"""Lines of the table that the losses are averaged over."""


def draw_curves(folder: Path) -> Path:
    """Losses above, what validation measured below. Returns the picture's path.

    Raises:
        VppDeployError: a table is missing, empty, or none that a training writes.
    """
    import matplotlib

    losses = _read(folder / "losses.csv", _LOSSES)
    validation = _read(folder / "validation.csv", _MEASURED)

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 8), sharex=True, layout="tight")
    for name in _LOSSES:
        steps, values = losses[name]
        above.plot(steps[_WINDOW - 1 :], _smooth(values), label=name)
    above.set(ylabel="loss", yscale="log")
    for name in _MEASURED:
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
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
    pyplot.close(figure)
    return path


def _read(path: Path, names: Sequence[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Column to steps and values, where there are any."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise VppDeployError(f"{path} has no line yet; wait until the training has written one")
        return {
            name: (
                [int(row["step"]) for row in rows if row[name]],
                [float(row[name]) for row in rows if row[name]],
            )
            for name in names
        }
    except OSError as error:
        raise VppDeployError(
            f"{path} cannot be read ({error.strerror}); give the folder of a training, which "
            "writes it as it goes on"
        ) from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise VppDeployError(f"{path} is no table that a training writes ({error})") from error


def _smooth(values: list[float]) -> list[float]:
    windows = (values[i - _WINDOW : i] for i in range(_WINDOW, len(values) + 1))
    return [sum(window) / _WINDOW for window in windows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.emoji_vis.plot")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with command():
        print(draw_curves(arguments.folder))
