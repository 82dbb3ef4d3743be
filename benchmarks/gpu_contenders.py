"""What a row of the GPU benchmark steps: a pipeline of the project's, or the reference."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from benchmarks.gpu_reference import DeviceReference
from vpp_deploy.results import Tracks
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.video.source import Frame


class Contender(Protocol):
    """A model that is ready to run.

    Attributes:
        kind: what it is and who computes it, for people to read.
        notes: what else the report should say of it.
    """

    kind: str
    notes: dict[str, Any]

    def restart(self) -> None:
        """Back to the first frame of a video."""
        ...

    def step(self, frame: Frame) -> tuple[float, dict[str, float]]:
        """The next frame, in milliseconds of wall time: all of it, and the host's laps."""
        ...

    def time_stages(self, frame: Frame) -> dict[str, float]:
        """The next frame of another session: stage to milliseconds, by the device's clock."""
        ...

    def tracks(self, frames: Sequence[Frame]) -> list[list[Tracks]]:
        """Of every stream in every frame of a video that starts there."""
        ...


class ModelContender:
    """A pipeline with its session; every stream gets the same frames.

    Attributes:
        kind, notes: see `Contender`.
        model: as it runs, untimed.
    """

    def __init__(self, open_model: Callable[[bool], OpenedModel]) -> None:
        """`open_model` is told whether the model is to be timed stage by stage."""
        self._open_model = open_model
        self._timed: OpenedModel | None = None
        self._timed_session: VideoSession | None = None
        self.model = open_model(False)
        self.kind = self.model.kind
        self.notes: dict[str, Any] = {}
        self.restart()

    def restart(self) -> None:
        """As `Contender` says."""
        self._session = self.model.session()
        self._timed_session = None

    def step(self, frame: Frame) -> tuple[float, dict[str, float]]:
        """As `Contender` says."""
        begun = time.perf_counter()
        results = self._session.step_batch([frame] * self.model.runner.batch)
        frame_ms = (time.perf_counter() - begun) * 1e3
        laps: dict[str, float] = {}
        for result in results:
            assert result is not None
            laps |= {name: max(laps.get(name, 0.0), ms) for name, ms in result.stage_ms.items()}
        return frame_ms, laps

    def time_stages(self, frame: Frame) -> dict[str, float]:
        """As `Contender` says; on a CPU the wall's clock is the device's."""
        if self._timed_session is None:
            # Opened when it is needed: it takes as much memory again.
            self._timed = self._timed or self._open_model(True)
            self._timed_session = self._timed.session()
        assert self._timed is not None
        runner = self._timed.runner
        (first, *_) = self._timed_session.step_batch([frame] * runner.batch)
        assert first is not None
        measured: dict[str, float] = getattr(runner, "stage_ms", first.stage_ms)
        names = [stage.name for stage in runner.spec.stages]
        return {name: measured[name] for name in names if name in measured}

    def tracks(self, frames: Sequence[Frame]) -> list[list[Tracks]]:
        """As `Contender` says."""
        session = self.model.session()
        steps = (session.step_batch([frame] * self.model.runner.batch) for frame in frames)
        seen = [[r.tracks for r in results if r is not None] for results in steps]
        self.restart()
        return seen


class ReferenceContender:
    """The reference, see `DeviceReference`: its frame ends where its tracker would begin."""

    def __init__(self, reference: DeviceReference, kind: str) -> None:
        self.reference = reference
        self.kind = kind
        self.notes: dict[str, Any] = {"left out": "the tracker, which runs on the host"}

    def restart(self) -> None:
        """As `Contender` says."""
        self.reference.reset()

    def step(self, frame: Frame) -> tuple[float, dict[str, float]]:
        """As `Contender` says, without laps."""
        self.reference.step(frame)
        return self.reference.frame_ms, {}

    def time_stages(self, frame: Frame) -> dict[str, float]:
        """As `Contender` says, but for the session, which is the same."""
        self.reference.step(frame, timed=True)
        return dict(self.reference.part_ms)

    def tracks(self, frames: Sequence[Frame]) -> list[list[Tracks]]:
        """As `Contender` says."""
        self.restart()
        seen = [[self.reference.step(frame)] for frame in frames]
        self.restart()
        return seen
