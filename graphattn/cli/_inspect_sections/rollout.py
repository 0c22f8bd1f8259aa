"""Rollout: the attention of all layers multiplied, and whether it is faithful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphattn.cli._inspect_sections.attributions import attributions, draw_attributions
from graphattn.cli._inspect_sections.section import Section, Study
from graphattn.cli._inspect_subject import attribution


def _measure(study: Study) -> dict[str, Any]:
    return attributions(study, attribution)


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    return draw_attributions(found, model, "Rollout")


SECTION = Section(
    "rollout",
    "Rollout, and whether it is faithful",
    "A rollout multiplies the attention of the layers. It is shown with what the model says when the tokens it names "
    "are taken away (deletion should fall faster than in random orders) or kept alone (insertion should rise faster). "
    "Attention is no explanation by itself.",
    _draw,
    _measure,
)
