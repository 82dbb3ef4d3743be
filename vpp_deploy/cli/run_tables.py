"""What a run found, in the terminal."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from vpp_deploy.cli.console import note, say, show
from vpp_deploy.errors import printable
from vpp_deploy.runtime.summary import WHOLE_STEP, RunSummary

_KEYS = ("first", "p50", "p90", "max")


def print_one(summary: RunSummary, out: Path) -> None:
    """Where a single video's time went, what was found in it, and what to know of it."""
    title = f"{summary.model} on {summary.video}, {_milliseconds(summary.streams)}"
    table = Table(title=escape(title))
    for column in ("stage", "first frame", "p50", "p90", "max"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, row in summary.latency_ms.items():
        table.add_row(stage, *_cells(row))
    show(table)
    found = ", ".join(f"{n} {name}" for name, n in summary.tracks_by_class.items()) or "none"
    say(f"{summary.frames} frames, {summary.tracks} tracks ({found}); results in {out}/")
    for text in summary.notes:
        note(text)


def print_several(summaries: Sequence[RunSummary], folders: Sequence[Path]) -> None:
    """A line for each video, what to know of them, and what ended those that failed."""
    model, streams = summaries[0].model, summaries[0].streams
    title = f"{model} on {len(summaries)} videos, {_milliseconds(streams)}"
    table = Table(title=escape(title))
    table.add_column("video", overflow="fold")
    for column in ("frames", "tracks", "first step", "p50", "p90", "max"):
        table.add_column(column, justify="right")
    table.add_column("results in", overflow="fold")
    for summary, folder in zip(summaries, folders, strict=True):
        latency = _cells(summary.latency_ms.get(WHOLE_STEP, {}))
        counts = (str(summary.frames), str(summary.tracks))
        table.add_row(escape(summary.video), *counts, *latency, escape(f"{folder}/"))
    show(table)
    frames, tracks = sum(s.frames for s in summaries), sum(s.tracks for s in summaries)
    say(f"{frames} frames, {tracks} tracks in {len(summaries)} videos")
    _print_notes(summaries, folders)
    for summary in summaries:
        if summary.ended_by is not None:
            typer.secho(printable(f"failed: {summary.ended_by}"), err=True, fg="red")


def _print_notes(summaries: Sequence[RunSummary], folders: Sequence[Path]) -> None:
    """Each note once, with the folders of the videos that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for summary, folder in zip(summaries, folders, strict=True):
        for text in summary.notes:
            about.setdefault(text, []).append(f"{folder}/")
    for text, named in about.items():
        note(text if len(named) == len(summaries) else f"{', '.join(named)}: {text}")


def _milliseconds(streams: int) -> str:
    return "milliseconds" if streams == 1 else f"milliseconds a step of {streams} streams"


def _cells(row: dict[str, float | None]) -> list[str]:
    values = (row.get(key) for key in _KEYS)
    return ["-" if value is None else f"{value:.1f}" for value in values]
