"""Pictures for a page that loads nothing: small SVG, every text escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import networkx as nx
import numpy as np

from graphattn.cli._inspect_html import number, text

BLUE, ORANGE, GREY = "#2c7fb8", "#d95f0e", "#888"
_LEVELS = 24
_TICKS = 6  # marks of an axis, at most one more
_SLACK = 1e-3  # of their distance, by which an end of the axis may miss one


def shade(share: float) -> str:
    """Return a blue between white, for 0, and dark, for 1."""
    light, dark = np.array([255, 255, 255]), np.array([8, 64, 129])
    return "#" + "".join(f"{round(part):02x}" for part in light + (dark - light) * min(max(share, 0.0), 1.0))


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{text(label, 200)}">{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, value: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(value)}</text>'


def _turned(x: float, y: float, value: str) -> str:
    """Write a name from the top down."""
    return f'<g transform="translate({x:.1f} {y:.1f}) rotate(-90)">{_label(0, 0, value[:12], "end")}</g>'


def heatmap(
    rows: Sequence[Sequence[float | None]], title: str, low: float, high: float, names: Sequence[str] = ()
) -> str:
    """Draw heads, or nodes by their names, as cells, one row a layer.

    Cells of equal shade are one path, so that many stay small.
    """
    widest = max((len(row) for row in rows), default=1)
    size = max(4.0, min(22.0, 330 / max(widest, 1)))
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value is None or math.isnan(value):
                colour = "#eee"
            else:
                share = (value - low) / (high - low) if high > low else 0.5
                colour = shade(round(min(max(share, 0.0), 1.0) * _LEVELS) / _LEVELS)
            paths.setdefault(colour, []).append(f"M{x} {y}h1v1h-1z")
    cells = "".join(f'<path fill="{colour}" d="{"".join(shapes)}"/>' for colour, shapes in paths.items())
    left, across, down = 24.0, size * widest, size * len(rows)
    step = max(1, math.ceil(14 / size))
    marks = [_label(left - 5, size * (row + 0.5) + 4, str(row), "end") for row in range(0, len(rows), step)]
    if names:
        marks += [_turned(left + size * (place + 0.5) + 4, down + 6, name) for place, name in enumerate(names)]
    else:
        marks += [_label(left + size * (place + 0.5), down + 13, str(place)) for place in range(0, widest, step)]
    frame = f'<rect x="{left}" y="0" width="{across:g}" height="{down:g}" class="frame"/>'
    drawn = [f'<g transform="translate({left} 0) scale({size:g})">{cells}</g>', frame, *marks]
    caption = f"<b>{text(title)}</b><br>{number(low)} (white) to {number(high)}"
    below = 80.0 if names else 18.0
    return f"<figure><figcaption>{caption}</figcaption>{_svg(left + across + 8, down + below, title, drawn)}</figure>"


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None], str, str]],
    across: str,
    up: str,
    band: tuple[float, float, str] | None = None,
    least: tuple[float, float] | None = None,
) -> str:
    """Draw curves by name: x, y, colour and dashes; with a band of known values, and a range that is shown at least."""
    width, height, left, right, top, bottom = 440.0, 210.0, 62.0, 10.0, 10.0, 34.0
    points = {
        name: [(float(a), float(b)) for a, b in zip(x, y, strict=True) if b is not None and not math.isnan(b)]
        for name, (x, y, _, _) in series.items()
    }
    everything = [point for own in points.values() for point in own]
    if not everything:
        return "<p>nothing to draw</p>"
    xs, ys = [point[0] for point in everything], [point[1] for point in everything]
    ys += [*(band or ())[:2], *(least or ())]
    (x0, x1), (y0, y1) = _span(xs), _span(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / (x1 - x0) * (width - left - right),
            height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom),
        )

    parts = [f'<path class="axis" d="M{left} {top}V{height - bottom}H{width - right}"/>']
    if band is not None:
        below, above = place(x0, band[0])[1], place(x0, band[1])[1]
        parts.append(
            f'<rect x="{left}" y="{above:.1f}" width="{width - left - right}" height="{max(below - above, 1):.1f}" '
            f'fill="#fdd9a0" opacity=".5"/>'
        )
    whole = all(x == int(x) for x in xs)
    for x, written in _ticks(x0, x1, whole):
        if min(xs) <= x <= max(xs):
            parts.append(_label(place(x, y0)[0], height - bottom + 14, written))
    for y, written in _ticks(y0, y1):
        level = place(x0, y)[1]
        parts.append(f'<path class="grid" d="M{left} {level:.1f}H{width - right}"/>')
        parts.append(_label(left - 5, level + 4, written, "end"))
    for name, own in points.items():
        _, _, colour, dashes = series[name]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in own))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dashes}"/>')
        if len(own) <= 40:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>'
                for x, y in (place(*point) for point in own)
            ]
    parts.append(_label((left + width - right) / 2, height - 4, across))
    parts.append(f'<g transform="rotate(-90 12 {height / 2})">{_label(12, height / 2, up)}</g>')
    legend = [
        f'<span style="color:{colour}">{"┄" if dashes else "━"}</span> {text(name)}'
        for name, (_, _, colour, dashes) in series.items()
    ]
    if band is not None:
        legend.append(f'<span style="color:#fdb863">█</span> {text(band[2], 200)}')
    return _svg(width, height, f"{up} by {across}", parts) + f'<p class="legend">{" &nbsp; ".join(legend)}</p>'


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds all values and is not empty."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        return low, high
    margin = abs(low) / 10 or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float, whole: bool = False) -> list[tuple[float, str]]:
    """Return round numbers within a range, and how they are written: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    power = max(power, 1.0) if whole else power
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= _TICKS)
    first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
    digits = max(0, -math.floor(math.log10(step) + _SLACK))
    form = f".{digits}f" if digits < 5 and max(abs(low), abs(high)) < 1e5 else ".4g"
    return [(multiple * step, f"{multiple * step:{form}}") for multiple in range(first, last + 1)]


def network(
    nodes: Mapping[int, str], edges: Sequence[tuple[int, int, float, str]], ring: bool, target: int | None = None
) -> str:
    """Draw a graph: nodes by number with their names, edges with weights and marks such as ``o->``."""
    size, middle, radius = 440.0, 220.0, 170.0
    order = list(nodes)
    if ring:
        angles = -np.pi / 2 + 2 * np.pi * np.arange(len(order)) / max(len(order), 1)
        unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        graph = nx.Graph()
        graph.add_nodes_from(order)
        graph.add_edges_from((j, i) for j, i, _, _ in edges)
        found = nx.spring_layout(graph, seed=0, iterations=60)
        unit = np.array([found[node] for node in order])
        unit = unit - (unit.max(axis=0) + unit.min(axis=0)) / 2
        unit = unit / np.maximum(np.abs(unit).max(axis=0), 1e-9)
    at = {node: middle + radius * point for node, point in zip(order, unit, strict=True)}
    heaviest = max((weight for _, _, weight, _ in edges if math.isfinite(weight)), default=1.0) or 1.0
    parts = []
    for j, i, weight, kind in sorted(edges, key=lambda edge: edge[2]):
        share = min(weight / heaviest, 1.0) if weight > 0 else 0.0
        parts.append(_edge(at[j], at[i], share, kind))
    for node, point in at.items():
        x, y = point
        colour = ORANGE if node == target else BLUE
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        out = (point - middle) / max(float(np.hypot(*(point - middle))), 1e-9)
        anchor = "start" if out[0] > 0.3 else "end" if out[0] < -0.3 else "middle"
        parts.append(
            f'<text x="{x + 11 * out[0]:.1f}" y="{y + 14 * out[1] + 4:.1f}" text-anchor="{anchor}">'
            f"{text(nodes[node], 14)}</text>"
        )
    return _svg(size, size, f"a graph of {len(order)} nodes", parts)


def _edge(start: np.ndarray, end: np.ndarray, share: float, kind: str) -> str:
    """Draw an edge from start to end, with the marks of its kind at both."""
    length = float(np.hypot(*(end - start)))
    if length < 1e-6:
        return ""
    along = (end - start) / length
    (x0, y0), (x1, y1) = start + 6 * along, end - 6 * along
    colour = shade(0.25 + 0.75 * share)
    drawn = f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour}" stroke-width="{0.5 + 2 * share:.2f}"/>'
    for sign, tip, inward in ((kind[0], start + 6 * along, along), (kind[-1], end - 6 * along, -along)):
        if sign in "<>":
            across = np.array([-inward[1], inward[0]])
            corners = [tip, tip + 8 * inward + 3 * across, tip + 8 * inward - 3 * across]
            shape = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            drawn += f'<polygon points="{shape}" fill="{colour}"/>'
        elif sign == "o":
            x, y = tip + 3 * inward
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="white" stroke="{colour}"/>'
    return drawn
