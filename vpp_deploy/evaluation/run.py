"""A model over every video of a dataset, and what the evaluator says of it."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vpp_deploy.errors import VideoError
from vpp_deploy.evaluation.classes import match_classes
from vpp_deploy.evaluation.dataset import Dataset, Instance, LabelledVideo
from vpp_deploy.evaluation.evaluator import Evaluator, Figures, FoundTrack, check_evaluator
from vpp_deploy.evaluation.masks import shows
from vpp_deploy.files import written_aside
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.job import VideoJob, check_folders
from vpp_deploy.runtime.opening import OpenedModel
from vpp_deploy.runtime.run_files import FRAMES, RESULTS, locked, remove
from vpp_deploy.runtime.session import VideoSession
from vpp_deploy.runtime.streams import run_videos
from vpp_deploy.runtime.summary import RunSummary
from vpp_deploy.video.source import VideoSource

EVALUATION = "eval.json"


@dataclass(frozen=True)
class Row:
    """The figures of one class or video.

    Attributes:
        name: its.
        instances: labelled, without crowds.
        figures: of it alone.
    """

    name: str
    instances: int
    figures: Figures


@dataclass(frozen=True)
class Evaluation:
    """What is known of a model when it has run over a dataset.

    Attributes:
        model, kind, sha256: what ran, as `OpenedModel` has it.
        budgets: tokens in blocks 1-2, 3-5, 6-8, 9-11; None where they vary or the model is dense.
        input_size: (H, W) of its input in pixels.
        choices: of the session: what its results depend on beside the model.
        dataset: path of its JSON file.
        num_videos, num_frames, num_instances: of it; instances without crowds.
        num_tracks: found, of the classes that are compared.
        figures: of all.
        classes: of each class alone, as the dataset orders them.
        videos: of each video alone; the figures of all are not their mean.
        notes: what a reader should know: classes left out, letterboxing, dropped tracks.
    """

    model: str
    kind: str
    sha256: str
    budgets: tuple[int, ...] | None
    input_size: tuple[int, int]
    choices: dict[str, Any]
    dataset: str
    num_videos: int
    num_frames: int
    num_instances: int
    num_tracks: int
    figures: Figures
    classes: tuple[Row, ...]
    videos: tuple[Row, ...]
    notes: tuple[str, ...]


def evaluate(
    model: OpenedModel,
    session: VideoSession,
    dataset: Dataset,
    *,
    out: Path | None = None,
    shared_only: bool = False,
    on_frame: Callable[[FrameResult], None] = lambda _: None,
    whole: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Evaluation:
    """Runs every video from its first frame, and compares what was found with the labels.

    Args:
        model: what the session runs.
        session: at its first frame. The published evaluation has no scene cuts.
        dataset: videos and labels; its categories are the model's classes by name.
        out: folder for results.json, in the form that YouTube-VIS's server takes, and eval.json.
        shared_only: leave out the classes that only one of the two has.
        on_frame: told of every frame done.
        whole: as `run_videos` takes it.

    Raises:
        BackendError: the evaluator is not installed, or the model fails.
        DatasetError: an image is damaged, or the classes are not the model's.
        VideoError: `out`, or the system's folder for temporary files, cannot be written, or `out`
            holds what would be lost.
    """
    check_evaluator()
    dataset, notes = match_classes(model.classes, dataset, shared_only=shared_only)
    with ExitStack() as stack:
        if out is not None:
            _check_out(out, dataset)
            stack.enter_context(locked([out]))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vpp-deploy-eval-")))
        jobs = [_job(video, folder / str(n)) for n, video in enumerate(dataset.videos)]
        summaries = run_videos(model, session, jobs, on_frame=on_frame, whole=whole)
        for video, summary in zip(dataset.videos, summaries, strict=True):
            if summary.ended_by is not None:
                raise VideoError(f"{video.name}: {summary.ended_by}")
        tracks = [track for n, job in enumerate(jobs) for track in _tracks(job, model, dataset, n)]
        notes += _notes(session, dataset, summaries)
        evaluation = _compare(model, session, dataset, tracks, notes)
        if out is not None:
            remove([out / EVALUATION, out / RESULTS])  # no figures beside results of others
            _write(out / EVALUATION, json.dumps(asdict(evaluation), indent=1))
            _write(out / RESULTS, json.dumps(tracks))
    return evaluation


def _check_out(out: Path, dataset: Dataset) -> None:
    check_folders([out])
    if (out / FRAMES).exists():
        raise VideoError(
            f"{out} holds a run, whose {RESULTS} would be overwritten; choose another --out"
        )
    written = [out / name for name in (RESULTS, EVALUATION)]
    for path in written:
        if path.is_dir():
            raise VideoError(f"{path} is a folder, not a file to write; choose another --out")
        if path.exists() and not _is_evaluation(out / EVALUATION):
            raise VideoError(
                f"{path} is of no earlier evaluation and would be overwritten; choose another --out"
            )
    if dataset.path.resolve() in [path.resolve() for path in written]:
        raise VideoError(
            f"{dataset.path} would be overwritten by the results; choose another --out"
        )


def _is_evaluation(path: Path) -> bool:
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
        return kept.keys() == {field.name for field in fields(Evaluation)}
    except (OSError, ValueError, AttributeError):
        return False


def _job(video: LabelledVideo, out: Path) -> VideoJob:
    def opened(_: int | None) -> VideoSource:
        return video.open()

    # No path: what is written is gone afterwards, so no state is saved to be resumed.
    return VideoJob(path=None, name=video.name, out=out, open_video=opened)


def _tracks(job: VideoJob, model: OpenedModel, dataset: Dataset, number: int) -> list[FoundTrack]:
    """What a run wrote, with the dataset's ids; without classes that are left out."""
    ids = {name: id_ for id_, name in dataset.categories.items()}
    tracks = []
    for entry in json.loads((job.out / RESULTS).read_text(encoding="utf-8")):
        name = model.classes[entry["category_id"] - 1]
        if name in ids:
            tracks.append(
                FoundTrack(
                    video_id=dataset.videos[number].id,
                    category_id=ids[name],
                    score=entry["score"],
                    segmentations=entry["segmentations"],
                )
            )
    return tracks


def _compare(
    model: OpenedModel,
    session: VideoSession,
    dataset: Dataset,
    tracks: Sequence[FoundTrack],
    notes: Sequence[str],
) -> Evaluation:
    evaluator = Evaluator(dataset, tracks)
    counted = _counted(dataset)
    classes = [
        Row(
            name,
            sum(instance.category_id == id_ for instance in counted),
            evaluator.figures(categories=[id_]),
        )
        for id_, name in dataset.categories.items()
    ]
    videos = [
        Row(
            video.name,
            sum(instance.video_id == video.id for instance in counted),
            evaluator.figures(videos=[video.id]),
        )
        for video in dataset.videos
    ]
    return Evaluation(
        model=model.name,
        kind=model.kind,
        sha256=model.sha256,
        budgets=model.budgets,
        input_size=session.input_size,
        choices=session.choices,
        dataset=str(dataset.path),
        num_videos=len(dataset.videos),
        num_frames=dataset.num_frames,
        num_instances=len(counted),
        num_tracks=len(tracks),
        figures=evaluator.figures(),
        classes=tuple(classes),
        videos=tuple(videos),
        notes=tuple(notes),
    )


def _notes(
    session: VideoSession, dataset: Dataset, summaries: Sequence[RunSummary]
) -> Iterator[str]:
    """What changed the figures; of a run's own notes, the others are about its speed."""
    boxed = sum(not session.plan(video.size).published for video in dataset.videos)
    if boxed:
        height, width = session.input_size
        yield (
            f"{boxed} of {len(dataset.videos)} videos are letterboxed into {height}x{width}, which "
            "is not the published preprocessing; export with an input.size for their frames"
        )
    counted = _counted(dataset)
    unseen = sum(not any(map(shows, instance.masks)) for instance in counted)
    if unseen:
        yield (
            f"{unseen} of {len(counted)} instances show in no frame: nothing can find them, and "
            "they count as missed"
        )
    dropped = sum(summary.tracks_dropped for summary in summaries)
    if dropped:
        videos = sum(summary.tracks_dropped > 0 for summary in summaries)
        yield (
            f"{dropped} tracks in {videos} of {len(dataset.videos)} videos were forgotten because "
            "every track slot was taken; export with more tracks.slots"
        )


def _counted(dataset: Dataset) -> list[Instance]:
    """Without crowds."""
    return [instance for instance in dataset.instances if not instance.is_crowd]


def _write(path: Path, text: str) -> None:
    try:
        with written_aside(path) as aside:
            aside.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise VideoError(f"cannot write {path}: {error.strerror}; choose another --out") from error
