"""results.json: the tracks of a video in the YouTube-VIS result format (MODEL.md 5).

It is made from frames.jsonl when the video has ended, track by track, in the memory of one of them.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.files import written_aside
from vpp_deploy.video.frames_jsonl import read_frames

VIDEO_ID = 1

_CREATE = """
CREATE TABLE seen (
    track INTEGER, frame INTEGER, label INTEGER, score REAL, rle TEXT, PRIMARY KEY (track, frame)
) WITHOUT ROWID
"""
_LABEL = (
    "SELECT label FROM seen WHERE track = ? GROUP BY label ORDER BY count(*) DESC, label LIMIT 1"
)


def write_results(frames: Path, results: Path) -> None:
    """Writes the tracks of a frames.jsonl.

    The file is a list with one entry a track: mean of its scores, the class given most often (ties:
    smallest; ids from 1), and one run-length encoding or null for each line. It appears under its
    name when complete.

    Args:
        frames: the frames.jsonl.
        results: the file to write.

    Raises:
        VideoError: there is no space, here or where the system keeps temporary files.
        ResumeError: frames.jsonl is gone or damaged.
    """
    try:
        # A database without a name lives in memory as far as that is small, and then in a file
        # that vanishes with it.
        with written_aside(results) as aside, closing(sqlite3.connect("")) as seen:
            num_frames = _load(seen, frames)
            _write(seen, num_frames, aside)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise VideoError(
            f"{results} cannot be written ({reason}); check that its folder exists, is writable "
            "and has space"
        ) from error


def _load(seen: sqlite3.Connection, frames: Path) -> int:
    """Every track of every line into the table; returns how many lines there are."""
    seen.execute(_CREATE)
    num_frames = 0
    for frame, line in enumerate(read_frames(frames)):
        num_frames = frame + 1
        seen.executemany(
            "INSERT INTO seen VALUES (?, ?, ?, ?, ?)",
            (
                (track["id"], frame, track["label"], track["score"], json.dumps(track["rle"]))
                for track in line["tracks"]
            ),
        )
    return num_frames


def _write(seen: sqlite3.Connection, num_frames: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        tracks = seen.execute("SELECT track, avg(score) FROM seen GROUP BY track ORDER BY track")
        for number, (track, score) in enumerate(tracks):
            (label,) = seen.execute(_LABEL, (track,)).fetchone()
            entry = {"video_id": VIDEO_ID, "score": score, "category_id": label + 1}
            file.write((",\n" if number else "") + json.dumps(entry)[:-1] + ', "segmentations": [')
            written = 0
            rows = seen.execute(
                "SELECT frame, rle FROM seen WHERE track = ? ORDER BY frame", (track,)
            )
            for frame, rle in rows:
                file.write("null, " * (frame - written) + rle)
                written = frame + 1
                file.write(", " if written < num_frames else "")
            file.write(", ".join(["null"] * (num_frames - written)) + "]}")
        file.write("]\n")
