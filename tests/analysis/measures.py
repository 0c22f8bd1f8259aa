"""Every measure of attention maps, each as a function of the maps alone, and how the numbers of a result are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from graphattn import analysis
from graphattn.analysis import AttentionMaps, CausalGraph

OUTPUTS = np.random.default_rng(7).normal(size=(2, 16, 3))  # of two heads


def of_affinity(measure: Callable[..., Any]) -> Callable[[AttentionMaps], Any]:
    """Apply a measure of matrices to the affinity of each layer."""
    return lambda maps: np.stack([measure(maps.affinity(layer)) for layer in range(maps.num_layers)])


MEASURES: dict[str, Callable[[AttentionMaps], Any]] = {
    "symmetry": of_affinity(analysis.symmetry),
    "directionality": of_affinity(lambda A: analysis.directionality(A, gamma=0.5)),
    "rollout": analysis.rollout,
    "rollout_rows": lambda maps: analysis.rollout_rows(maps, [maps.num_nodes - 1]),
    "flow": lambda maps: analysis.flow(maps, targets=[maps.num_nodes - 1], normalize=False),
    "sinks": analysis.sinks,
    "sink_rate": lambda maps: analysis.sink_rate([maps]),
    "spectrum": analysis.spectrum,
    "explained_curves": lambda maps: analysis.explained_curves([analysis.spectrum(maps)]),
    "head_roles": lambda maps: analysis.head_roles(maps, maps.positions % 3),
    "offset_score": lambda maps: analysis.offset_score(maps, 1),
    "modality_flow": lambda maps: analysis.modality_flow(maps, maps.positions % 2, names=[0, 1]),
    "influence": lambda maps: analysis.influence(maps, sources=[0]),
    "centrality": analysis.centrality,
    "communities": analysis.communities,
    "head_similarity": lambda maps: analysis.head_similarity(
        [OUTPUTS[:, maps.positions]] * maps.num_layers, maps, ids=maps.positions, separators=[2], quantile=0.5
    ),
    "attention_threshold": analysis.attention_threshold,
    "causal_graph": lambda maps: analysis.causal_graph(maps, 768, head=0, learner="skeleton"),
}


def numbers(result: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Give every array and number of a result, with its name."""
    if isinstance(result, CausalGraph):
        yield from numbers((result.pag.marks, result.test.correlation), name)
    elif is_dataclass(result):
        for field in fields(result):
            yield from numbers(getattr(result, field.name), f"{name}.{field.name}")
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from numbers(value, f"{name}.{key}")
    elif isinstance(result, tuple | list):
        for place, value in enumerate(result):
            yield from numbers(value, f"{name}[{place}]")
    elif isinstance(result, np.ndarray | float | int):
        yield name, np.asarray(result)
