"""Overview: what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphattn.cli._inspect_html import table, text
from graphattn.cli._inspect_sections.section import Section


def _draw(_: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    inputs, heads = model["inputs"], model["heads"]
    rows: list[tuple[str, object]] = [
        ("model", model["what"]),
        ("layers of attention", model["layers"]),
        ("heads", _range(heads)),
        ("inputs", len(inputs)),
        ("tokens or nodes", _range([each["nodes"] for each in inputs])),
        ("sees only what came before", "yes" if model["causal_mask"] else "no"),
    ]
    first = inputs[0]
    if "edges" in first:
        degree = first["degree"]
        said = f"mean {degree['mean']:.3g}, median {degree['median']:.3g}, most {degree['max']}"
        rows += [
            ("edges of the first input", f"{first['edges']:,}"),
            ("neighbours of a node", said),
            ("nodes without neighbours", degree["isolated"]),
        ]
    notes = "".join(f'<p class="say warn">note: {text(note, 400)}</p>' for note in model["notes"])
    return table([], rows) + notes


def _range(values: list[int]) -> object:
    return values[0] if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


SECTION = Section("overview", "Overview", "", _draw)
