"""What TensorRT measured of its kernels, kept from build to build in one file.

One file for each version and architecture. TensorRT for RTX measures nothing when it builds: its
calls of this kind do nothing but warn, and are not made.
"""

import os
from pathlib import Path
from typing import Any

FOLDER = ".timing-cache"
"""Beside the engines; the dot keeps it from being taken for one."""


class TimingCache:
    """A cache in memory, and the file that it came from and goes to."""

    def __init__(self, file: Path) -> None:
        """Reads what is there; a file that is not there is an empty cache."""
        self.file = file
        self.data = file.read_bytes() if file.is_file() else b""

    def attach(self, config: Any) -> None:
        """Gives a build what is known. The library ignores what is not its own, or damaged."""
        cache = config.create_timing_cache(self.data)
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def take(self, config: Any) -> None:
        """Takes over what a build has added."""
        cache = config.get_timing_cache()
        if cache is not None:
            self.data = bytes(cache.serialize())

    def save(self) -> None:
        """Writes the file, all at once."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        aside.write_bytes(self.data)
        aside.replace(self.file)


def cache_file(engines: Path, version: str, architecture: str) -> Path:
    """Where the cache for this library and GPU is, in the folder that engines land in."""
    return engines / FOLDER / f"tensorrt-{version}-sm{architecture.replace('.', '')}.bin"
