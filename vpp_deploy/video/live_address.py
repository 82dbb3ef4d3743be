"""Where live input comes from: which texts are addresses, how they are shown and opened."""

import re
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from vpp_deploy.errors import VideoError, printable

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp", "http", "https")


class ConnectionLostError(Exception):
    """Live input could not be opened or has stopped; the text says why, in a few words."""


@dataclass(frozen=True)
class LiveAddress:
    """A URL or a camera.

    Attributes:
        url: what FFmpeg opens; it may hold credentials.
        shown: the same for people to read, without any.
        scheme: of the URL; "v4l2" for a camera.
    """

    url: str
    shown: str
    scheme: str

    def connect(self, timeout_s: float) -> InputContainer:
        """Open it, with `timeout_s` for the connection, for each look at it and for each read.

        Raises:
            ConnectionLostError: it cannot be opened.
        """
        try:
            return av.open(
                self.url,
                format="v4l2" if self.scheme == "v4l2" else None,
                options=self._options(),
                timeout=(timeout_s, timeout_s),
                metadata_errors="replace",
            )
        except (av.FFmpegError, OSError) as error:
            # Not as its cause: its text holds the URL.
            raise ConnectionLostError(reason(error, timeout_s)) from None

    def _options(self) -> dict[str, str]:
        if self.scheme in ("rtsp", "rtsps") and not re.search(r"[?&](udp|multicast)", self.url):
            return {"rtsp_flags": "prefer_tcp"}  # over UDP, lost packets damage frames
        if self.scheme == "udp":
            # Otherwise FFmpeg gives the stream up when its reader falls behind.
            return {"overrun_nonfatal": "1"}
        return {}


def live_address(text: str) -> LiveAddress | None:
    """Understand a URL or a camera; None for anything else, which is a path.

    Raises:
        VideoError: the URL is malformed, or cameras cannot be read on this system.
    """
    if re.fullmatch(r"/dev/video\d+", text):
        if sys.platform != "linux":
            raise VideoError(f"{text}: cameras are read on Linux only; give a URL or a file")
        return LiveAddress(text, text, "v4l2")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        return None
    return LiveAddress(f"{scheme}://{rest}", _without_credentials(scheme, rest), scheme)


def _without_credentials(scheme: str, rest: str) -> str:
    """Drop what may be secret: the user, the query, and values that some cameras put in the path.

    Raises:
        VideoError: it cannot be told where the password ends.
    """
    try:
        parts = urlsplit(f"//{rest}")
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port  # raises ValueError for one that is no number, as the half of a password is
    except ValueError:
        raise VideoError(
            f"the {scheme}:// address is malformed (no host and port before the first slash); "
            "write / # ? and @ of a password as %2F %23 %3F and %40"
        ) from None
    path = "/..." if "@" in parts.path else re.sub(r"=[^/&;]*", "=...", parts.path)
    return printable(f"{scheme}://{host}{path}")


def reason(error: OSError | av.FFmpegError, timeout_s: float) -> str:
    """Say in a few words, without the URL, why FFmpeg gave up."""
    if isinstance(error, av.error.ExitError):  # what it is told to do when time is out
        return f"no data for {timeout_s:g} s"
    return error.strerror or type(error).__name__
