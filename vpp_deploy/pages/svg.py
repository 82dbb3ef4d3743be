"""Just enough SVG for the page's pictures; colours and type come from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]

PALETTE = 10
"""Classes `c0` to `c9` of the style sheet, for parts and models."""


class Svg:
    """A picture as wide as its column, described for those who do not see it."""

    def __init__(self, width: float, height: float, description: str) -> None:
        self._width, self._height = width, height
        self._description = description
        self._elements: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, style: str, tip: str = ""
    ) -> None:
        """A box; `tip` is shown when it is pointed at."""
        self._add(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" '
            f'height="{max(height, 0):.2f}" class="{style}">{_title(tip)}</rect>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str, tip: str = "") -> None:
        """A straight line."""
        self._add(
            f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" '
            f'class="{style}">{_title(tip)}</line>'
        )

    def path(
        self, points: Sequence[Point], style: str, closed: bool = False, tip: str = ""
    ) -> None:
        """A line through points, or the area that it encloses."""
        d = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + ("Z" if closed else "")
        self._add(f'<path d="{d}" class="{style}">{_title(tip)}</path>')

    def text(self, x: float, y: float, text: str, anchor: str = "start", style: str = "") -> None:
        """`anchor` is start, middle or end."""
        self._add(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" class="{style}">'
            f"{escape(text)}</text>"
        )

    def render(self) -> str:
        """The element, to be put into a page."""
        return (
            f'<div class="chart"><svg viewBox="0 0 {self._width:g} {self._height:g}" role="img" '
            f'aria-label="{escape(self._description, quote=True)}">'
            + "".join(self._elements)
            + "</svg></div>"
        )

    def _add(self, element: str) -> None:
        self._elements.append(element)


class Axis:
    """Values to places on the picture, with round numbers to label it."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        """Values from `low` to `high` lie between the places `start` and `end`."""
        self.low, self.high = low, high if high > low else low + 1
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self, most: int = 6) -> list[float]:
        """At most so many round values, the ends included where they are round."""
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def x_axis(svg: Svg, axis: Axis, y: float, top: float, label: str) -> None:
    """Grid lines from `top` down to `y`, numbers below, and the label with its unit."""
    for tick in axis.ticks():
        svg.line(axis(tick), top, axis(tick), y, "grid")
        svg.text(axis(tick), y + 16, number(tick), "middle", "tick")
    svg.text(axis(axis.high), y + 34, label, "end", "label")


def y_axis(svg: Svg, axis: Axis, x: float, right: float, label: str) -> None:
    """Grid lines from `x` to `right`, numbers to the left, and the label on top."""
    for tick in axis.ticks(5):
        svg.line(x, axis(tick), right, axis(tick), "grid")
        svg.text(x - 7, axis(tick) + 4, number(tick), "end", "tick")
    svg.text(x - 7, 14, label, "start", "label")


def number(value: float) -> str:
    """As short as a label needs it."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def shortened(text: str, most: int) -> str:
    """The text, its middle left out where it is too long."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _round_step(least: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= least * (1 - 1e-9))


def _title(tip: str) -> str:
    return f"<title>{escape(tip)}</title>" if tip else ""
