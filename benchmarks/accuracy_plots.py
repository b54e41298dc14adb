"""Line plots as SVG, without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 600, 380, 56
LEGEND_PX, LINE_PX = 260, 22
"""Width of the legend, right of the plot, and height of its lines."""
COLOURS = ("#286edc", "#d9601a", "#2a9d5c", "#9146b8", "#7a7a7a")
DASHES = ("", "7 5", "2 4")


@dataclass(frozen=True)
class Plot:
    """Lines of values from 0 to 1.

    Attributes
    ----------
    title, x_title
        Above the plot, and below its x axis.
    ticks
        Place along x, and what is written there.
    lines
        Points (x, y) by name; lines whose names begin alike, up to a comma, share a colour.
    diagonal
        Whether to draw the line on which x and y are the same.
    """

    title: str
    x_title: str
    ticks: Mapping[float, str]
    lines: Mapping[str, Sequence[tuple[float, float]]]
    diagonal: bool = False

    def write(self, path: Path) -> None:
        """Draw everything."""
        size = f'width="{WIDTH_PX + LEGEND_PX}" height="{HEIGHT_PX}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
            f'<rect {size} fill="white"/>',
            _text(MARGIN_PX, 22, self.title, "start"),
            _text(WIDTH_PX / 2, HEIGHT_PX - 12, self.x_title),
            *self._grid(),
            *self._lines(),
            "</svg>",
        ]
        path.write_text("\n".join(parts) + "\n", encoding="utf-8")

    def _at(self, x: float, y: float) -> tuple[float, float]:
        low, high = min(self.ticks), max(self.ticks)
        across = (x - low) / (high - low)
        left, width, height = MARGIN_PX, WIDTH_PX - 2 * MARGIN_PX, HEIGHT_PX - 2 * MARGIN_PX
        return left + across * width, MARGIN_PX - 8 + (1 - y) * height

    def _grid(self) -> list[str]:
        first, last = min(self.ticks), max(self.ticks)
        parts = []
        for tenth in range(0, 11, 2):
            parts.append(_line([self._at(first, tenth / 10), self._at(last, tenth / 10)], "#dddddd", 1))
            x, y = self._at(first, tenth / 10)
            parts.append(_text(x - 8, y + 4, f"{tenth / 10:.1f}", "end"))
        for place, text in self.ticks.items():
            x, y = self._at(place, 0)
            parts.append(_text(x, y + 18, text))
        if self.diagonal:
            parts.append(_line([self._at(0, 0), self._at(1, 1)], "#bbbbbb", 1))
        return parts

    def _lines(self) -> list[str]:
        families = list(dict.fromkeys(name.partition(",")[0] for name in self.lines))
        seen: dict[str, int] = {}
        parts = []
        for number, (name, points) in enumerate(self.lines.items()):
            family = name.partition(",")[0]
            colour = COLOURS[families.index(family) % len(COLOURS)]
            dash = DASHES[seen.get(family, 0) % len(DASHES)]
            seen[family] = seen.get(family, 0) + 1
            places = [self._at(x, y) for x, y in points]
            parts.append(_line(places, colour, 2.5, dash))
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
            x, y = WIDTH_PX - MARGIN_PX / 2, MARGIN_PX + LINE_PX * number
            parts.append(_line([(x, y - 4), (x + 36, y - 4)], colour, 2.5, dash))
            parts.append(_text(x + 44, y, name, "start"))
        return parts


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, dash: str = "") -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#1e2024">{escape(text)}</text>'
