"""Whether an attribution is faithful: what the model says without the tokens that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphattn.analysis import faithfulness, removal_test
from graphattn.cli._inspect_html import beside, counted, number, say
from graphattn.cli._inspect_sections.section import Study
from graphattn.cli._inspect_subject import Sample
from graphattn.cli._inspect_svg import BLUE, ORANGE, lines

UNCHECKED = "left out by --no-check"
_MASKED = 0.2  # of the tokens, which the masking test takes away
_SETS = 30  # of other tokens that it tries
_STEPS, _ORDERS = 10, 10


def checked(study: Study, sample: Sample, relevance: np.ndarray) -> dict[str, Any]:
    """Take tokens away in the order of an attribution, and in random orders."""
    if not study.check:
        raise ValueError(UNCHECKED)
    if sample.score is None:
        raise ValueError("saved maps have no model to ask; take the attribution for where attention goes, no more")
    values, size = relevance[sample.maskable], len(sample.maskable)
    if size < 2:
        raise ValueError(f"{size} of the tokens can be left out; curves need at least 2")
    generator = study.generator()
    curves = faithfulness(sample.score, values, steps=_STEPS, samples=_ORDERS, generator=generator)
    chosen = np.argsort(-values, kind="stable")[: max(1, round(_MASKED * size))]
    removal = removal_test(sample.score, chosen.tolist(), size, samples=_SETS, generator=generator)
    return {
        "maskable": sample.maskable.tolist(),
        "fractions": curves.fractions.tolist(),
        "deletion": curves.deletion.tolist(),
        "insertion": curves.insertion.tolist(),
        "random_deletion": curves.random.mean(axis=0).tolist(),
        "random_insertion": curves.random.mean(axis=0)[::-1].tolist(),
        "deletion_area": curves.deletion_area,
        "insertion_area": curves.insertion_area,
        "deletion_p": curves.deletion_p,
        "insertion_p": curves.insertion_p,
        "masking": {
            "nodes": sample.maskable[list(removal.tokens)].tolist(),
            "drop": removal.drop,
            "random_drop": float(removal.random_drops.mean()) if len(removal.random_drops) else math.nan,
            "p": removal.p,
            "exact": removal.exact,
        },
    }


def summary(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average what the checks of all inputs say."""
    known = [check for check in checks if "missing" not in check]
    found: dict[str, Any] = {"inputs": len(known)}
    for name in ("deletion_area", "insertion_area", "deletion_p", "insertion_p"):
        found[name] = float(np.mean([check[name] for check in known])) if known else math.nan
    return found


def draw_check(found: Mapping[str, Any], scored: str) -> str:
    """Draw the curves of one input, beside those of random orders."""
    x = found["fractions"]
    drawn = lines(
        {
            "deletion": (x, found["deletion"], BLUE, ""),
            "deletion, random orders": (x, found["random_deletion"], BLUE, "4 3"),
            "insertion": (x, found["insertion"], ORANGE, ""),
            "insertion, random orders": (x, found["random_insertion"], ORANGE, "4 3"),
        },
        "share removed, or inserted",
        "score",
    )
    mask = found["masking"]
    said = (
        f"<p>Deletion area {number(found['deletion_area'])} (p = {number(found['deletion_p'])}), insertion area "
        f"{number(found['insertion_area'])} (p = {number(found['insertion_p'])}). Without the first "
        f"{len(mask['nodes'])} the score falls by {number(mask['drop'])}, without others by "
        f"{number(mask['random_drop'])} (p = {number(mask['p'])}).</p>"
    )
    return beside(drawn, say(f"Score: {scored}. {len(found['maskable'])} can be left out.") + said)


def draw_summary(found: Mapping[str, Any]) -> str:
    """Say what the checks of all inputs come to."""
    return (
        f"<p>Mean over {counted(found['inputs'], 'input')}: p = {number(found['deletion_p'])} for deletion and "
        f"{number(found['insertion_p'])} for insertion. About 0.5 is what a random order would have; near 0, the order "
        "beats random ones.</p>"
        if found["inputs"]
        else ""
    )
