"""The page: whole, on its own, and safe whatever the files say."""

import json
import math
import re
from html.parser import HTMLParser

import pytest

from tests.unit.profiling.made import NASTY, model, node_pass, report
from vpp_deploy.pages.svg import Axis, shortened
from vpp_deploy.profiling.nodes import NodePass
from vpp_deploy.profiling.page import render_page

VOID = {"meta"}
KEPT = {
    "kept_1_2": [24, 12, 11, 13],
    "next": [8, 8, 8, 8],
    "kept_6_8": [6, 6, 6, 6],
    "kept_9_11": [4] * 4,
}


class Balanced(HTMLParser):
    """Fails where tags do not close in order; collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_every_part_is_there() -> None:
    pruned = model("pruned", (90, 20, 25, 30), 400_000_000, kept=KEPT)
    page = parsed(render_page(report(model(), pruned, passes=[node_pass()])))
    text = "\n".join(page.words)
    for heading in (
        "Profile of dense and pruned",
        "Latency",
        "Latency over the frames",
        "How latency is spread",
        "Latency and operations in figures",
        "Compared with dense",
        "Tokens kept",
        "Memory",
        "Slowest operations",
        "Environment",
    ):
        assert f"{heading}\n" in text
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 8
    assert all(attributes["aria-label"] for attributes in pictures)
    assert "milliseconds a step" in text
    assert "block 1: 12 of 24 tokens (50%)" in text
    assert "block 1: 11 to 13 tokens" in text
    assert {"0.500", "0.400", "0.833"} <= set(page.words)  # the trunk's ratios, what came true


def test_it_asks_nobody_for_anything() -> None:
    text = render_page(report(model(), passes=[node_pass()]))
    page = parsed(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"(?:\bsrc=|\bhref=|url\(|@import|https?://)", text)
    assert "prefers-color-scheme: dark" in text


def test_what_files_say_is_escaped() -> None:
    nasty = model(NASTY, kept={NASTY: [1, 1, 1, 1]})
    whole = node_pass(NASTY)
    run = whole.runs["trunk"]
    passes = [NodePass(NASTY, whole.steps, {NASTY: run}, None)]
    changes = {"video": NASTY, "cpu": NASTY, "command": NASTY}
    text = render_page(report(nasty, model("b"), passes=passes, **changes))
    page = parsed(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script" not in text
    assert NASTY in "".join(page.words)


@pytest.mark.parametrize("trunk_ms", [(5.0,), (5.0, 5.0), (5.0, 7.0, 90_000.0), (0.0, 0.0)])
def test_few_and_odd_frames(trunk_ms: tuple[float, ...]) -> None:
    text = render_page(report(model(trunk_ms=trunk_ms), model("b", trunk_ms, None)))
    parsed(text)
    assert "nan" not in text.lower()


def test_a_stall_is_said_and_does_not_hide_the_rest() -> None:
    stalled = model(trunk_ms=[50.0] * 20 + [90_000.0])
    text = render_page(report(stalled))
    assert "frame 20 took 585 times the median, most of it in trunk" in text
    assert "↑ 90,104" in text
    assert "1 beyond" in text


def test_many_frames_make_no_large_page() -> None:
    assert len(render_page(report(model(trunk_ms=[50.0] * 5000)))) < 300_000


def test_the_document_is_strict_json() -> None:
    one = report(model(trunk_ms=(9.0,), trunk_macs=None), passes=[node_pass()])
    document = json.loads(json.dumps(one.to_json(), allow_nan=False))
    (entry,) = document["models"]
    assert entry["samples"]["stage_ms"]["trunk"] == [9.0]
    assert entry["frames_per_s"] is None
    assert entry["operations"] is None
    assert document["decode_ms"]["samples"] == [None]
    assert document["memory"]["resident_bytes"] == [200_000_000]
    assert "every timed frame is a first one" in document["notes"][0]


@pytest.mark.parametrize(("low", "high"), [(0, 7), (0, 0.003), (0, 48_000), (395, 402), (3, 3)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    axis = Axis(low, high, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in ticks)
    assert axis(axis.high) == 100
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step))
    assert any(math.isclose(mantissa, nice) for nice in (1, 2, 2.5, 5, 10))


def test_long_names_are_shortened() -> None:
    assert shortened("short", 22) == "short"
    assert len(shortened("x" * 300, 22)) <= 22
