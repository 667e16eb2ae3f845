"""report.json -> report.html: one self-contained page in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from cbgui.evaluation.pages import render_page
from cbgui.evaluation.undoing.page import sections
from cbgui.evaluation.verdict import LIMITS
from cbgui.training.diagnostics import DERAILS

LINES = {"retain": ("must keep", "good"), "break": ("must stop", "accent")}  # side -> label, colour variable of the CSS
GRID = (-1, -0.5, 0, 0.5, 1)
LABEL_HEIGHT = 14  # pixels


@dataclass(frozen=True)
class Chart:
    """Cosine by layer as coordinates of an SVG, in pixels."""

    cosine: dict[str, list[float]]  # side -> cosine after each layer
    target_layers: list[int]
    width: int = 720
    height: int = 240
    left: int = 44  # room for the labels of the grid
    right: int = 90  # room for the labels of the lines
    top: int = 12
    below: int = 34  # room for the labels of the target layers

    @property
    def bottom(self) -> int:
        return self.height - self.below

    def _x(self, layer: int) -> float:
        layers = max(*map(len, self.cosine.values()), 2)
        return self.left + (self.width - self.left - self.right) * layer / (layers - 1)

    def _y(self, value: float) -> float:
        return self.top + (self.bottom - self.top) * (1 - (min(max(value, -1), 1) + 1) / 2)

    def _points(self, values: dict[int, float]) -> str:
        return " ".join(f"{self._x(layer):.1f},{self._y(value):.1f}" for layer, value in values.items())

    @property
    def grid(self) -> list[dict[str, str]]:
        last = max(*map(len, self.cosine.values()), 2) - 1
        return [
            {
                "points": self._points({0: value, last: value}),
                "label": f"{value:g}",
                "label_y": f"{self._y(value) + 4:.1f}",
            }
            for value in GRID
        ]

    @property
    def targets(self) -> list[dict[str, Any]]:
        return [{"layer": layer, "x": f"{self._x(layer - 1):.1f}"} for layer in self.target_layers]

    @property
    def lines(self) -> list[dict[str, str]]:
        found, label_y = [], -float(LABEL_HEIGHT)
        for side, (label, colour) in LINES.items():
            if not (values := self.cosine[side]):
                continue
            wanted = self._y(values[-1]) + 4
            # Two lines that end close together get their labels one below the other.
            label_y = label_y + LABEL_HEIGHT if abs(wanted - label_y) < LABEL_HEIGHT else wanted
            found.append(
                {
                    "points": self._points(dict(enumerate(values))),
                    "label": label,
                    "colour": colour,
                    "label_x": f"{self._x(len(values) - 1) + 8:.0f}",
                    "label_y": f"{label_y:.0f}",
                }
            )
        return found


def render(report: dict[str, Any]) -> str:
    """The page of a report."""
    return render_page(
        "report.html",
        report=report,
        chart=Chart(report["cosine_by_layer"], report["target_layers"]),
        derails=DERAILS,
        limits=LIMITS,
        undoing=sections(report.get("undoing")),
        settings=yaml.safe_dump(report["settings"], sort_keys=False, allow_unicode=True),
    )
