"""Sinks: tokens or nodes that attention collects on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.analysis import sinks
from graphattn.cli._inspect_html import counted, say, table
from graphattn.cli._inspect_sections.section import Section, Study, mean_over

_LISTED = 10


def _measure(study: Study) -> dict[str, Any]:
    found = [sinks(maps) for maps in study.maps]
    strongest: dict[str, float] = {}
    for each, maps in zip(found, study.maps, strict=True):
        mean = np.concatenate(each.strength).mean(axis=0)
        for node in np.argsort(-mean, kind="stable")[:_LISTED]:
            token = maps.tokens[node]
            strongest[token] = max(strongest.get(token, 0.0), float(mean[node]))
    top = sorted(strongest.items(), key=lambda pair: -pair[1])[:_LISTED]
    return {
        "strength": mean_over([[layer.max(axis=1) for layer in each.strength] for each in found]),
        "first_token_mass": mean_over([each.first_token_mass for each in found]),
        "entropy": mean_over([[layer.mean(axis=1) for layer in each.entropy] for each in found]),
        "n_sinks": [len(each.found) for each in found],
        "eps": found[0].eps,
        "strongest": [{"token": token, "strength": strength} for token, strength in top],
    }


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    counts = found["n_sinks"]
    where = f"{counted(len(counts), 'input')}, over all layers and heads"
    said = f"{counted(sum(counts), 'sink')} (strength above {found['eps']}) in {where}."
    rows = [[each["token"], each["strength"]] for each in found["strongest"]]
    return say(said) + table(["drawn on most", "mean strength"], rows)


SECTION = Section("sinks", "Sinks", "Tokens or nodes that attention collects on, whatever is said.", _draw, _measure)
