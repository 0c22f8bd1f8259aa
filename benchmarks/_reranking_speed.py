"""Time and memory of every method, and of two of them against the published form with the matrix of all pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import _reranking_published as published
import numpy as np
import torch
import torch.nn.functional as F
from _measure import peak_extra
from _results import available_bytes, recording_failure, summary
from torch import Tensor

from graphattn.retrieval import (
    AffinityFeatures,
    Auto,
    Diffusion,
    GNNRerank,
    GraphConvolution,
    KReciprocal,
    QueryExpansion,
    RankDiffusion,
    Reranker,
    SuperGlobal,
)

TIME_LIMIT = 1800.0  # seconds of a fresh process
ONCE_SECONDS = 60.0  # what takes longer than this is not timed again
WARM_UP_CALLS, LATENCY_CALLS = 20, 200
DENSE_LIMIT = 16 * 2**30  # bytes; a dense form that needs more is not run
HEAD = 20  # places that are compared with the dense form
GAP = 1e-5  # scores closer than this may change places: they are sums in float32
AGREEING = 0.99  # part of the queries whose heads have to agree
SIZES = (2000, 5000, 10_000, 20_000, 50_000)


@dataclass(frozen=True)
class Load:
    """How many queries, how long their lists, and vectors of what width, in a gallery of what size."""

    queries: int
    candidates: int
    width: int
    gallery: int


BATCH, QUICK_BATCH = Load(1000, 500, 512, 10_000), Load(6, 20, 16, 60)
SINGLE, QUICK_SINGLE = Load(1, 100, 384, 10_000), Load(1, 12, 16, 60)
JOINT, QUICK_JOINT = Load(100, 500, 512, 0), Load(5, 30, 16, 0)
QUICK_SIZES = (60, 90)
_WARM_UP = Load(3, 30, 16, 60)

BATCH_METHODS: dict[str, Callable[[], Reranker]] = {
    "QueryExpansion": QueryExpansion,
    "KReciprocal": KReciprocal,
    "GNNRerank": GNNRerank,
    "GraphConvolution": GraphConvolution,
    "Diffusion": Diffusion,
    "SuperGlobal": SuperGlobal,
    "AffinityFeatures": AffinityFeatures,
    "RankDiffusion": RankDiffusion,
    "Auto": Auto,
    "KReciprocal, gallery": partial(KReciprocal, scope="gallery"),
    "Diffusion, gallery": partial(Diffusion, scope="gallery"),
    "Diffusion, offline": partial(Diffusion, scope="gallery", offline=True),
}
SINGLE_METHODS = {name: make for name, make in BATCH_METHODS.items() if "," not in name}
# Seconds and GiB, and milliseconds of one core.
BATCH_TARGETS = {
    "QueryExpansion": (10.0, 2.0),
    "SuperGlobal": (10.0, 2.0),
    "AffinityFeatures": (10.0, 2.0),
    "GraphConvolution": (30.0, None),
}
SINGLE_TARGETS = {"AffinityFeatures": 10.0, "Auto": 10.0}

DENSE, OURS, FITTED = "published, dense", "graphattn, same scores", "graphattn, fitted gallery"
# What each form is compared by: the dense one, bytes of it per pair of nodes, and ours.
SCALED: dict[str, tuple[Callable[..., np.ndarray], int, Callable[..., Reranker]]] = {
    "k-reciprocal": (published.k_reciprocal, published.K_RECIPROCAL_BYTES, KReciprocal),
    "GNN": (published.gnn, published.GNN_BYTES, GNNRerank),
}
FORMS = {"k-reciprocal": (DENSE, OURS, FITTED), "GNN": (DENSE, OURS)}
SCALE_TARGET = ("k-reciprocal", 10_000, 20.0)  # times less memory than the dense form, and faster


def synthetic(load: Load) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, gallery and first-stage lists: clusters of about 20 items and noise, seeded."""
    generator = torch.Generator().manual_seed(0)
    clusters = max(2, load.gallery // 20)
    centers = torch.randn(clusters, load.width, generator=generator)
    which = torch.randint(clusters, (load.gallery + load.queries,), generator=generator)
    x = centers[which] + 1.2 * torch.randn(which.numel(), load.width, generator=generator)
    gallery, queries = F.normalize(x[: load.gallery]), F.normalize(x[load.gallery :])
    lists = [(block @ gallery.T).topk(load.candidates).indices for block in queries.split(64)]
    return queries, gallery, torch.cat(lists)


def run_batch(name: str, load: Load, repeats: int) -> dict[str, Any]:
    """Time and weigh one method; meaningful in a fresh process only."""
    make = BATCH_METHODS[name]
    _reranked(make, *synthetic(_WARM_UP))
    data = synthetic(load)
    times: list[tuple[float, float]] = []
    peak = peak_extra(lambda: times.append(_reranked(make, *data)[1]))
    while len(times) < repeats and sum(times[0]) <= ONCE_SECONDS:
        times.append(_reranked(make, *data)[1])
    fit, rerank = zip(*times, strict=True)
    return {"fit": summary(fit), "rerank": summary(rerank), "peak_extra_bytes": peak}


def run_single(name: str, load: Load) -> dict[str, Any]:
    """Time one query at a time."""
    reranker = SINGLE_METHODS[name]()
    data = synthetic(load)
    seconds = []
    for _ in range(WARM_UP_CALLS + LATENCY_CALLS):
        start = time.perf_counter()
        reranker.rerank(*data)
        seconds.append(time.perf_counter() - start)
    seconds = seconds[WARM_UP_CALLS:]
    return {"median": statistics.median(seconds), "p90": float(np.quantile(seconds, 0.9)), "calls": len(seconds)}


def run_scale(method: str, form: str, load: Load) -> dict[str, Any]:
    """Score the lists by one form of a method; meaningful in a fresh process only."""
    dense, _, make = SCALED[method]
    found: list[tuple[np.ndarray, tuple[float, float]]] = []

    def score(queries: Tensor, gallery: Tensor, lists: Tensor) -> None:
        if form == DENSE:
            start = time.perf_counter()
            scores = dense(queries.numpy(), gallery.numpy())
            took = time.perf_counter() - start
            found.append((np.take_along_axis(scores, lists.numpy(), 1), (0.0, took)))
        else:
            joint = {"transductive": True} if form == OURS else {}
            found.append(_reranked(partial(make, scope="gallery", **joint), queries, gallery, lists))

    score(*synthetic(_WARM_UP))
    data = synthetic(load)
    peak = peak_extra(lambda: score(*data))
    scores, (fit, rerank) = found[-1]
    answer = {"fit_seconds": fit, "seconds": rerank, "peak_extra_bytes": peak}
    return answer if form == FITTED else {**answer, "scores": scores.tolist()}


def _reranked(
    make: Callable[[], Reranker], queries: Tensor, gallery: Tensor, lists: Tensor
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the scores of the candidates as the lists came in, and the seconds of fit and rerank."""
    reranker = make()
    start = time.perf_counter()
    if reranker.scope == "gallery":
        reranker.fit(gallery)
    fitted = time.perf_counter()
    ranked = reranker.rerank(queries, gallery, lists)
    took = time.perf_counter() - fitted
    scores = torch.empty_like(ranked.scores).scatter_(1, ranked.order, ranked.scores)
    return scores.numpy(), (fitted - start, took)


def measure_scale(load: Load, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Have every form run at one size of the gallery, and compare the heads of the lists."""
    records: dict[str, Any] = {}
    for method, forms in FORMS.items():
        scores: dict[str, np.ndarray] = {}
        records[method] = {form: {"status": "ok"} for form in forms}
        for form, record in records[method].items():
            needed = SCALED[method][1] * (load.gallery + load.queries) ** 2
            if form == DENSE and needed > min(DENSE_LIMIT, available_bytes()):
                record |= {"status": "skipped", "reason": f"it needs {needed / 2**30:.0f} GiB (estimated)"}
                continue
            with recording_failure(record):
                record |= ask({"do": "scale", "method": method, "form": form, "load": asdict(load)})
                if "scores" in record:
                    scores[form] = np.array(record.pop("scores"))
        if len(scores) == 2:
            record = records[method][OURS]
            record["agreement"] = agreement(scores[DENSE], scores[OURS])
            if record["agreement"]["queries"] < AGREEING:
                record |= {"status": "WRONG", "reason": "the heads of its lists differ from those of the dense form"}
    return {**asdict(load), "methods": records}


def agreement(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Compare the first places of two rankings of the same candidates.

    ``"same_place"`` is the part of the places with the same candidate; ``"queries"`` that of the queries of which no
    place has a candidate whose true score is off what belongs there by more than the gap.
    """
    ours, theirs = (np.argsort(-x, axis=1, kind="stable")[:, :HEAD] for x in (scores, truth))
    off = np.abs(np.take_along_axis(truth, ours, 1) - np.take_along_axis(truth, theirs, 1)).max(axis=1)
    return {"same_place": float((ours == theirs).mean()), "queries": float((off <= GAP).mean())}
