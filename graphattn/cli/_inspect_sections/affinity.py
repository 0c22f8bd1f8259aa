"""The affinity as a graph: the strongest edges of the last layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.cli._inspect_html import say
from graphattn.cli._inspect_sections.section import Section, Study, example_title
from graphattn.cli._inspect_subject import attribution
from graphattn.cli._inspect_svg import network

_DRAWN = 40  # nodes
_EDGES = 3  # for each of them
_STEP = 8  # nodes that are added to a drawing at a time


def _measure(study: Study) -> dict[str, Any]:
    sample = study.samples[study.example]
    maps = sample.maps
    (source, target), heads = maps.edges(-1)
    away = source != target
    source, target, weight = source[away], target[away], heads.mean(axis=1)[away]
    if maps.num_nodes <= _DRAWN:
        nodes = list(range(maps.num_nodes))
    else:
        start = sample.target if sample.target is not None else int(attribution(maps, None).argmax())
        nodes = _surroundings(start, source, target, weight, maps.num_nodes)
    kept = np.isin(source, nodes) & np.isin(target, nodes) & (weight > 0)
    order = np.argsort(-weight[kept], kind="stable")[: _EDGES * len(nodes)]
    edges = [
        {"source": int(j), "target": int(i), "weight": float(a)}
        for j, i, a in zip(source[kept][order], target[kept][order], weight[kept][order], strict=True)
    ]
    return {
        "layer": maps.num_layers - 1,
        "of_nodes": maps.num_nodes,
        "of_edges": int((weight > 0).sum()),
        "nodes": [{"node": node, "token": maps.tokens[node]} for node in nodes],
        "edges": edges,
    }


def _surroundings(start: int, source: np.ndarray, target: np.ndarray, weight: np.ndarray, size: int) -> list[int]:
    """Grow a set of nodes from one, by those whose edges with the set weigh most."""
    nodes = [start]
    while len(nodes) < _DRAWN:
        inside = np.isin(np.stack([source, target]), nodes)
        edge = inside[0] != inside[1]
        far = np.where(inside[0], target, source)[edge]
        total = np.bincount(far, weight[edge], minlength=size)
        near = np.flatnonzero(total > 0)
        if not near.size:
            break
        nodes += near[np.argsort(-total[near], kind="stable")][: min(_STEP, _DRAWN - len(nodes))].tolist()
    return sorted(nodes)


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    nodes = {each["node"]: each["token"] for each in found["nodes"]}
    edges = [(each["source"], each["target"], each["weight"], "->") for each in found["edges"]]
    example = model["inputs"][model["example"]]
    said = (
        f"{example_title(model)}, layer {found['layer']}: {len(nodes)} of {found['of_nodes']:,} nodes and {len(edges)} "
        f"of {found['of_edges']:,} edges; arrows point to the node that reads."
    )
    return say(said) + network(nodes, edges, example["ordered"] or not edges, example["target"])


SECTION = Section(
    "affinity",
    "The affinity as a graph",
    "The strongest edges of the last layer, the mean of its heads.",
    _draw,
    _measure,
)
