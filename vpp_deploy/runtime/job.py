"""A whole video through a session into an output folder."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from vpp_deploy.errors import VideoError
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.video.draw import draw_tracks
from vpp_deploy.video.results_json import FramesJsonl, ResultsJson, encode_masks
from vpp_deploy.video.source import Frame, VideoSource
from vpp_deploy.video.writer import VideoWriter

_FILES = ("results.json", "frames.jsonl", "summary.json", "annotated.mp4")
_FOLDER_FPS = 25.0  # of an annotated video made from images, which have no rate of their own


def run_video(
    model: OpenedModel,
    session: VideoSession,
    source: VideoSource,
    out: Path,
    *,
    annotate: bool = False,
    on_frame: Callable[[FrameResult], None] = lambda _: None,
) -> RunSummary:
    """Steps `session` through `source`; writes results.json, frames.jsonl and summary.json.

    Whatever ends the run, the files hold every frame that was done.

    Args:
        model: what the session runs.
        session: at its first frame.
        source: opened.
        out: folder; made if missing, results of an earlier run in it are replaced.
        annotate: also write annotated.mp4.
        on_frame: told of every frame done.

    Raises:
        VideoError: the source fails or ends early, or the folder cannot be written.
    """
    _make_folder(out, source)
    summary = RunSummary(model.name, model.kind, source.name, model.classes)
    if not session.plan(source.frame_size).published:
        (height, width), (input_h, input_w) = source.frame_size, session.input_size
        summary.notes.append(
            f"frames of {width}x{height} are letterboxed into {input_w}x{input_h}, which is not "
            "the published preprocessing; export with --like VIDEO for this video"
        )
    try:
        with ExitStack() as stack:
            lines = stack.enter_context(FramesJsonl(out / "frames.jsonl", model.classes))
            results = stack.enter_context(ResultsJson(out / "results.json"))
            video = None
            if annotate:
                fps = (source.fps or _FOLDER_FPS) / source.stride
                video = VideoWriter(out / "annotated.mp4", fps, source.frame_size)
                stack.enter_context(video)
            for frame, decode_ms in _timed(source):
                result = session.step(frame)
                start = time.perf_counter()
                rles = encode_masks(result.tracks.masks)
                lines.write(result, rles)
                results.write(result, rles)
                if video is not None:
                    video.write(draw_tracks(frame.rgb, result.tracks, model.classes))
                output_ms = (time.perf_counter() - start) * 1e3
                summary.add(result, decode_ms, output_ms)
                on_frame(result)
        if source.truncated:
            raise VideoError(
                f"{source.path} ends early: it is truncated or damaged, or its header promises "
                f"more than it holds; its {summary.frames} readable frames are done, see {out}"
            )
    except BaseException as error:
        summary.ended_by = str(error) if isinstance(error, Exception) else "interruption"
        raise
    finally:
        summary.notes += _notes(source, summary)
        summary.write(out / "summary.json")
    return summary


def _make_folder(out: Path, source: VideoSource) -> None:
    files = [out / name for name in _FILES]
    if source.path.resolve() in [file.resolve() for file in files]:
        raise VideoError(f"{source.path} would be overwritten by the results; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise VideoError(
            f"cannot write into {out}: {error.strerror}; choose another --out"
        ) from error


def _timed(source: VideoSource) -> Iterator[tuple[Frame, float]]:
    """Frames with the milliseconds that each took to decode."""
    frames = iter(source)
    while True:
        start = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        yield frame, (time.perf_counter() - start) * 1e3


def _notes(source: VideoSource, summary: RunSummary) -> list[str]:
    notes = []
    if source.frames_skipped_corrupt:
        notes.append(f"{source.frames_skipped_corrupt} corrupt packets or images were skipped")
    if source.frames_damaged:
        notes.append(f"{source.frames_damaged} frames were decoded with visible damage")
    if summary.tracks_dropped:
        notes.append(
            f"{summary.tracks_dropped} tracks were forgotten because every track slot was taken; "
            "export with more tracks.slots"
        )
    return notes
