"""The machine and the software that a profile was taken with: what a figure is worth without."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

LIBRARIES = ("vpp-deploy", "onnxruntime", "torch", "numpy", "opencv-python-headless", "av")


def describe_environment() -> dict[str, str]:
    """Label to value, for people to read; what the system does not tell is "unknown"."""
    memory = _memory_bytes()
    return {
        "CPU": _cpu(),
        "cores": _cores(),
        "memory": "unknown" if memory is None else f"{memory / 1e9:.1f} GB",
        "system": platform.platform(),
        "Python": sys.version.split()[0],
        **versions_of(LIBRARIES),
    }


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """Name to version of those that are installed."""
    return {name: version for name in libraries if (version := _version(name)) is not None}


def load_average() -> tuple[float, float, float] | None:
    """Of the last 1, 5 and 15 minutes; None where the system keeps none (Windows)."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine() or "unknown")


def _cores() -> str:
    total = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{usable}" if usable == total else f"{usable} of {total} usable"


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
