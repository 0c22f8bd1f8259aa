"""Flow: what inputs could at most have passed on through all layers, and whether it is faithful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.analysis import AttentionMaps, flow
from graphattn.cli._inspect_sections.attributions import FEW, attributions, draw_attributions
from graphattn.cli._inspect_sections.section import Section, Study

# Targets times inputs times edges that one attribution may take: a second or two.
_WORK = 3e7


def _measure(study: Study) -> dict[str, Any]:
    return attributions(study, flow_of, FEW)


def flow_of(maps: AttentionMaps, target: int | None) -> np.ndarray:
    """Return the flow from a target, or the mean of those from all tokens, or from as many as there is time for."""
    size = maps.num_nodes
    edges = sum(
        len(maps.edges(layer)[1]) + size if maps.is_sparse(layer) else size**2 for layer in range(maps.num_layers)
    )
    most = int(_WORK / (size * edges))
    if not most:
        raise ValueError(f"flow over {size:,} nodes and {edges:,} edges would take too long")
    spread = np.linspace(0, size - 1, min(size, most)).round().astype(int).tolist()
    targets = spread if target is None else [target]
    return np.asarray(flow(maps, targets=targets).flow[-1].mean(axis=0))


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    return draw_attributions(found, model, "Flow")


SECTION = Section(
    "flow",
    "Attention flow",
    "The maximum flow from a token of the last layer down to each input, with attention as capacities: what could have "
    "passed at most, where a rollout adds up what passes at the rates of the layers. Of the first inputs, as it takes "
    "long.",
    _draw,
    _measure,
)
