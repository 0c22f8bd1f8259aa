"""Causal graph: learned from the attention of one head, with the test whether the model needs what it names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphattn._optional import is_available
from graphattn.analysis import CausalGraph, causal_graph, removal_test, sinks
from graphattn.cli._inspect_html import number, say, shown, text
from graphattn.cli._inspect_sections.check import UNCHECKED
from graphattn.cli._inspect_sections.section import PICTURE, Section, Study, attempt, example_title
from graphattn.cli._inspect_subject import WHOLE, Sample, attribution
from graphattn.cli._inspect_svg import network

_MAX_COND = 2  # tokens that a test holds fixed
_DENSE_NEIGHBORS = 10  # of a token, among which FCI tries all subsets
_SETS = 200  # of other tokens that the masking test tries


def _measure(study: Study) -> dict[str, Any]:
    """Learn the graph of the sharpest head of the last layer, over the tokens that matter most."""
    sample, n_samples = study.samples[study.example], study.n_samples or study.subject.width
    maps = sample.maps
    if maps.num_nodes > 4 * WHOLE:
        raise ValueError(f"the causal graph is of tokens; {maps.num_nodes} nodes are more than {4 * WHOLE}")
    if n_samples is None:
        raise ValueError("the tests need a number of samples, such as the width of the model; pass --n-samples")
    head = int(np.argmin(sinks(maps).entropy[-1].mean(axis=1)))
    relevance = attribution(maps, sample.target)
    nodes = np.sort(np.argsort(-relevance, kind="stable")[:PICTURE]).tolist()
    order = {"order": nodes} if maps.causal else {}

    def learn(learner: str) -> CausalGraph:
        return causal_graph(
            maps, n_samples, head=head, nodes=nodes, learner=learner, max_cond=_MAX_COND, on_zero="drop", **order
        )

    learner, notes = "skeleton", []
    found = learn(learner)
    most = max((len(found.pag.neighbors(node)) for node in found.pag.nodes), default=0)
    if most > _DENSE_NEIGHBORS:
        notes.append(f"a token keeps {most} neighbors, among which FCI would not end; edges have no directions")
    elif not is_available("causallearn"):
        notes.append("causal-learn is not installed (extra causal), so that edges have no directions")
    else:
        try:
            learner, found = "fci", learn("fci")
        except RuntimeError as error:
            learner = "skeleton"
            notes.append(f"FCI gave up, so that edges have no directions: {error}")
    edges = [
        {"source": i, "kind": kind, "target": j, "confidence": found.confidence(i, j)}
        for i, kind, j in found.pag.edges()
    ]
    return {
        "layer": maps.num_layers - 1,
        "head": head,
        "learner": learner,
        "n_samples": n_samples,
        "alpha": found.test.alpha,
        "max_cond": _MAX_COND,
        "n_tests": found.n_tests,
        "of_tokens": maps.num_nodes,
        "notes": notes,
        "nodes": [{"node": node, "token": maps.tokens[node]} for node in found.pag.nodes],
        "edges": edges,
        "masking": attempt(_mask, study, sample, found),
    }


def _mask(study: Study, sample: Sample, found: CausalGraph) -> dict[str, Any]:
    """Take the neighbors of the target away, and other tokens of the same number."""
    if not study.check:
        raise ValueError(UNCHECKED)
    if sample.score is None:
        raise ValueError("saved maps have no model to ask")
    if sample.target is None or sample.target not in found.pag.nodes:
        raise ValueError("the model is not asked about a single token of the graph, whose neighbors could be left out")
    places = np.flatnonzero(np.isin(sample.maskable, list(found.pag.neighbors(sample.target))))
    if not places.size:
        raise ValueError("the token that is explained has no neighbor that can be left out")
    test = removal_test(sample.score, places.tolist(), len(sample.maskable), samples=_SETS, generator=study.generator())
    drops = test.random_drops
    return {
        "nodes": sample.maskable[places].tolist(),
        "drop": test.drop,
        "random_drop": float(drops.mean()) if len(drops) else None,
        "p": test.p,
    }


def _draw(found: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    nodes = {each["node"]: each["token"] for each in found["nodes"]}
    said = (
        f"{example_title(model)}, layer {found['layer']}, head {found['head']} (the sharpest), {len(nodes)} of "
        f"{found['of_tokens']} tokens: learner {found['learner']}, {found['n_samples']} samples, alpha "
        f"{found['alpha']}, at most {found['max_cond']} tokens held fixed, {found['n_tests']:,} tests. Wider edges are "
        "surer; a circle is an end that the tests leave open."
    )
    notes = "".join(f'<p class="say warn">{text(note, 400)}</p>' for note in found["notes"])
    target = model["inputs"][model["example"]]["target"]
    drawn = network(nodes, _weighted(found["edges"]), True, target)
    return say(said) + drawn + notes + shown(found["masking"], _draw_mask, what="The graph was not put to the test")


def _weighted(edges: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, float, str]]:
    """Give edges the width of their confidence, and those that are infinitely sure the largest there is."""
    sure = [1.0 if each["confidence"] is None else each["confidence"] for each in edges]
    limit = max((value for value in sure if value < sys.float_info.max), default=1.0)
    return [
        (each["source"], each["target"], min(value, limit), each["kind"])
        for each, value in zip(edges, sure, strict=True)
    ]


def _draw_mask(found: Mapping[str, Any]) -> str:
    return (
        f"<p>Without the {len(found['nodes'])} neighbors of the token that is explained, the score falls by "
        f"{number(found['drop'])}, without others by {number(found['random_drop'])} (p = {number(found['p'])}).</p>"
    )


SECTION = Section(
    "causal",
    "Causal graph",
    "Learned from the attention of one head by tests of partial correlation: a hypothesis about the tokens, under the "
    "assumption of a linear model with as many samples as stated.",
    _draw,
    _measure,
)
