"""How well every method ranks each set, by trec_eval's metrics and the bull's eye score."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _reranking_data import Array, RetrievalSet

from graphattn.retrieval import (
    AffinityFeatures,
    Auto,
    ContextualReranker,
    DatabaseAugmentation,
    Diffusion,
    GNNRerank,
    GraphConvolution,
    KReciprocal,
    QueryExpansion,
    RankDiffusion,
    Reranker,
    SuperGlobal,
)
from graphattn.retrieval.metrics import Evaluation, compare, evaluate, evaluate_bulls_eye

FIRST = "first stage"
MEASURES = ("map", "ndcg_cut_10", "recall_10", "recall_100", "P_1")
BULLS_EYE_SETS = ("MPEG-7",)
# Lists are as long as the gallery, but where the square of that, for every query, takes too long.
LONGEST = {"MPEG-7": 400}
PUBLISHED, OWN, OTHER, TRAINED = "published defaults", "own defaults", "other settings", "trained"


@dataclass(frozen=True)
class Method:
    """One row: how the re-ranker is made, and what the row is about."""

    make: Callable[..., Reranker] | None
    options: dict[str, Any] = field(default_factory=dict)
    settings: str = PUBLISHED
    augmented: DatabaseAugmentation | None = None

    @property
    def scope(self) -> str:
        return self.options.get("scope", "candidates")

    @property
    def transductive(self) -> bool:
        return self.options.get("transductive", False)


GALLERY = {"scope": "gallery"}
JOINT = {"scope": "gallery", "transductive": True}

METHODS: dict[str, Method] = {
    FIRST: Method(None),
    "QueryExpansion, average": Method(partial(QueryExpansion, "average")),
    "QueryExpansion, weighted": Method(partial(QueryExpansion, "weighted")),
    "QueryExpansion, alpha": Method(QueryExpansion),
    "DatabaseAugmentation, average": Method(None, GALLERY, augmented=DatabaseAugmentation()),
    "DatabaseAugmentation, alpha": Method(None, GALLERY, augmented=DatabaseAugmentation(32, "alpha")),
    "KReciprocal": Method(KReciprocal),
    "KReciprocal, gallery": Method(KReciprocal, GALLERY),
    "GNNRerank": Method(GNNRerank),
    "GNNRerank, residual": Method(partial(GNNRerank, variant="residual")),
    "GNNRerank, gallery": Method(GNNRerank, GALLERY),
    "GraphConvolution": Method(GraphConvolution),
    "Diffusion": Method(Diffusion),
    "Diffusion, 20 iterations": Method(partial(Diffusion, max_iter=20)),
    "Diffusion, gallery": Method(Diffusion, GALLERY),
    "Diffusion, offline": Method(partial(Diffusion, offline=True), GALLERY),
    "SuperGlobal": Method(SuperGlobal),
    "AffinityFeatures": Method(AffinityFeatures),
    "RankDiffusion": Method(RankDiffusion),
    "Auto": Method(Auto, settings=OWN),
    "Auto, no fallback": Method(partial(Auto, fallback=False), settings=OWN),
    "Diffusion, k 20, kq 3": Method(partial(Diffusion, 20, 3), settings=OTHER),
    "KReciprocal, transductive": Method(KReciprocal, JOINT),
    "GNNRerank, transductive": Method(GNNRerank, JOINT),
    "GraphConvolution, transductive": Method(GraphConvolution, {"transductive": True}),
    "RankDiffusion, transductive": Method(RankDiffusion, {"transductive": True}),
}

# mAP of the published defaults by the code of others.
ANCHORS: dict[str, dict[str, float]] = {
    "ORL-pixels": {
        FIRST: 0.531,
        "KReciprocal": 0.636,
        "Diffusion": 0.558,
        "GNNRerank": 0.559,
        "GraphConvolution": 0.450,
        "QueryExpansion, weighted": 0.513,
        "SuperGlobal": 0.427,
    },
    "MED": {
        FIRST: 0.721,
        "GNNRerank, transductive": 0.791,
        "KReciprocal, transductive": 0.769,
        "AffinityFeatures": 0.652,
    },
}
ANCHOR_GAP = 0.005


def methods_of(data: RetrievalSet, checkpoint: Path | None) -> dict[str, Method]:
    """Return the rows of a set: queries that are items of the gallery cannot be added to it once more."""
    methods = {name: m for name, m in METHODS.items() if not (m.transductive and data.leave_one_out)}
    if checkpoint is not None:
        methods["ContextualReranker"] = Method(partial(ContextualReranker.load, checkpoint), settings=TRAINED)
    return methods


def first_stage(queries: Array, gallery: Array, leave_one_out: bool) -> Array:
    """Return the ids of the gallery for every query, best first; ties go to the lowest id."""
    similarity = queries @ gallery.T
    if leave_one_out:
        np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")
    return order[:, :-1] if leave_one_out else order


def rank(data: RetrievalSet, method: Method) -> tuple[Array, dict[str, Any]]:
    """Return the list of every query, over the whole gallery, with the seconds and the protocol."""
    start = time.perf_counter()
    gallery = data.gallery if method.augmented is None else method.augmented.fit_transform(data.gallery)
    lists = first_stage(data.queries, gallery, data.leave_one_out)
    depth = min(LONGEST.get(data.name, lists.shape[1]), lists.shape[1])
    protocol = {
        "settings": method.settings,
        "scope": method.scope,
        "transductive": method.transductive,
        "self_excluded": data.leave_one_out,
    }
    if method.make is None:
        seconds = time.perf_counter() - start if method.augmented else 0.0
        return lists, {**protocol, "K": None, "fit_seconds": seconds, "seconds_per_query": 0.0}
    reranker = method.make(**method.options)
    reranker.top_k = min(reranker.top_k or depth, depth)
    start = time.perf_counter()
    if method.scope == "gallery":
        reranker.fit(gallery)
    fitted = time.perf_counter()
    own = np.arange(len(lists)) if data.leave_one_out and method.scope == "gallery" else None
    ranked = reranker.rerank(data.queries, gallery, lists, query_ids=own)
    took = time.perf_counter() - fitted
    record = {**protocol, "K": reranker.top_k, "fit_seconds": fitted - start, "seconds_per_query": took / len(lists)}
    if "confidence" in ranked.diagnostics:
        record["mean_confidence"] = float(ranked.diagnostics["confidence"].mean())
    return ranked.indices, record


def judge(data: RetrievalSet, lists: Array) -> Evaluation:
    """Evaluate lists over the whole gallery; queries without anything relevant are left out."""
    # Places stand in for scores, so that nothing is tied.
    run = {q: {int(d): -float(place) for place, d in enumerate(row)} for q, row in enumerate(lists)}
    qrels = {q: {int(d): int(row[d]) for d in np.flatnonzero(row)} for q, row in enumerate(data.relevance)}
    found = evaluate(run, {q: grades for q, grades in qrels.items() if grades}, MEASURES)
    if data.name not in BULLS_EYE_SETS:
        return found
    # Shapes of one class are relevant to one another; the first of them names it.
    classes = {q: min(q, *grades) for q, grades in qrels.items()}
    bulls_eye = evaluate_bulls_eye({q: {q: 1.0, **scores} for q, scores in run.items()}, classes)
    return Evaluation(found.per_query, {**found.mean, **bulls_eye.mean}, found.left_out)


def measure(data: RetrievalSet, method: Method, before: Evaluation) -> dict[str, Any]:
    """Rank and evaluate a set, and count the queries that gained average precision over the first stage, and lost."""
    lists, record = rank(data, method)
    after = judge(data, lists)
    # The bull's eye score is a mean alone.
    only = [Evaluation(x.per_query, {name: x.mean[name] for name in MEASURES}, {}) for x in (before, after)]
    changes = compare(*only)
    return {
        **record,
        "metrics": after.mean,
        "queries": len(after.per_query),
        "won": changes.wins["map"],
        "lost": changes.losses["map"],
    }
