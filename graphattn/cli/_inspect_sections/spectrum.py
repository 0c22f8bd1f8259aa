"""Spectrum: how many directions the attention of a head uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphattn.analysis import spectrum
from graphattn.cli._inspect_html import say
from graphattn.cli._inspect_sections.section import Section, Study, mean_over
from graphattn.cli._inspect_subject import WHOLE
from graphattn.cli._inspect_svg import lines, shade

_VALUES = 16  # singular values of what is large
_SHOWN = 128  # singular values in the JSON


def _measure(study: Study) -> dict[str, Any]:
    large = any(maps.num_nodes > WHOLE for maps in study.maps)
    found = [spectrum(maps, k=min(_VALUES, maps.num_nodes) if large else None) for maps in study.maps]
    return {
        "stable_rank": mean_over([each.stable_rank for each in found]),
        "effective_rank": mean_over([each.effective_rank for each in found]),
        "rank_at_0.9": mean_over([each.rank_at(0.9) for each in found]),
        "first_input": {
            "values": [layer.mean(axis=0)[:_SHOWN].tolist() for layer in found[0].values],
            "explained": [layer.mean(axis=0)[:_SHOWN].tolist() for layer in found[0].explained],
            "of": list(found[0].sizes),
        },
        "truncated": large,
    }


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    explained = found["first_input"]["explained"]
    deepest = len(explained) - 1
    chosen = sorted({0, deepest // 2, deepest})
    series = {
        f"layer {layer}": (
            list(range(1, len(explained[layer]) + 1)),
            explained[layer],
            shade(0.35 + 0.65 * place / max(len(chosen) - 1, 1)),
            "",
        )
        for place, layer in enumerate(chosen)
    }
    cut = say("Only the largest singular values were computed.") if found["truncated"] else ""
    return lines(series, "singular values, of the first input", "share explained") + cut


SECTION = Section("spectrum", "Spectrum", "How many directions the attention of a head uses.", _draw, _measure)
