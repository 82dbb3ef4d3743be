"""Trains the emoji model: `python -m examples.emoji_vis.train RUN_FOLDER [--resume]`.

May be stopped at any time, even by `kill -9`, and goes on with --resume from the last checkpoint
(every three minutes) exactly as if it had never stopped. In the folder: `checkpoint.pt`,
`losses.csv`, `validation.csv`, and of every phase its last state and its product, which `vpp-deploy
export` reads: `stills.safetensors` and `clips.safetensors`, dense, then `sparse.safetensors`, with
selectors. Where any of these is there without a `checkpoint.pt`, nothing is begun: a `kill -9` in
the first minutes can leave `losses.csv`, to be removed.
"""

import argparse
import csv
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import torch
from filelock import FileLock, Timeout
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from examples.emoji_vis.clips import make_batch
from examples.emoji_vis.commands import command, seed, threads
from examples.emoji_vis.learner import Learner, resume, start
from examples.emoji_vis.measure import measure
from examples.emoji_vis.network import save_weights
from examples.emoji_vis.schedule import NUM_STEPS, PHASES, WANTED, phase_at
from examples.emoji_vis.unroll import Pruning
from vpp_deploy.errors import VppDeployError, printable
from vpp_deploy.files import written_aside

_SAVE_EVERY_S = 180
_LOG_EVERY = 50
_VALIDATE_EVERY = 500
_VALIDATION_CLIPS = 16

_STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m examples.emoji_vis.train")
    parser.add_argument("folder", type=Path, help="where everything is written")
    parser.add_argument("--resume", action="store_true", help="go on where a training stopped")
    parser.add_argument("--seed", type=seed, help="of a new training [0]")
    parser.add_argument("--threads", type=threads, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    checkpoint = arguments.folder / "checkpoint.pt"
    if checkpoint.exists() and not arguments.resume:
        parser.error(f"{checkpoint} exists; go on with --resume, or name another folder")
    try:
        probe = torch.zeros(1, device=arguments.device)
        probe.cpu()  # a device such as `meta` holds no values
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {arguments.device} cannot be used here: {printable(str(error))}")
    with command():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(1)
        with _alone(arguments.folder):
            if not checkpoint.exists() and (files := _written(arguments.folder)):
                parser.error(
                    f"{', '.join(map(str, files))} of another training would be overwritten, and "
                    f"there is no {checkpoint.name} to go on from; remove what is listed, or name "
                    "another folder"
                )
            _train(_learner(checkpoint, arguments.seed, probe.device), arguments.folder, checkpoint)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second training out of the folder."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise VppDeployError(
            f"another training is writing into {folder}; wait for it, or name another folder"
        ) from error


def _written(folder: Path) -> list[Path]:
    """What a training writes beside its checkpoint, as far as it is there."""
    names = [f"{table}.csv" for table in COLUMNS]
    names += [f"{phase.name}{suffix}" for phase in PHASES for suffix in (".pt", ".safetensors")]
    return [folder / name for name in names if (folder / name).exists()]


def _learner(checkpoint: Path, seed: int | None, device: torch.device) -> Learner:
    if not checkpoint.exists():
        print(f"note: {checkpoint} is not there yet: a new training", file=sys.stderr)
        return start(seed or 0, device)
    learner = resume(checkpoint, device)
    if seed is not None and seed != learner.seed:
        raise VppDeployError(
            f"{checkpoint} is of seed {learner.seed}, not {seed}; leave --seed out, or name "
            "another folder"
        )
    return learner


def _train(learner: Learner, folder: Path, checkpoint: Path) -> None:
    stopped: list[int] = []
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, lambda n, _: stopped.append(n))
    losses = Table(folder / "losses.csv", learner.step)
    validation = Table(folder / "validation.csv", learner.step)
    lately: list[dict[str, float]] = []
    saved = began = time.monotonic()
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=NUM_STEPS, completed=learner.step)
        while learner.step < NUM_STEPS and not stopped:
            phase, _ = phase_at(learner.step)
            values = learner.advance()
            lately.append(values)
            progress.update(
                task, completed=learner.step, description=f"{phase.name} {values['loss']:.2f}"
            )
            if learner.step % _LOG_EVERY == 0:
                seconds = (time.monotonic() - began) / len(lately)
                # A phase ends where a line does, so all its steps have the same losses.
                means = {name: sum(v[name] for v in lately) / len(lately) for name in values}
                losses.add(learner.step, means | {"seconds": seconds})
                lately, began = [], time.monotonic()
            finished = _finished_phase(learner.step)
            if learner.step % _VALIDATE_EVERY == 0 or finished:
                pruning = Pruning(WANTED, WANTED, 0.0) if phase.pruned else None
                batches = (
                    make_batch((n,), "val", 1, 4).to(learner.device)
                    for n in range(_VALIDATION_CLIPS)
                )
                validation.add(learner.step, measure(learner.mean, batches, pruning))
                began = time.monotonic()
            if finished:
                learner.save(folder / f"{finished}.pt")
                weights = folder / f"{finished}.safetensors"
                save_weights(weights, learner.mean.state_dict(), phase.pruned)
            if finished or time.monotonic() - saved > _SAVE_EVERY_S:
                learner.save(checkpoint)
                saved = time.monotonic()
    learner.save(checkpoint)
    if stopped:
        sys.exit(128 + stopped[0])


def _finished_phase(step: int) -> str | None:
    """The phase that ends before this step."""
    end = 0
    for phase in PHASES:
        end += phase.steps
        if step == end:
            return phase.name
    return None


class Table:
    """A CSV file of values by step.

    What a resumed training will do again is cut off, and what a full disk left of a line.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.reader(file) if len(row) == 1 + len(COLUMNS[path.stem])]
        kept = [row for row in rows[1:] if row[0].isdecimal() and int(row[0]) <= step]
        if not rows:
            path.unlink()
            return
        with written_aside(path) as aside, aside.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([rows[0], *kept])

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Appends a line."""
        print(step, *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *COLUMNS[self._path.stem]])
            row = [f"{values[c]:.6g}" if c in values else "" for c in COLUMNS[self._path.stem]]
            writer.writerow([step, *row])


COLUMNS = {
    "losses": (
        *("loss", "classes", "masks", "dice", "guidance", "ratio", "gradient", "rate", "seconds"),
    ),
    "validation": ("loss", "iou", "class", "found", "tracked", "false", "kept"),
}

if __name__ == "__main__":
    main()
