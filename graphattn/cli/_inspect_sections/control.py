"""Control: whether attributions are about what the model has learned, by copies of it that have learned nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from torch import nn

from graphattn.analysis import randomized_control
from graphattn.analysis.randomized_control import rank_correlation
from graphattn.cli._inspect_html import counted, say, table
from graphattn.cli._inspect_sections.attributions import FEW, Attribute
from graphattn.cli._inspect_sections.check import UNCHECKED
from graphattn.cli._inspect_sections.flow import flow_of
from graphattn.cli._inspect_sections.influence import influence_of
from graphattn.cli._inspect_sections.section import Section, Study
from graphattn.cli._inspect_subject import Sample, attribution

_ATTRIBUTIONS: dict[str, Attribute] = {"rollout": attribution, "flow": flow_of, "influence": influence_of}
_COPIES = 3
_COPIED = 200_000_000  # parameters up to which a model is copied


def _measure(study: Study) -> dict[str, Any]:
    """Compare attributions with those of copies of the model whose weights are shuffled."""
    model, capture = study.subject.model, study.subject.capture
    if not study.check:
        raise ValueError(UNCHECKED)
    if model is None or capture is None:
        raise ValueError("saved maps have no model whose weights could be shuffled")
    size = sum(each.numel() for each in model.parameters())
    if size > _COPIED:
        raise ValueError(f"the model has {size:,} parameters; copies are made of up to {_COPIED:,}")
    used = [number for number, sample in enumerate(study.samples) if len(sample.maskable)][:FEW]
    if not used:
        raise ValueError("no token can be left out")
    samples = [study.samples[number] for number in used]
    names = [name for name, attribute in _ATTRIBUTIONS.items() if _fits(attribute, samples)]

    def attribute_all(other: nn.Module) -> np.ndarray:
        maps = [capture(other, number) for number in used]
        return np.concatenate(
            [
                # Ranks, so that no input outweighs the others.
                rankdata(_ATTRIBUTIONS[name](each, sample.target)[sample.maskable]) / len(sample.maskable)
                for name in names
                for each, sample in zip(maps, samples, strict=True)
            ]
        )

    found = randomized_control(model, attribute_all, copies=_COPIES, generator=study.generator())
    original = np.split(found.original, len(names))
    copies = np.split(found.randomized, len(names), axis=1)
    correlation = {
        name: [rank_correlation(own, row) for row in rows]
        for name, own, rows in zip(names, original, copies, strict=True)
    }
    return {"correlation": correlation, "copies": _COPIES, "inputs": len(used)}


def _fits(attribute: Attribute, samples: Sequence[Sample]) -> bool:
    """Tell whether inputs are small enough for an attribution."""
    try:
        for sample in samples:
            attribute(sample.maps, sample.target)
    except ValueError:
        return False
    return True


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    rows = []
    for name, values in found["correlation"].items():
        checks = model[name]["checked"]
        rows.append([name, checks["deletion_p"], checks["insertion_p"], *values])
    header = ["attribution", "deletion, p", "insertion, p", *(f"copy {copy}" for copy in range(1, _COPIES + 1))]
    return table(header, rows) + say(f"Copies are compared on {counted(found['inputs'], 'input')}.")


SECTION = Section(
    "control",
    "Are the attributions faithful?",
    "The p of the curves above, over all inputs that were checked: near 0 the order of an attribution beats random "
    "orders, about 0.5 it is like them. Beside it the rank correlation with the same attribution in copies of the "
    "model whose weights are shuffled: near 1 it says little about what was learned.",
    _draw,
    _measure,
)
