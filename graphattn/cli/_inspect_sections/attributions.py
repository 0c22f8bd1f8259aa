"""Attributions to tokens or nodes: what each receives, with the checks whether the model agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphattn.analysis import AttentionMaps
from graphattn.cli._inspect_html import beside, number, say, shown, table, text
from graphattn.cli._inspect_sections.check import checked, draw_check, draw_summary, summary
from graphattn.cli._inspect_sections.section import Study, attempt
from graphattn.cli._inspect_subject import Sample
from graphattn.cli._inspect_svg import shade

Attribute = Callable[[AttentionMaps, int | None], np.ndarray]

FEW = 3  # inputs for what takes long, and those that are open on the page
_SHOWN = 128  # tokens of an input
_DRAWN = 20  # inputs on the page
_LISTED = 10  # nodes of a graph on the page


def attributions(study: Study, attribute: Attribute, most: int | None = None) -> dict[str, Any]:
    """Attribute what is said of each input to its tokens, and ask the model whether it is so.

    Args:
        study: The model and its inputs.
        attribute: Makes a value for each token, of attention maps and of a target or ``None`` for all tokens.
        most: Inputs that are looked at, the first; all by default.
    """
    inputs = [attempt(_of_input, study, sample, attribute) for sample in study.samples[:most]]
    return {
        "inputs": inputs,
        "checked": summary([each["faithfulness"] for each in inputs if "faithfulness" in each]),
    }


def _of_input(study: Study, sample: Sample, attribute: Attribute) -> dict[str, Any]:
    tokens = sample.maps.tokens
    relevance = attribute(sample.maps, sample.target)
    largest = np.sort(np.argsort(-relevance, kind="stable")[:_SHOWN])
    return {
        "target": sample.target,
        "target_token": None if sample.target is None else tokens[sample.target],
        "of_nodes": len(tokens),
        "tokens": [{"node": int(node), "token": tokens[node], "relevance": float(relevance[node])} for node in largest],
        "faithfulness": attempt(checked, study, sample, relevance),
    }


def draw_attributions(found: Mapping[str, Any], model: Mapping[str, Any], name: str) -> str:
    """Show the tokens of each input by what they receive, and what the checks say."""
    parts = [draw_summary(found["checked"])]
    for place, (own, whole) in enumerate(zip(found["inputs"][:_DRAWN], model["inputs"], strict=False)):
        inner = shown(own, _draw_input, name, whole["ordered"], model["scored"])
        opened = " open" if place < FEW else ""
        parts.append(f"<details{opened}><summary>{text(whole['title'], 90)}</summary>{inner}</details>")
    return "".join(parts)


def _draw_input(found: Mapping[str, Any], name: str, ordered: bool, scored: str) -> str:
    tokens = found["tokens"]
    read = "the mean over all rows" if found["target"] is None else f"what {found['target_token']} receives"
    cut = "" if len(tokens) == found["of_nodes"] else f"; {len(tokens)} of {found['of_nodes']:,} are in the JSON"
    said = say(f"{name}: {read}{cut}.")
    check = shown(found["faithfulness"], draw_check, scored, what="Faithfulness was not checked")
    if ordered:
        return said + _shaded(tokens, found["target"], found["faithfulness"].get("maskable")) + check
    best = sorted(tokens, key=lambda each: -each["relevance"])[:_LISTED]
    return said + beside(table(["node", name.lower()], [[each["token"], each["relevance"]] for each in best]), check)


def _shaded(tokens: Sequence[Mapping[str, Any]], target: int | None, maskable: Sequence[int] | None) -> str:
    """Write tokens on a ground that is the darker, the more they receive.

    The range is that of the tokens that can be left out, so that separators, which often receive most, hide no other.
    """
    chosen = [each["relevance"] for each in tokens if not maskable or each["node"] in maskable]
    low, high = min(chosen, default=0.0), max(chosen, default=0.0)
    spans = []
    for each in tokens:
        share = 0.85 * min(max((each["relevance"] - low) / (high - low), 0.0), 1.0) if high > low else 0.0
        colour = "#fff" if share > 0.55 else "#222"
        marked = ' class="target"' if each["node"] == target else ""
        spans.append(
            f'<span{marked} style="background:{shade(share)};color:{colour}" '
            f'title="{number(each["relevance"])}">{text(each["token"])}</span>'
        )
    among = " among those that can be left out" if maskable else ""
    return f'<p class="tokens">{" ".join(spans)}</p>' + say(f"{number(low)} (white) to {number(high)}{among}.")
