"""Text, numbers and tables for a page that loads nothing: every text escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_LONGEST = 40  # characters of a text that is shown
_ZERO = 1e-12  # what rounding leaves of sums of shares


def text(value: object, longest: int = _LONGEST) -> str:
    """Escape a text, cut it, and replace what no page may hold."""
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value))
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return html.escape(shown.encode("utf-8", "replace").decode())


def number(value: float | None) -> str:
    """Write a number of a table or a tooltip."""
    if value is None or math.isnan(value):
        return "–"
    return f"{0.0 if abs(value) < _ZERO else value:.3g}"


def counted(count: int, what: str) -> str:
    """Write a number of things, whose name gets an s where they are not one."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def say(words: str, longest: int = 1000) -> str:
    """Write a remark in small letters."""
    return f'<p class="say">{text(words, longest)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write rows below a header, or without one; numbers are rounded."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    lines = ("<tr>" + "".join(f"<td>{text(_cell(cell), 120)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if header else ''}{''.join(lines)}</table>"


def _cell(value: object) -> object:
    return number(value) if isinstance(value, float) or value is None else value


def beside(*parts: str) -> str:
    """Put parts side by side where the page is wide enough."""
    return '<div class="row">' + "".join(f"<div>{part}</div>" for part in parts if part) + "</div>"


def shown(found: Mapping[str, Any], draw: Callable[..., str], *more: Any, what: str = "Not measured") -> str:
    """Draw what was measured, with what was warned of; or say why it was not measured."""
    if "missing" in found:
        return f'<p class="missing">{text(what)}: {text(found["missing"], 400)}</p>'
    warned = "".join(f'<p class="say warn">{text(each, 300)}</p>' for each in found.get("warnings", ()))
    return draw(found, *more) + warned
