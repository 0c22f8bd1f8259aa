"""Heads: one picture for each measure, of the numbers that the other sections have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphattn.cli._inspect_html import say, table
from graphattn.cli._inspect_sections.section import Section, flat, places_of
from graphattn.cli._inspect_svg import heatmap

_ROWS = 200  # of the table of heads

# Where the numbers lie, and what they are called.
MEASURES = (
    ("sinks", "entropy", "entropy, nats"),
    ("sinks", "strength", "strength of the strongest sink"),
    ("sinks", "first_token_mass", "mass on the first token"),
    ("spectrum", "effective_rank", "effective rank"),
    ("spectrum", "stable_rank", "stable rank"),
    ("symmetry", "maps", "symmetry"),
)


def applies(measure: str, model: Mapping[str, Any]) -> bool:
    """Tell whether a measure means something for the inputs of a model: graphs have no first node."""
    return measure != "first_token_mass" or bool(model["inputs"][0]["ordered"])


def _draw(_: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    drawn, columns = [], {}
    places = places_of(model["heads"])
    for key, measure, title in MEASURES:
        rows = model[key].get(measure, ())
        values = flat(rows)
        if not values or not applies(measure, model):
            continue
        drawn.append(heatmap(rows, title, min(values), max(values)))
        if len(values) == len(places):
            columns[title] = values
    labels = model["roles"].get("labels")
    header = ["layer", "head", *(["role"] if labels else []), *columns]
    listed = [
        [*place, *([labels[number]] if labels else []), *(values[number] for values in columns.values())]
        for number, place in enumerate(places[:_ROWS])
    ]
    rest = say(f"{len(places) - _ROWS} more in the JSON") if len(places) > _ROWS else ""
    numbers = f"<details><summary>numbers of {len(places)} heads</summary>{table(header, listed)}{rest}</details>"
    return "".join(drawn) + numbers


SECTION = Section(
    "heads",
    "Heads",
    "Rows are layers, columns heads; the mean over the inputs. All numbers are in the JSON beside this page.",
    _draw,
)
