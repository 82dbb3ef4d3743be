from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.video.made_results import CLASSES, HEIGHT, WIDTH, blob, make_result
from vpp_deploy.results import TokenMap
from vpp_deploy.video.draw_tokens import draw_tokens
from vpp_deploy.video.pictures import ANNOTATED, TOKENS, Pictures, written_by
from vpp_deploy.video.source import open_source

GREY = np.full((96, 160, 3), 128, np.uint8)


def middle(image: np.ndarray, row: int, column: int) -> list[int]:
    """The colour in the middle of a patch of 16 pixels a side."""
    return [int(value) for value in image[16 * row + 8, 16 * column + 8]]


class TestTokenOverlay:
    def test_every_patch_has_the_colour_of_its_depth(self) -> None:
        depth = np.zeros((6, 10), np.uint8)
        depth[5] = np.arange(10) % 5  # below the legend
        drawn = draw_tokens(GREY, TokenMap(depth, (96, 160)))
        colours = [middle(drawn, 5, column) for column in range(10)]
        assert colours[:5] == colours[5:]
        assert len({tuple(colour) for colour in colours}) == 5
        assert colours[0] == [38, 38, 38]  # dropped: grey and dark
        luma = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in colours[:5]]
        assert luma == sorted(luma)
        assert np.array_equal(GREY, np.full_like(GREY, 128))

    def test_patches_follow_the_resize_and_leave_the_padding_out(self) -> None:
        """A frame of twice the size of its place in the input, which has padding below."""
        depth = np.zeros((4, 4), np.uint8)
        depth[0, 3] = depth[2, 1] = 4
        depth[3] = 4  # padding
        frame = np.full((96, 128, 3), 128, np.uint8)
        drawn = draw_tokens(frame, TokenMap(depth, (48, 64)))
        yellow = drawn[64 + 16, 32 + 16]
        assert yellow[0] > 150
        assert (drawn[64:96, 32:64] == yellow).all()
        assert (drawn[64:96, 64:] == [38, 38, 38]).all()
        assert (drawn[:32, 96:] == yellow).all()

    @pytest.mark.parametrize("size", [(1, 1), (7, 300), (1080, 1920)])
    def test_any_size(self, size: tuple[int, int]) -> None:
        rgb = np.zeros((*size, 3), np.uint8)
        assert (
            draw_tokens(rgb, TokenMap(np.ones((34, 60), np.uint8), (544, 960))).shape == rgb.shape
        )


class TestVideos:
    def test_both(self, tmp_path: Path) -> None:
        rgb = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        tokens = TokenMap(np.full((2, 3), 4, np.uint8), (HEIGHT, WIDTH))
        result = make_result(0, (0, 1, 0.5, blob(9, 9)))
        with Pictures(tmp_path, 10, CLASSES, (ANNOTATED, TOKENS)) as pictures:
            for _ in range(3):
                pictures.write(rgb, result.tracks, tokens)
        with open_source(tmp_path / "annotated.mp4") as video:
            assert video.frame_size == (HEIGHT, WIDTH)
            annotated = [frame.rgb for frame in video]
        with open_source(tmp_path / "tokens.mp4") as video:
            assert video.frame_size == (HEIGHT, 2 * WIDTH)
            both = [frame.rgb for frame in video]
        assert len(annotated) == len(both) == 3
        assert float(cv2.absdiff(annotated[0], both[0][:, :WIDTH]).mean()) < 5
        right = both[0][:, WIDTH:].astype(int)
        assert (right[-4:, -8:, 0] - right[-4:, -8:, 2]).mean() > 20  # yellow

    def test_another_size_begins_another_file(self, tmp_path: Path) -> None:
        for name in ("annotated-notes.mp4", "annotated-2024-best.mp4", "my-annotated-2.mp4"):
            (tmp_path / name).touch()
        tracks = make_result(0).tracks
        with Pictures(tmp_path, 10, CLASSES, (ANNOTATED,)) as pictures:
            for height, count in ((HEIGHT, 2), (HEIGHT + 8, 3), (HEIGHT, 1)):
                for _ in range(count):
                    pictures.write(np.zeros((height, WIDTH, 3), np.uint8), tracks, None)
        seen = {}
        for path in written_by(tmp_path, (ANNOTATED,)):
            with open_source(path) as video:
                seen[path.name] = (video.frame_size[0], len(list(video)))
        assert seen == {
            "annotated.mp4": (HEIGHT, 2),
            "annotated-2.mp4": (HEIGHT + 8, 3),
            "annotated-3.mp4": (HEIGHT, 1),
        }

    def test_none_of_them(self, tmp_path: Path) -> None:
        with Pictures(tmp_path, 10, CLASSES, ()) as pictures:
            pictures.write(GREY, make_result(0).tracks, None)
        assert not list(tmp_path.iterdir())
