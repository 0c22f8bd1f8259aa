"""Symmetry by depth: of the attention, and of the products of query and key weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.analysis import query_key_symmetry, symmetry
from graphattn.cli._inspect_html import say
from graphattn.cli._inspect_sections.section import Section, Study, mean_over
from graphattn.cli._inspect_svg import BLUE, GREY, lines

# Medians over layers of published encoders and decoders.
_PUBLISHED = {False: (0.18, 0.77, "encoders, published"), True: (0.0, 0.19, "decoders, published")}


def _measure(study: Study) -> dict[str, Any]:
    of_maps = [
        [np.atleast_1d(symmetry(maps.affinity(layer))) for layer in range(maps.num_layers)] for maps in study.maps
    ]
    weights: list[float | None] = []
    directions: list[float | None] = []
    for pair in study.subject.query_key:
        found = None if pair is None else query_key_symmetry([pair[:2]], heads=pair[2])
        weights.append(None if found is None else float(found.symmetry[0]))
        directions.append(None if found is None else float(found.directionality[0]))
    return {"maps": mean_over(of_maps), "query_key": weights, "query_key_directionality": directions}


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    means = [[value for value in row if value is not None] for row in found["maps"]]
    depth = list(range(len(means)))
    series = {"attention": (depth, [sum(row) / len(row) if row else None for row in means], GREY, "4 3")}
    weights = found["query_key"]
    if len(weights) != len(depth) or all(value is None for value in weights):
        return lines(series, "layer", "symmetry", least=(0.0, 1.0)) + say("Query-key weights are not known here.")
    series["query-key weights"] = (depth, weights, BLUE, "")
    band = _PUBLISHED[model["causal_mask"]] if model["scored"] and model["inputs"][0]["ordered"] else None
    return lines(series, "layer", "symmetry", band, least=(0.0, 1.0))


SECTION = Section(
    "symmetry",
    "Symmetry by depth",
    "1 is symmetric, 0 that of random weights, -1 skew. Bidirectional training is known to make query-key weights "
    "symmetric.",
    _draw,
    _measure,
)
