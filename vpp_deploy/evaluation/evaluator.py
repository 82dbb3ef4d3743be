"""AP and AR of video instance segmentation by the benchmark's own evaluator, out of mmdet.

mmdet holds a copy of YouTube-VIS's `YTVOS` and `YTVOSeval` (here `YTVIS` and `YTVISeval`). The
package cannot be imported without mmcv and PyTorch; the two modules need numpy and pycocotools
only, and are loaded by themselves.
"""

import contextlib
import importlib.util
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from typing_extensions import TypedDict

from vpp_deploy.errors import BackendError
from vpp_deploy.evaluation.dataset import Dataset
from vpp_deploy.video.frames_jsonl import Rle

_FOLDER = Path("evaluation", "functional")
_ABSENT = -1  # the evaluator's figure where nothing is labelled


class FoundTrack(TypedDict):
    """One entry of a results.json in the YouTube-VIS result format."""

    video_id: int
    category_id: int
    score: float
    segmentations: list[Rle | None]


@dataclass(frozen=True)
class Figures:
    """From 0 to 1, of tracks whose masks are compared over whole videos; None: nothing labelled.

    Attributes:
        ap: mean over the categories that are labelled, and over IoU 0.50, 0.55, ..., 0.95.
        ap50, ap75: at IoU 0.50 and 0.75.
        ar1, ar10: recall of the best 1 and 10 tracks of a category in a video, mean as of `ap`.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar1: float | None
    ar10: float | None


class Evaluator:
    """Tracks against a dataset."""

    def __init__(self, dataset: Dataset, tracks: Sequence[FoundTrack]) -> None:
        """Takes both.

        Args:
            dataset: the truth.
            tracks: with the ids of its videos and categories, a mask or None for each frame.

        Raises:
            BackendError: the evaluator is not installed.
        """
        self._evaluation, self._annotations = _modules()
        labels = _labels(dataset)
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = self._annotations.YTVIS(labels)
            # It writes into what it is given, and fails for a list without entries.
            self._tracks = (
                self._truth.loadRes([dict(track) for track in tracks])
                if tracks
                else self._annotations.YTVIS({**labels, "annotations": []})
            )

    def figures(
        self,
        videos: Collection[int] | None = None,
        categories: Collection[int] | None = None,
    ) -> Figures:
        """Of these videos and categories, by id; None: all."""
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation.YTVISeval(self._truth, self._tracks)
            if videos is not None:
                evaluation.params.vidIds = sorted(videos)
            if categories is not None:
                evaluation.params.catIds = sorted(categories)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ap, ap50, ap75, _, _, _, ar1, ar10, *_ = map(_figure, evaluation.stats)
        return Figures(ap, ap50, ap75, ar1, ar10)


def check_evaluator() -> None:
    """Whether there is one, before a model runs for hours.

    Raises:
        BackendError: it is not installed.
    """
    _modules()


def _figure(stat: float) -> float | None:
    return None if stat == _ABSENT else float(stat)


def _labels(dataset: Dataset) -> dict[str, Any]:
    """In the form that YTVIS reads."""
    return {
        "categories": [{"id": id_, "name": name} for id_, name in dataset.categories.items()],
        "videos": [
            {"id": video.id, "height": video.size[0], "width": video.size[1]}
            for video in dataset.videos
        ],
        "annotations": [
            {
                "id": number,  # from 1: to the evaluator, 0 is a track that was not found
                "video_id": instance.video_id,
                "category_id": instance.category_id,
                "iscrowd": int(instance.is_crowd),
                "segmentations": list(instance.masks),
                "areas": [
                    None if rle is None else int(coco_mask.area(rle)) for rle in instance.masks
                ],
            }
            for number, instance in enumerate(dataset.instances, 1)
        ],
    }


def _modules() -> tuple[Any, Any]:
    """The modules ytviseval and ytvis."""
    package = importlib.util.find_spec("mmdet")
    if package is None or not package.submodule_search_locations:
        raise BackendError(
            "evaluating needs the YouTube-VIS evaluator of the package mmdet, which is not "
            "installed; install vpp-deploy[eval]"
        )
    folder = Path(package.submodule_search_locations[0]) / _FOLDER
    evaluation = _load(folder / "ytviseval.py")
    # mmdet 3.3.0 says np.float, which NumPy 1.24 took away. Remove when mmdet says float.
    evaluation.__dict__["np"] = _OldNumpy("numpy")
    return evaluation, _load(folder / "ytvis.py")


class _OldNumpy(ModuleType):
    """NumPy as it was, for one module alone."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_mmdet_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BackendError(f"{path} is missing; install vpp-deploy[eval], which brings mmdet 3.3.0")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
