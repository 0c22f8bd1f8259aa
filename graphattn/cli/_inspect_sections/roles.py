"""Roles: which heads look at the token before, at the first one, or at what followed an equal token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphattn.analysis import head_roles, pool_roles
from graphattn.analysis.roles import HeadRoles
from graphattn.cli._inspect_html import beside, shown, table
from graphattn.cli._inspect_sections.section import Section, Study, attempt, places_of
from graphattn.cli._inspect_subject import Sample


def _measure(study: Study) -> dict[str, Any]:
    probe = study.subject.probe
    return attempt(_on_inputs, study.samples) | {
        "probe": {"missing": "the probe is for language models that read some tokens"}
        if probe is None
        else _numbers(probe)
    }


def _on_inputs(samples: Sequence[Sample]) -> dict[str, Any]:
    if any(sample.ids is None for sample in samples):
        raise ValueError("roles are about the order of tokens, which the nodes of a graph do not have")
    # One token alone passes for causal, and is left out where the others are not.
    causal = all(sample.maps.causal for sample in samples)
    alike = [sample for sample in samples if sample.maps.causal == causal]
    return _numbers(pool_roles([head_roles(sample.maps, sample.ids) for sample in alike]))


def _numbers(found: HeadRoles) -> dict[str, Any]:
    return {
        "labels": list(found.labels()),
        "scores": {role: values.tolist() for role, values in found.scores.items()},
        "chance": dict(found.chance),
        "n_rows": dict(found.n_rows),
    }


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    titles = (("on the inputs", found), ("on random tokens, twice in a row", found["probe"]))
    return beside(*(f"<h3>{title}</h3>{shown(part, _table, model['heads'])}" for title, part in titles))


def _table(found: Mapping[str, Any], heads: Sequence[int]) -> str:
    places = places_of(heads)
    rows: list[list[object]] = []
    for role, scores in found["scores"].items():
        known = [(score, place) for place, score in enumerate(scores) if score is not None and score == score]
        best, place = max(known, default=(None, None))
        where = "–" if place is None else "layer {}, head {}".format(*places[place])
        rows.append([role, found["labels"].count(role), found["chance"][role], best, where])
    return table(["role", "heads", "by chance", "highest", "of"], rows)


SECTION = Section(
    "roles",
    "Roles",
    "Mean weight on the tokens of each role, beside what uniform attention gives. Attention says where a head looks, "
    "not what it does with what it finds.",
    _draw,
    _measure,
)
