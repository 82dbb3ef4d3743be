"""Which evaluations of the benchmarks are taken again. No model runs: this is about files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import evaluations
from benchmarks.evaluations import Evaluated, evaluated
from tests.unit.evaluation.made_dataset import SIZE, labels, masks, write_dataset
from vpp_deploy.errors import BackendError
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.evaluation.evaluator import Figures
from vpp_deploy.profiling.environment import versions_of
from vpp_deploy.runtime.exploration import Exploration, Lattice, RankNoise

IMAGES = {"a": [np.zeros((*SIZE, 3), np.uint8)] * 2, "b": [np.zeros((*SIZE, 3), np.uint8)]}


@dataclass
class Place:
    """A bundle and a dataset, and how often they were evaluated.

    Its model has no room for a lattice.
    """

    bundle: Path
    labels: Path
    runs: list[Path] = field(default_factory=list)

    def session(self, exploration: Exploration | None) -> None:
        if isinstance(exploration, Lattice):
            raise BackendError("no room")

    def evaluate(self, *_: object, out: Path) -> SimpleNamespace:
        self.runs.append(out)
        (out / "results.json").write_text("[]")
        number = len(self.runs)
        return SimpleNamespace(figures=Figures(number / 10, None, 0.2, 0.3, 0.4), num_tracks=number)

    def evaluated(self, exploration: Exploration | None = None) -> Evaluated:
        return evaluated(self.bundle, read_dataset(self.labels), 1, exploration)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    document = labels(IMAGES, ("dog",), [(0, "dog", masks([(2, 2, 8, 8)] * 2))])
    made = Place(tmp_path / "bundle", write_dataset(tmp_path / "valid", IMAGES, document))
    made.bundle.mkdir()
    (made.bundle / "manifest.json").write_text("{}")
    monkeypatch.setattr(evaluations, "open_bundle", lambda *_, **__: made)
    monkeypatch.setattr(evaluations, "evaluate", made.evaluate)
    return made


def test_what_is_there_is_taken_again(place: Place) -> None:
    first = place.evaluated()
    assert first.figures == Figures(0.1, None, 0.2, 0.3, 0.4)
    assert first.num_tracks == 1
    assert first.results.read_text() == "[]"
    assert place.evaluated() == first
    assert len(place.runs) == 1


def other_labels(place: Place) -> None:
    path = place.labels / "instances.json"
    path.write_text(path.read_text() + "\n")


def other_image(place: Place) -> None:
    """The last one, of the last video."""
    path = place.labels / "JPEGImages" / "b" / "00000.jpg"
    path.write_bytes(path.read_bytes() + b"1")


def other_bundle(place: Place) -> None:
    (place.bundle / "manifest.json").write_text("{ }")


@pytest.mark.parametrize("change", [other_labels, other_image, other_bundle])
def test_of_other_files_it_is_another_result(place: Place, change: Callable[[Place], None]) -> None:
    first = place.evaluated()
    change(place)
    assert place.evaluated().results != first.results
    assert len(set(place.runs)) == 2


def test_of_another_policy_it_is_another_result(place: Place) -> None:
    policies = (None, RankNoise(0), RankNoise(1))
    assert len({place.evaluated(policy).results for policy in policies}) == 3


def test_of_other_libraries_it_is_another_result(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = versions_of(evaluations.LIBRARIES)
    assert {"opencv-python-headless", "mmdet", "pycocotools"} <= versions.keys()
    assert versions.keys() & {"onnxruntime", "onnxruntime-gpu"}
    first = place.evaluated()
    monkeypatch.setattr(evaluations, "versions_of", lambda _: {**versions, "mmdet": "0"})
    assert place.evaluated().results != first.results


@pytest.mark.parametrize("kept", ["", "null", "{", "{}", '{"figures": {"ap": 1}, "num_tracks": 1}'])
def test_a_damaged_result_is_made_again(place: Place, kept: str) -> None:
    first = place.evaluated()
    path = first.results.with_name("evaluated.json")
    path.write_text(kept)
    second = place.evaluated()
    assert (second.results, second.num_tracks) == (first.results, 2)
    assert json.loads(path.read_text())["num_tracks"] == 2


def test_figures_without_their_tracks_are_made_again(place: Place) -> None:
    place.evaluated().results.unlink()
    assert place.evaluated().results.is_file()
    assert len(place.runs) == 2


def test_a_policy_that_is_refused_leaves_nothing(place: Place) -> None:
    before = set(place.bundle.parent.iterdir())
    with pytest.raises(evaluations.ExplorationError, match="no room"):
        place.evaluated(Lattice(2))
    assert set(place.bundle.parent.iterdir()) == before
