"""Wall time of the stages of one frame."""

import time
from dataclasses import dataclass, field

DEVICE, READ = "device", "read masks"
"""What is timed where stages run unobserved: all of them up to the results, and reading these."""


@dataclass
class Clock:
    """Wall time per stage of one frame, in milliseconds, in the order of the laps."""

    stage_ms: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """The time since the last lap was the stage `name`."""
        now = time.perf_counter()
        self.stage_ms[name] = self.stage_ms.get(name, 0.0) + (now - self._start) * 1e3
        self._start = now
