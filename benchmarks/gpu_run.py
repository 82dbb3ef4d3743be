"""The GPU benchmark's run: every row opened, compared, warmed up and timed, then in turns."""

import gc
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import gpu_device
from benchmarks.gpu_cases import Case, Own
from benchmarks.gpu_checks import one_line, verdict
from benchmarks.gpu_contenders import Contender
from benchmarks.gpu_methods import Method
from benchmarks.gpu_report import Report, Row
from benchmarks.gpu_torch import compiled_parts
from benchmarks.gpu_workplace import Workplace
from vpp_deploy.drift import Bounds
from vpp_deploy.errors import BackendError
from vpp_deploy.video.source import Frame, open_source
from vpp_deploy.video.synthetic import moving_scene
from vpp_deploy.video.writer import VideoWriter

SCENE_FRAMES = 32
WARM_UP = 8
BACKENDS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Settings:
    """What is asked of a run.

    Attributes:
        device: "cuda" or "cpu".
        out: folder of artefacts and report.
        input_size, frame_size: (H, W) in pixels.
        video: whose frames are used; None: a synthetic scene of `frame_size`.
        cases: in the order of their importance.
        frames: to time of each row.
        turns: in which they are timed.
        check_frames: to compare with fp32.
        bounds: what a correct row may differ by.
        own: what all cases are of; None: weights by formula.
        minutes: after that nothing new is begun; None: no limit.
    """

    device: str
    out: Path
    input_size: tuple[int, int]
    frame_size: tuple[int, int]
    video: Path | None
    cases: tuple[Case, ...]
    frames: int
    turns: int
    check_frames: int
    bounds: Bounds
    own: Own | None
    minutes: float | None


def benchmark(settings: Settings, methods: Mapping[str, Method]) -> Report:
    """Runs every case by every method that takes it; returns the report, which lies in `out`, too.

    Raises:
        BackendError: there is no such device.
    """
    return _Benchmark(settings, methods).run()


class _Benchmark:
    def __init__(self, settings: Settings, methods: Mapping[str, Method]) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise BackendError("PyTorch finds no GPU here; run with --device cpu --size 128x160")
        self._begun = time.monotonic()
        self._settings = settings
        self._methods = methods
        self._device = torch.device(settings.device)
        gpu_device.use_exact_float32()
        settings.out.mkdir(parents=True, exist_ok=True)
        command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
        asked = {key: str(value) for key, value in asdict(settings).items() if key != "cases"}
        self._report = Report({"command": command, **asked}, gpu_device.describe(self._device))
        for case in settings.cases:
            self._report.rows += [
                Row(case.name, name, method.precision, case.batch, reason="its turn has not come")
                for name, method in methods.items()
            ]
        self._console = Console(stderr=True)

    def run(self) -> Report:
        report, settings = self._report, self._settings
        self._tell("measuring the device")
        report.peaks = asdict(gpu_device.measure_peaks(self._device))
        video, frames = _frames(settings)
        workplace = Workplace(
            self._device,
            settings.out,
            settings.input_size,
            video,
            frames,
            settings.bounds,
            settings.own,
            self._tell,
        )
        report.acceptance = {backend: workplace.acceptance(backend) for backend in BACKENDS}
        self._save()
        for case in settings.cases:
            self._run_case(workplace, case)
            workplace.release()
            gc.collect()
            torch.compiler.reset()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        report.machine_after = gpu_device.describe(self._device)
        self._save()
        return report

    def _run_case(self, workplace: Workplace, case: Case) -> None:
        ready: list[tuple[Row, Contender, Iterator[Frame]]] = []
        for row in [row for row in self._report.rows if row.case == case.name]:
            method = self._methods[row.method]
            unfit = method.unfit(case, self._device.type)
            if unfit is not None or self._late():
                row.reason = unfit or "the time was up"
                continue
            self._tell(f"{case.name}: {row.method}")
            frames = itertools.cycle(workplace.frames)
            try:
                ready.append((row, self._begin(workplace, case, method, row, frames), frames))
            except Exception as error:
                self._fail(row, error)
            self._save()
        self._count_floors(workplace, case)
        for turn in range(self._settings.turns):
            shift = turn % max(len(ready), 1)
            for one in ready[shift:] + ready[:shift]:
                if not self._late():
                    self._take_turn(*one)
            ready = [one for one in ready if one[0].status == "timed"]
        self._save()

    def _begin(
        self, workplace: Workplace, case: Case, method: Method, row: Row, frames: Iterator[Frame]
    ) -> Contender:
        """A row from nothing to its first figures."""
        begun = time.perf_counter()
        contender = method.open(workplace, case)
        row.kind, row.notes = contender.kind, contender.notes
        row.open_s = time.perf_counter() - begun
        begun = time.perf_counter()
        row.first_ms, _ = contender.step(next(frames))
        for _ in range(WARM_UP):
            contender.step(next(frames))
        row.warm_up_s = time.perf_counter() - begun
        if "torch.compile" in row.notes:
            row.notes |= compiled_parts()
        checks = [
            check(workplace, case, contender, self._settings.check_frames)
            for check in method.checks
        ]
        row.checks, row.correct = [asdict(check) for check in checks], verdict(checks)
        contender.restart()
        for _ in range(2):  # a first frame, and one in mid-video
            contender.time_stages(next(frames))
            contender.step(next(frames))
        self._time(row, contender, frames)
        row.status = "timed"
        return contender

    def _take_turn(self, row: Row, contender: Contender, frames: Iterator[Frame]) -> None:
        if row.turns == 0:
            row.frame_ms, row.host_ms, row.stage_ms = [], {}, {}
        try:
            self._time(row, contender, frames)
        except Exception as error:
            self._fail(row, error)
        row.turns += 1

    def _time(self, row: Row, contender: Contender, frames: Iterator[Frame]) -> None:
        for _ in range(math.ceil(self._settings.frames / self._settings.turns)):
            frame_ms, laps = contender.step(next(frames))
            row.frame_ms.append(frame_ms)
            for name, ms in laps.items():
                row.host_ms.setdefault(name, []).append(ms)
        for _ in range(math.ceil(self._settings.frames / self._settings.turns)):
            for name, ms in contender.time_stages(next(frames)).items():
                row.stage_ms.setdefault(name, []).append(ms)

    def _count_floors(self, workplace: Workplace, case: Case) -> None:
        """What every stage takes at least, of a case that has a bundle."""
        peaks = gpu_device.Peaks(**self._report.peaks)
        manifest = workplace.manifest(case)
        if manifest is None:
            return
        frame = workplace.frames[0].rgb.shape[:2]
        floors = self._report.floors[case.name] = {}
        for stage in manifest.pipeline.stages:
            graph = workplace.bundle(case) / manifest.files[stage.name]
            num_bytes = gpu_device.stage_bytes(
                manifest, stage, graph.stat().st_size, (frame[0], frame[1])
            )
            operations = manifest.operations[stage.name]
            products_ms, memory_ms = peaks.floor_ms(stage, operations, num_bytes)
            floors[stage.name] = {
                "macs": operations.macs,
                "bytes": num_bytes,
                "products_ms": products_ms,
                "memory_ms": memory_ms,
            }

    def _fail(self, row: Row, error: Exception) -> None:
        row.status, row.reason = "failed", one_line(error)
        row.frame_ms, row.host_ms, row.stage_ms = [], {}, {}
        self._tell(f"{row.case}, {row.method} failed: {row.reason}")

    def _late(self) -> bool:
        minutes = self._settings.minutes
        return minutes is not None and time.monotonic() - self._begun > 60 * minutes

    def _save(self) -> None:
        self._report.save(self._settings.out / "gpu.json")

    def _tell(self, step: str) -> None:
        elapsed = time.monotonic() - self._begun
        self._console.print(f"{elapsed:6.1f} s  {step}", highlight=False, markup=False)


def _frames(settings: Settings) -> tuple[Path, list[Frame]]:
    """A video file, and its first frames."""
    video = settings.video
    if video is None:
        height, width = settings.frame_size
        video = settings.out / f"scene-{height}x{width}.mp4"
        with VideoWriter(video, 25.0, settings.frame_size) as writer:
            for frame in moving_scene(settings.frame_size, SCENE_FRAMES):
                writer.write(frame.rgb)
    with open_source(video, stop=SCENE_FRAMES) as source:
        return video, list(source)
