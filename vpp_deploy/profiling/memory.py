"""Memory of this process, without a dependency for it."""

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """Memory that the process holds now; None where the system does not tell (Linux does)."""
    return _status("VmRSS:")


def peak_bytes() -> int | None:
    """The most that the process ever held; None on Windows."""
    peak = _status("VmHWM:")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    # "VmHWM:     12345 kB", the unit being fixed
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)
