"""Flow between parts: how much segments, or modalities, of an input read from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.analysis import modality_flow
from graphattn.analysis.modality import ModalityFlow
from graphattn.cli._inspect_html import beside, counted, say, table
from graphattn.cli._inspect_sections.section import Section, Study, flat, mean_over
from graphattn.cli._inspect_svg import heatmap

_GROUPS = 12


def _measure(study: Study) -> dict[str, Any]:
    samples = [sample for sample in study.samples if sample.parts is not None]
    if not samples:
        raise ValueError("no input has parts; texts have them as pairs, saved maps by an array parts")
    names = sorted({name for sample in samples for name in sample.parts or ()})
    if len(names) > _GROUPS:
        raise ValueError(f"the inputs have {len(names)} kinds of parts; flow is reported between up to {_GROUPS}")
    found = [modality_flow(sample.maps, list(sample.parts or ()), names=names) for sample in samples]
    return {
        "inputs": len(samples),
        "groups": names,
        "sizes": np.sum([each.sizes for each in found], axis=0).tolist(),
        "total": mean_over([_by_layer(each) for each in found]),
        "mass": mean_over([each.mass.mean(axis=0) for each in found]),
        "lift": mean_over([each.lift.mean(axis=0) for each in found]),
    }


def _by_layer(found: ModalityFlow) -> list[np.ndarray]:
    """Split the flow of each head by layers."""
    layer = found.heads[:, 0]
    return [found.total[layer == number] for number in range(int(layer.max()) + 1)]


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    values, groups = flat(found["total"]), found["groups"]
    picture = heatmap(found["total"], "weight given to other parts", min(values), max(values))
    tables = [
        f"<h3>{title}</h3>"
        + table(["reads \\ is read", *groups], [[name, *row] for name, row in zip(groups, found[key], strict=True)])
        for key, title in (("mass", "Mean weight"), ("lift", "As a multiple of what uniform attention gives"))
    ]
    return say(f"Mean over {counted(found['inputs'], 'input')} with parts, in the tables also over heads.") + beside(
        picture, *tables
    )


SECTION = Section(
    "modality",
    "Flow between parts",
    "Where an input has parts, such as the two texts of a pair or an image and words: the mean weight that a token of "
    "one part gives to all tokens of another. The definition is ours: the metric of this name that has been published "
    "comes without a formula.",
    _draw,
    _measure,
)
