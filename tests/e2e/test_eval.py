"""`vpp-deploy eval` from outside: a small model on a dataset of two small clips."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.command_line import fails, succeeds
from tests.mini import CLASSES, INPUT_SIZE, ExportedMini, frames
from tests.unit.evaluation.made_dataset import labels, masks, write_dataset
from vpp_deploy.errors import VideoError
from vpp_deploy.evaluation.dataset import read_dataset
from vpp_deploy.evaluation.run import evaluate
from vpp_deploy.results import FrameResult
from vpp_deploy.runtime.opening import open_bundle
from vpp_deploy.video.frames_jsonl import Rle

NUM_FRAMES = 3
BOXES = [(10, 10, 40, 50)] * NUM_FRAMES
IMAGES: dict[str, list[NDArray[np.uint8]]] = {
    name: [frame.rgb for frame in frames(NUM_FRAMES, seed)] for seed, name in enumerate(("a", "b"))
}


def rectangles() -> list[Rle | None]:
    return masks(BOXES, INPUT_SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of rectangles, which no model finds."""
    document = labels(IMAGES, CLASSES, [(0, "dog", rectangles()), (1, "boat", rectangles())])
    return write_dataset(tmp_path_factory.mktemp("set") / "valid", IMAGES, document)


@pytest.fixture(scope="module")
def found(
    mini_bundle: ExportedMini, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the command prints and writes."""
    out = tmp_path_factory.mktemp("found") / "out"
    arguments = ("eval", mini_bundle.folder, folder, "--out", out, "--json", "--threads", 1)
    printed = json.loads(succeeds(*arguments, cwd=folder).stdout)
    assert printed == json.loads((out / "eval.json").read_text())
    assert not list(out.glob("*.part"))
    return {"results": json.loads((out / "results.json").read_text()), "evaluation": printed}


def own_labels(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The dataset's document with what a model found as its truth."""
    document = labels(IMAGES, CLASSES, [])
    document["annotations"] = [{**track, "id": n, "iscrowd": 0} for n, track in enumerate(results)]
    return document


def test_the_figures_come_with_what_they_are_of(
    found: dict[str, Any], mini_bundle: ExportedMini
) -> None:
    evaluation = found["evaluation"]
    assert evaluation["model"] == mini_bundle.manifest.name
    assert evaluation["budgets"] == list(mini_bundle.manifest.budgets)
    assert evaluation["input_size"] == list(INPUT_SIZE)
    assert evaluation["choices"]["scene_cuts"] is False
    assert evaluation["choices"]["exploration"] == "noise:0"
    assert evaluation["num_videos"] == 2
    assert evaluation["num_frames"] == 2 * NUM_FRAMES
    assert evaluation["num_instances"] == 2
    assert evaluation["num_tracks"] == len(found["results"]) > 2
    assert evaluation["figures"]["ap"] == 0
    by_class = {row["name"]: row for row in evaluation["classes"]}
    assert list(by_class) == list(CLASSES)
    assert by_class["dog"]["instances"] == by_class["boat"]["instances"] == 1
    assert by_class["dog"]["figures"]["ar10"] == 0
    assert set(by_class["tree"]["figures"].values()) == {None}
    assert [row["name"] for row in evaluation["videos"]] == ["a", "b"]


def test_results_are_in_the_form_of_the_benchmark(found: dict[str, Any]) -> None:
    ids = range(11, 11 + len(CLASSES))
    assert {track["video_id"] for track in found["results"]} == {7, 8}
    for track in found["results"]:
        assert set(track) == {"video_id", "category_id", "score", "segmentations"}
        assert track["category_id"] in ids
        assert len(track["segmentations"]) == NUM_FRAMES
        assert any(track["segmentations"])


def test_every_video_gets_what_a_run_of_it_gives(
    found: dict[str, Any], mini_bundle: ExportedMini, folder: Path, tmp_path: Path
) -> None:
    """The second as well: it begins without the state and the tracks of the first."""
    arguments = ("--model", mini_bundle.folder, "--no-scene-cuts", "--threads", 1, "--out")
    for video_id, name in ((7, "a"), (8, "b")):
        out = tmp_path / name
        succeeds("run", folder / "JPEGImages" / name, *arguments, out, cwd=tmp_path)
        alone = json.loads((out / "results.json").read_text())
        own = [track for track in found["results"] if track["video_id"] == video_id]
        assert [
            {**track, "video_id": 1, "category_id": track["category_id"] - 10} for track in own
        ] == alone


def test_what_a_model_found_is_worth_everything_to_it(
    found: dict[str, Any], mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    """In-process, with categories in another order than the model's classes."""
    document = own_labels(found["results"])
    document["categories"].reverse()
    folder = write_dataset(tmp_path / "own", IMAGES, document)
    model = open_bundle(mini_bundle.folder, threads=1)
    seen: list[FrameResult] = []
    evaluation = evaluate(
        model, model.session(model.explored_by(None)), read_dataset(folder), on_frame=seen.append
    )
    assert [result.index for result in seen] == [0, 1, 2, 0, 1, 2]
    assert evaluation.figures.ap == pytest.approx(1.0)
    assert evaluation.figures.ar10 == pytest.approx(1.0)
    assert {row.figures.ap for row in evaluation.videos} == {evaluation.figures.ap}
    (note,) = evaluation.notes
    assert re.fullmatch(r"\d+ tracks in 2 of 2 videos were forgotten because every .*slots", note)


def test_a_row_is_of_its_video_alone(
    found: dict[str, Any], mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    """Truth: of a what the model finds, of b what it does not, and a crowd that does not count."""
    document = labels(IMAGES, CLASSES, [(1, "dog", rectangles()), (1, "dog", rectangles())])
    missed, crowd = document["annotations"]
    own = [one for one in own_labels(found["results"])["annotations"] if one["video_id"] == 7]
    document["annotations"] = [*own, missed, crowd | {"iscrowd": 1}]
    dataset = read_dataset(write_dataset(tmp_path / "own", IMAGES, document))
    model = open_bundle(mini_bundle.folder, threads=1)
    evaluation = evaluate(model, model.session(model.explored_by(None)), dataset)
    a, b = evaluation.videos
    assert (a.name, a.instances) == ("a", len(own))
    assert a.figures.ap == pytest.approx(1)
    assert (b.name, b.instances, b.figures.ap) == ("b", 1, 0)
    assert len(own) > 1
    assert evaluation.figures.ap is not None
    assert 0 < evaluation.figures.ap < 1
    assert evaluation.num_instances == len(own) + 1
    dogs = sum(one["category_id"] == missed["category_id"] for one in own)
    assert {row.name: row.instances for row in evaluation.classes}["dog"] == dogs + 1


def test_several_streams_find_the_same(
    found: dict[str, Any], mini_bundle_of_3: ExportedMini, folder: Path
) -> None:
    model = open_bundle(mini_bundle_of_3.folder, threads=1)
    evaluation = evaluate(model, model.session(model.explored_by(None)), read_dataset(folder))
    assert evaluation.num_tracks == found["evaluation"]["num_tracks"]
    assert list(evaluation.notes) == found["evaluation"]["notes"]


def test_letterboxing_is_told(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    images = {"a": IMAGES["a"], "wide": [frame.rgb for frame in frames(1, size=(32, 128))]}
    document = labels(images, CLASSES, [(0, "dog", rectangles())])
    model = open_bundle(mini_bundle.folder, threads=1)
    dataset = read_dataset(write_dataset(tmp_path / "set", images, document))
    first, *_ = evaluate(model, model.session(), dataset).notes
    assert first.startswith("1 of 2 videos are letterboxed into 96x128")


def test_the_table_has_all_classes_and_videos(mini_bundle: ExportedMini, folder: Path) -> None:
    result = succeeds("eval", mini_bundle.folder, folder, "--threads", 1, cwd=folder)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in result.stdout.splitlines()
        if "│" in line
    ]
    assert [row[0] for row in rows] == ["all", *CLASSES, "a", "b"]
    assert rows[0][1:] == ["2", "0.0", "0.0", "0.0", "0.0", "0.0"]
    assert rows[1 + CLASSES.index("tree")][1:] == ["0", "-", "-", "-", "-", "-"]
    assert "2 videos, 6 frames at 96x128, 2 instances" in result.stdout
    assert "6/6" in result.stderr


def test_classes_that_differ_are_refused_or_told(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    names = ("dog", "boat", "unicorn")
    instances = [(0, "dog", rectangles()), (1, "unicorn", rectangles())]
    folder = write_dataset(tmp_path / "set", IMAGES, labels(IMAGES, names, instances))
    line = fails("eval", mini_bundle.folder, folder, cwd=tmp_path)
    assert "3 of the model alone (ball, person, tree)" in line
    assert "1 of the dataset alone (unicorn)" in line
    assert "--shared-classes" in line
    arguments = ("eval", mini_bundle.folder, folder, "--shared-classes", "--json", "--threads", 1)
    evaluation = json.loads(succeeds(*arguments, cwd=tmp_path).stdout)
    assert [row["name"] for row in evaluation["classes"]] == ["dog", "boat"]
    assert evaluation["num_instances"] == 1
    first, *_ = evaluation["notes"]
    assert first.startswith("2 classes are compared; left out: 3 of the model alone")


def test_without_a_shared_class_there_is_nothing_to_compare(
    mini_bundle: ExportedMini, tmp_path: Path
) -> None:
    document = labels(IMAGES, ("unicorn",), [(0, "unicorn", rectangles())])
    folder = write_dataset(tmp_path / "set", IMAGES, document)
    line = fails("eval", mini_bundle.folder, folder, "--shared-classes", cwd=tmp_path)
    assert "labels no instance of the model's classes" in line


def test_crowds_alone_are_nothing_to_compare(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    document = labels(IMAGES, CLASSES, [(0, "dog", rectangles())])
    document["annotations"][0]["iscrowd"] = 1
    folder = write_dataset(tmp_path / "set", IMAGES, document)
    assert "nothing but crowds" in fails("eval", mini_bundle.folder, folder, cwd=tmp_path)


def test_what_nothing_can_find_is_told(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    empty = masks([(0, 0, 0, 0)] * NUM_FRAMES, INPUT_SIZE)
    seen = (rectangles(), [None] * NUM_FRAMES, empty)
    document = labels(IMAGES, CLASSES, [(0, "dog", one) for one in seen])
    folder = write_dataset(tmp_path / "set", IMAGES, document)
    model = open_bundle(mini_bundle.folder, threads=1)
    first, *_ = evaluate(model, model.session(), read_dataset(folder)).notes
    assert first.startswith("2 of 3 instances show in no frame")
    for unseen in document["annotations"][1:]:
        unseen["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(document))
    notes = evaluate(model, model.session(), read_dataset(folder)).notes
    assert not any("instances" in note for note in notes)


class TestOut:
    def test_a_run_is_left_alone(
        self, mini_bundle: ExportedMini, folder: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        video = folder / "JPEGImages" / "a"
        arguments = ("--model", mini_bundle.folder, "--threads", 1, "--out", out)
        succeeds("run", video, *arguments, cwd=tmp_path)
        before = (out / "results.json").read_bytes()
        line = fails("eval", mini_bundle.folder, folder, "--out", out, "-q", cwd=tmp_path)
        assert "holds a run" in line
        assert (out / "results.json").read_bytes() == before

    def test_the_labels_are_left_alone(self, mini_bundle: ExportedMini, tmp_path: Path) -> None:
        document = labels(IMAGES, CLASSES, [(0, "dog", rectangles())])
        folder = write_dataset(tmp_path / "set", IMAGES, document)
        path = (folder / "instances.json").rename(folder / "results.json")
        before = path.read_bytes()
        line = fails("eval", mini_bundle.folder, path, "--out", folder, "-q", cwd=tmp_path)
        assert "would be overwritten" in line
        assert path.read_bytes() == before

    def test_figures_of_other_results_do_not_stay(
        self, mini_bundle: ExportedMini, folder: Path, tmp_path: Path
    ) -> None:
        """results.json cannot be replaced: what is left must not look like one evaluation."""
        out = tmp_path / "out"

        def blocked(_: FrameResult) -> None:
            if (out / "results.json").is_file():
                (out / "results.json").unlink()
            (out / "results.json" / "in the way").mkdir(parents=True, exist_ok=True)

        model = open_bundle(mini_bundle.folder, threads=1)
        evaluate(model, model.session(), read_dataset(folder), out=out)
        assert (out / "eval.json").exists()
        with pytest.raises(VideoError, match=r"cannot remove .*results\.json"):
            evaluate(model, model.session(), read_dataset(folder), out=out, on_frame=blocked)
        assert not (out / "eval.json").exists()

    @pytest.mark.parametrize("name", ["results.json", "eval.json"])
    @pytest.mark.parametrize("text", ["[1, 2]", "{}", "mine"])
    def test_files_of_others_are_left_alone(
        self, mini_bundle: ExportedMini, folder: Path, tmp_path: Path, name: str, text: str
    ) -> None:
        model = open_bundle(mini_bundle.folder, threads=1)
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match=rf"{name} is of no earlier evaluation"):
            evaluate(model, model.session(), read_dataset(folder), out=tmp_path)
        assert (tmp_path / name).read_text() == text

    def test_a_folder_in_the_way_is_seen_before_anything_runs(
        self, mini_bundle: ExportedMini, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out" / "eval.json").mkdir(parents=True)
        line = fails("eval", mini_bundle.folder, folder, "--out", "out", "-q", cwd=tmp_path)
        assert "out/eval.json is a folder" in line

    def test_a_run_does_not_take_its_place(
        self, mini_bundle: ExportedMini, folder: Path, tmp_path: Path
    ) -> None:
        succeeds("eval", mini_bundle.folder, folder, "--out", "out", "-q", cwd=tmp_path)
        before = (tmp_path / "out" / "results.json").read_bytes()
        video = folder / "JPEGImages" / "a"
        arguments = ("run", video, "--model", mini_bundle.folder, "--out", "out", "-q")
        assert "is of no run" in fails(*arguments, cwd=tmp_path)
        assert (tmp_path / "out" / "results.json").read_bytes() == before


def test_a_checkpoint_by_its_recipe(
    mini_checkpoint: Path, mini_recipe: Path, folder: Path, tmp_path: Path
) -> None:
    """Of the recipe's size, which these frames have, and not of the published preprocessing's."""
    options = ("--rule", "budgets", "--recipe", mini_recipe, "--threads", 1, "--json")
    printed = succeeds("eval", mini_checkpoint, folder, *options, cwd=tmp_path).stdout
    assert json.loads(printed)["input_size"] == list(INPUT_SIZE)


def test_a_damaged_image_ends_it_in_one_line(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    document = labels(IMAGES, CLASSES, [(0, "dog", rectangles())])
    folder = write_dataset(tmp_path / "set", IMAGES, document)
    (folder / "JPEGImages" / "a" / "00001.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    arguments = ("eval", mini_bundle.folder, folder, "--out", out, "--quiet", "--threads", 1)
    line = fails(*arguments, cwd=tmp_path)
    assert line.endswith("00001.jpg is no image, or a damaged one")
    assert not list(out.glob("*.json"))


def test_results_do_not_go_into_a_bundle(mini_bundle: ExportedMini, folder: Path) -> None:
    out = mini_bundle.folder / "valid"
    arguments = ("eval", mini_bundle.folder, folder, "--out", out, "--quiet")
    assert "choose another --out" in fails(*arguments, cwd=folder)
    assert not out.exists()


def test_a_dataset_that_is_none_is_refused(mini_bundle: ExportedMini, tmp_path: Path) -> None:
    assert "no such file or folder" in fails("eval", mini_bundle.folder, "nowhere", cwd=tmp_path)
    assert "neither of instances.json" in fails("eval", mini_bundle.folder, ".", cwd=tmp_path)
