"""Labelled videos in YouTube-VIS's layout: JPEGImages/VIDEO/00000.jpg, and one JSON file."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vpp_deploy.errors import DatasetError
from vpp_deploy.evaluation.frames import ListedFrames
from vpp_deploy.evaluation.masks import GivenRle, checked_rle
from vpp_deploy.video.frames import VideoSource
from vpp_deploy.video.frames_jsonl import Rle

JSON_NAMES = ("instances.json", "annotations.json")
IMAGES_NAME = "JPEGImages"

_Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""The evaluator holds ids in NumPy's integers, beyond which it takes some for others."""

_Side = Annotated[int, Field(ge=1, le=65535)]


class _Category(TypedDict):
    id: _Id
    name: str


class _Video(TypedDict):
    id: _Id
    file_names: Annotated[list[str], Field(min_length=1)]
    height: _Side
    width: _Side


class _Annotation(TypedDict):
    video_id: int
    category_id: int
    segmentations: list[GivenRle | None]
    iscrowd: NotRequired[int]


class _Document(TypedDict):
    categories: list[_Category]
    videos: Annotated[list[_Video], Field(min_length=1)]
    annotations: Annotated[list[_Annotation], Field(min_length=1)]


_DOCUMENT = TypeAdapter(_Document)


@dataclass(frozen=True)
class LabelledVideo:
    """A video of a dataset.

    Attributes:
        id: in its file.
        name: of its folder, for people to read.
        files: its frames, in order.
        size: (H, W) of each in pixels.
    """

    id: int
    name: str
    files: tuple[Path, ...]
    size: tuple[int, int]

    def open(self) -> VideoSource:
        """Its frames; iterating raises a DatasetError for one that is not as labelled."""
        return ListedFrames(self.files, self.size)


@dataclass(frozen=True)
class Instance:
    """One labelled object.

    Attributes:
        video_id, category_id: whose and what.
        is_crowd: neither finding nor missing it counts.
        masks: one for each frame of the video, None where it is not seen.
    """

    video_id: int
    category_id: int
    is_crowd: bool
    masks: tuple[Rle | None, ...]


@dataclass(frozen=True)
class Dataset:
    """What models are compared with.

    Attributes:
        path: of its JSON file.
        categories: id to name; no two have the same name.
        videos: in the order of the file.
        instances: all that are labelled.
    """

    path: Path
    categories: dict[int, str]
    videos: tuple[LabelledVideo, ...]
    instances: tuple[Instance, ...]

    @property
    def num_frames(self) -> int:
        """Of all videos."""
        return sum(len(video.files) for video in self.videos)

    def only(self, names: Set[str]) -> "Dataset":
        """The same videos with the categories of these names alone."""
        kept = {id_: name for id_, name in self.categories.items() if name in names}
        instances = tuple(one for one in self.instances if one.category_id in kept)
        return replace(self, categories=kept, instances=instances)


def read_dataset(path: Path, images: Path | None = None) -> Dataset:
    """Reads the labels; of the images, that they are there.

    Args:
        path: the dataset's folder, or its JSON file.
        images: the folder that the names of frames begin in; JPEGImages beside the file by default.

    Raises:
        DatasetError: something is missing, or does not fit the rest.
    """
    path = _json_file(path)
    try:
        document = _DOCUMENT.validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DatasetError(
            f"{path}: {where + ': ' if where else ''}{first['msg']}; expected YouTube-VIS labels: "
            "categories, videos and annotations, their segmentations RLEs or null"
        ) from error
    _check_unique(path, "categories", (one["id"] for one in document["categories"]))
    _check_unique(path, "categories", (one["name"] for one in document["categories"]))
    _check_unique(path, "videos", (one["id"] for one in document["videos"]))
    images = path.parent / IMAGES_NAME if images is None else images
    videos = tuple(_video(path, images, video) for video in document["videos"])
    _check_files(images, videos)
    categories = {one["id"]: one["name"] for one in document["categories"]}
    instances = tuple(_instances(path, document["annotations"], categories, videos))
    return Dataset(path, categories, videos, instances)


def _json_file(path: Path) -> Path:
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder; give a dataset's folder, or its JSON")
    if path.is_file():
        return path
    if not path.is_dir():
        raise DatasetError(f"{path} is no regular file; give a dataset's folder, or its JSON")
    found = [path / name for name in JSON_NAMES if (path / name).is_file()]
    if len(found) != 1:
        got = "both" if found else "neither"
        raise DatasetError(
            f"{path} has {got} of {' and '.join(JSON_NAMES)}; give the path of the JSON file"
        )
    return found[0]


def _check_unique(path: Path, what: str, keys: Iterable[int | str]) -> None:
    (key, count), *_ = [*Counter(keys).most_common(1), (None, 0)]
    if count > 1:
        raise DatasetError(f"{path}: {count} {what} are called {key!r}, expected one")


def _video(path: Path, images: Path, video: _Video) -> LabelledVideo:
    names = video["file_names"]
    for name in map(PurePosixPath, names):
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{path}: {name} is no name of an image within {images}")
    shown = str(PurePosixPath(names[0]).parent)
    files = tuple(images / name for name in names)
    return LabelledVideo(video["id"], shown, files, (video["height"], video["width"]))


def _check_files(images: Path, videos: Iterable[LabelledVideo]) -> None:
    files = [file for video in videos for file in video.files]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(files)} images are missing, the first is {missing[0]}; name "
            "the folder that they are in with --images"
        )


def _instances(
    path: Path,
    annotations: Iterable[_Annotation],
    categories: dict[int, str],
    videos: Iterable[LabelledVideo],
) -> Iterator[Instance]:
    by_id = {video.id: video for video in videos}
    for number, annotation in enumerate(annotations):
        here = f"{path}: annotations.{number}"
        video = by_id.get(annotation["video_id"])
        if video is None:
            raise DatasetError(f"{here} is of video {annotation['video_id']}, which is not there")
        if annotation["category_id"] not in categories:
            raise DatasetError(
                f"{here} is of category {annotation['category_id']}, which is not there"
            )
        given = annotation["segmentations"]
        if len(given) != len(video.files):
            raise DatasetError(
                f"{here} has {len(given)} segmentations, and its video {video.name} has "
                f"{len(video.files)} frames"
            )
        try:
            masks = tuple(None if rle is None else checked_rle(rle, video.size) for rle in given)
        except ValueError as error:
            raise DatasetError(f"{here} ({video.name}): {error}") from error
        crowd = bool(annotation.get("iscrowd", 0))
        yield Instance(video.id, annotation["category_id"], crowd, masks)
