"""Influence over many hops: what attention would pass on if a layer were applied again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.analysis import AttentionMaps, influence
from graphattn.cli._inspect_html import say, shown
from graphattn.cli._inspect_sections.attributions import FEW, attributions, draw_attributions
from graphattn.cli._inspect_sections.section import Section, Study, attempt, example_title
from graphattn.cli._inspect_subject import WHOLE
from graphattn.cli._inspect_svg import heatmap

_DECAY = 0.5  # so that a path has one hop on average
_COLUMNS = 40


def _measure(study: Study) -> dict[str, Any]:
    found = attempt(_reach, study.maps[study.example])
    return {"decay": _DECAY, "reach": found} | attributions(study, influence_of, FEW)


def _reach(maps: AttentionMaps) -> dict[str, Any]:
    """Return the mean influence of each token, layer by layer."""
    _check_size(maps)
    reach = influence(maps, _DECAY).reach
    nodes = np.sort(np.argsort(-reach.max(axis=0), kind="stable")[:_COLUMNS])
    return {
        "of_nodes": maps.num_nodes,
        "nodes": [{"node": int(node), "token": maps.tokens[node]} for node in nodes],
        "values": reach[:, nodes].tolist(),
    }


def influence_of(maps: AttentionMaps, target: int | None) -> np.ndarray:
    """Return what reaches a target, or all tokens on average, over paths of every length through all layers."""
    _check_size(maps)
    values = influence(maps, _DECAY, stacked=True).values[-1]
    return np.asarray(values.mean(axis=0) if target is None else values[target])


def _check_size(maps: AttentionMaps) -> None:
    if maps.num_nodes > WHOLE:
        raise ValueError(f"influence is measured among up to {WHOLE} nodes; there are {maps.num_nodes:,}")


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    return shown(found["reach"], _draw_reach, model) + draw_attributions(found, model, "Influence")


def _draw_reach(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    values = [value for row in found["values"] for value in row]
    said = f"{example_title(model)}: {len(found['nodes'])} of {found['of_nodes']:,} nodes."
    names = [each["token"] for each in found["nodes"]]
    return say(said) + heatmap(found["values"], "mean influence, by layer", min(values), max(values), names)


SECTION = Section(
    "influence",
    "Influence over many hops",
    "What a token passes on within a layer over paths of every length, longer ones counting less: half of all paths "
    "have no hop, a quarter one, and so on. A model applies each layer once; this is how its graph connects tokens. "
    "The attribution below lets each layer take up what the one before has passed on.",
    _draw,
    _measure,
)
