"""Similarity of head outputs: how alike a head makes the tokens, and what the most similar pairs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphattn.analysis import head_similarity, output_similarity
from graphattn.cli._inspect_html import counted, say
from graphattn.cli._inspect_sections.section import Section, Study, flat, mean_over
from graphattn.cli._inspect_subject import Sample
from graphattn.cli._inspect_svg import heatmap

_TITLES = {
    "mean_cosine": "mean cosine of two tokens",
    "same_token": "pairs of equal tokens",
    "mean_distance": "mean distance of a pair",
    "concentration": "pairs of one and the same token",
    "within_segment": "pairs within a segment",
    "separator_mass": "attention to separators",
}


def _measure(study: Study) -> dict[str, Any]:
    samples = [sample for sample in study.samples if sample.outputs is not None and sample.maps.num_nodes > 1]
    if not samples:
        raise ValueError("what heads gather is known of models with inputs of 2 to 512 tokens or nodes only")
    measured = [_of_heads(sample) for sample in samples]
    return {"inputs": len(samples)} | {name: mean_over([each[name] for each in measured]) for name in measured[0]}


def _of_heads(sample: Sample) -> dict[str, list[np.ndarray]]:
    """Measure each head; what is about the order of tokens is left out where there is none."""
    outputs = sample.outputs or ()
    cosines = [_mean_cosine(layer) for layer in outputs]
    if sample.ids is None:
        return {"mean_cosine": cosines}
    found = head_similarity(outputs, sample.maps, ids=sample.ids, separators=sample.separators)
    by_layer = {
        name: [getattr(found, name)[found.layer == layer] for layer in range(len(outputs))]
        for name in _TITLES
        if name != "mean_cosine"
    }
    return {"mean_cosine": cosines} | by_layer


def _mean_cosine(outputs: Any) -> np.ndarray:
    """Average the cosines of all pairs of different tokens, head by head."""
    means = []
    for vectors in outputs:
        cosines = output_similarity(vectors, normalize="cosine")
        size = len(cosines)
        means.append((cosines.sum() - np.trace(cosines)) / (size * (size - 1)))
    return np.array(means)


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    said = say(f"Mean over {counted(found['inputs'], 'input')}.")
    return said + "".join(_picture(found[name], title) for name, title in _TITLES.items() if name in found)


def _picture(rows: Sequence[Sequence[float | None]], title: str) -> str:
    values = flat(rows)
    return heatmap(rows, title, min(values), max(values)) if values else ""


SECTION = Section(
    "similarity",
    "Similarity of head outputs",
    "How alike a head makes the tokens or nodes: the cosine of what it gathers for two of them. The other pictures are "
    "of the twentieth of all pairs whose scalar products are largest; their definitions are those of this library.",
    _draw,
    _measure,
)
