"""Inf-FS against the dense inverse: the same ranking first, then time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from _measure import peak_extra
from _results import available_bytes, fresh_process, recording_failure, summary
from scipy.sparse.linalg import eigsh
from scipy.stats import kendalltau, rankdata
from tqdm import tqdm

from graphattn.selection import InfFS

ALPHA = 0.5
DECAY = 0.9
DENSE = "dense inverse"
PYIFS = "PyIFS formula"
OURS = "graphattn"
BLOCKED = "graphattn, blocked"
DENSE_MATRICES = 6  # n x n, float64, that the dense candidates hold at once
ONCE_SECONDS = 60.0  # a candidate that takes longer than this is not timed again
TAU = 0.9999  # at the default tolerances
GAP = 1e-6  # relative; scores further apart than this keep their order at the tight tolerances
TIGHT = {"tol": 1e-10, "rho_tol": 1e-8}
TIME_LIMIT = 1800.0  # seconds of a fresh process


@dataclass(frozen=True)
class Size:
    """Shape of a table: features are the nodes of the graph."""

    features: int
    samples: int

    def __str__(self) -> str:
        return f"{self.features:,} x {self.samples}"


SIZES = [*(Size(n, 100) for n in (500, 1000, 2000, 5000, 10_000)), Size(9712, 60)]
QUICK_SIZES = [Size(60, 20), Size(90, 15)]
LARGE, QUICK_LARGE = Size(100_000, 100), Size(200, 20)
PRECISION, QUICK_PRECISION = Size(10_000, 100), Size(90, 15)


def synthetic(size: Size) -> np.ndarray:
    """Return correlated features of different spread: a few common factors and noise, seeded."""
    random = np.random.default_rng(0)
    factors = random.standard_normal((size.samples, 20))
    X = factors @ random.standard_normal((20, size.features)) / np.sqrt(20)
    X += random.standard_normal(X.shape)
    X *= np.exp(0.5 * random.standard_normal(size.features))
    return X


def dense_scores(X: np.ndarray) -> np.ndarray:
    """Score features by the published formula with the inverse written out, in float64.

    The radius comes from a Lanczos iteration: all eigenvalues, as published, would take far longer than the inverse.
    """
    ranks = rankdata(X, axis=0)
    spread = _dispersion(X)
    A = ALPHA * np.maximum(spread[:, None], spread) + (1 - ALPHA) * (1 - np.abs(np.corrcoef(ranks, rowvar=False)))
    return _all_paths(A)


def pyifs_scores(X: np.ndarray) -> np.ndarray:
    """Score features by the formula of the package PyIFS 0.0.3, whose own code fails on import.

    It takes the rank correlation as it is, so that redundant features score high and opposite ones negatively.
    """
    correlation = np.corrcoef(rankdata(X, axis=0), rowvar=False)
    spread = _dispersion(X)
    A = ALPHA * correlation + (1 - ALPHA) * np.maximum(spread[:, None], spread)
    return _all_paths(A)


def _dispersion(X: np.ndarray) -> np.ndarray:
    std = X.std(axis=0, ddof=1)
    return (std - std.min()) / (std.max() - std.min())


def _all_paths(A: np.ndarray) -> np.ndarray:
    identity = np.eye(len(A))
    radius = eigsh(A, k=1, which="LA", v0=np.ones(len(A)), return_eigenvectors=False)[0]
    return (np.linalg.inv(identity - DECAY / radius * A) - identity).sum(axis=1)


def our_scores(X: np.ndarray, **options: Any) -> np.ndarray:
    """Score features with :class:`~graphattn.selection.InfFS`."""
    return InfFS(alpha=ALPHA, decay=DECAY, **options).fit(X).scores_


def blocked_scores(X: np.ndarray, **options: Any) -> np.ndarray:
    """Do the same and never store the affinity."""
    return our_scores(X, store="blocked", **options)


CANDIDATES: dict[str, Callable[..., np.ndarray]] = {
    DENSE: dense_scores,
    PYIFS: pyifs_scores,
    OURS: our_scores,
    BLOCKED: blocked_scores,
}
# These compute something else or are the truth themselves; all others are held to the ranking of the dense inverse.
OTHERS = (DENSE, PYIFS)


def measure(size: Size, repeats: int, threads: int, quick: bool) -> dict[str, Any]:
    """Check, time and weigh every candidate on one table."""
    X = synthetic(size)
    records: dict[str, Any] = {name: {"status": "ok"} for name in CANDIDATES}
    needed = DENSE_MATRICES * 8 * size.features**2
    if needed > available_bytes():
        reason = f"the {DENSE}, which all are checked against, needs {needed / 2**30:.0f} GiB (estimated)"
        records = {name: {"status": "skipped", "reason": reason} for name in CANDIDATES}
    check_agreement(X, records)
    time_candidates(X, records, repeats)
    if not quick:
        for name in tqdm([name for name, record in records.items() if record["status"] == "ok"], "memory", leave=False):
            with recording_failure(records[name]):
                spec = {"do": "weigh", "size": asdict(size), "candidate": name, "threads": threads}
                records[name]["peak_extra_bytes"] = fresh_process("feature_selection.py", spec, TIME_LIMIT)["peak"]
    return {**asdict(size), "candidates": records}


def check_agreement(X: np.ndarray, records: dict[str, Any]) -> None:
    """Compare every candidate's ranking with that of the dense inverse; mark those that differ as WRONG.

    At the default tolerances Kendall's tau has to reach 0.9999. At the tight ones every two features whose true scores
    differ by more than 1e-6 of the larger have to keep their order.
    """
    truth: np.ndarray | None = None
    for name, score in tqdm(CANDIDATES.items(), desc="agreement", leave=False):
        record = records[name]
        if record["status"] != "ok":
            continue
        with recording_failure(record):
            start = time.perf_counter()
            scores = score(X)
            record["first_seconds"] = time.perf_counter() - start
            if name == DENSE:
                truth = scores
                continue
            if truth is None:
                raise RuntimeError(f"there is no ranking of the {DENSE} to compare with")
            record["agreement"] = {"tau": _tau(truth, scores)}
            if name not in OTHERS:
                moved = misplaced(truth, score(X, **TIGHT))
                record["agreement"]["misplaced"] = moved
                if not record["agreement"]["tau"] >= TAU or moved:
                    record |= {"status": "WRONG", "reason": f"its ranking differs from that of the {DENSE}"}


def misplaced(truth: np.ndarray, scores: np.ndarray) -> int:
    """Count the features that stand before one whose true score is larger by more than the gap."""
    ranked = truth[np.argsort(-scores, kind="stable")]
    largest_after = np.maximum.accumulate(ranked[::-1])[::-1][1:]
    return int((largest_after - ranked[:-1] > GAP * np.abs(largest_after)).sum())


def _tau(truth: np.ndarray, scores: np.ndarray) -> float:
    return float(kendalltau(truth, scores).statistic)


def time_candidates(X: np.ndarray, records: dict[str, Any], repeats: int) -> None:
    """Let the candidates take turns, another one first in each round; the agreement check has warmed them up."""
    ready = [name for name, record in records.items() if record["status"] == "ok"]
    seconds: dict[str, list[float]] = {}
    for name in ready:
        first = records[name]["first_seconds"]
        seconds[name] = [first] if first > ONCE_SECONDS else []
    timed = [name for name in ready if not seconds[name]]
    for turn in tqdm(range(repeats), desc="rounds", leave=False):
        shift = turn % max(len(timed), 1)
        for name in timed[shift:] + timed[:shift]:
            with recording_failure(records[name]):
                start = time.perf_counter()
                CANDIDATES[name](X)
                seconds[name].append(time.perf_counter() - start)
    for name in ready:
        if records[name]["status"] == "ok":
            records[name]["fit"] = summary(seconds[name])


def weigh(size: Size, name: str) -> dict[str, Any]:
    """Measure the peak extra memory of a candidate; meaningful in a fresh process only."""
    CANDIDATES[name](synthetic(QUICK_SIZES[0]))
    X = synthetic(size)
    return {"peak": peak_extra(lambda: CANDIDATES[name](X))}


def rank_large(size: Size) -> dict[str, Any]:
    """Rank a table whose affinity would not fit into memory, with progress; meaningful in a fresh process only."""
    our_scores(synthetic(QUICK_SIZES[0]).astype(np.float32))
    X = synthetic(size).astype(np.float32)
    selector = InfFS(alpha=ALPHA, decay=DECAY, verbose=True)
    took: list[float] = []

    def fit() -> None:
        start = time.perf_counter()
        selector.fit(X)
        took.append(time.perf_counter() - start)

    peak = peak_extra(fit)
    return {
        **asdict(size),
        "seconds": took[0],
        "peak_extra_bytes": peak,
        "iterations": int(selector.n_iter_),
        "residual": float(selector.residual_),
        "radius_certified": bool(selector.rho_certified_),
    }


def compare_precisions(size: Size) -> dict[str, Any]:
    """Compare scores computed in float32, at its closest tolerance of the radius, with those in float64."""
    X = synthetic(size).astype(np.float32)
    single, double = our_scores(X, rho_tol=1e-6), our_scores(X.astype(np.float64), **TIGHT)
    places = [np.argsort(-scores, kind="stable") for scores in (single, double)]
    return {
        **asdict(size),
        "tau": _tau(double, single),
        "largest_difference": float(np.abs(single - double).max() / np.abs(double).max()),
        "same_place": float((places[0] == places[1]).mean()),
        "misplaced": misplaced(double, single),
    }
