"""What became of lists: their metrics before and after, and how far their order changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphattn.cli._rerank_lists import List
from graphattn.retrieval.metrics import evaluate

MEASURES = ("map", "ndcg_cut_10", "recall_100", "P_1")
_TOP = 10
_BLOCK = 256


class Changes:
    """Gather lists before and after, query by query; of each stay some numbers.

    Args:
        qrels: Judgements ``{query: {document: grade}}``, empty if there are none.

    Attributes:
        first_changed: How many lists have another first document.
        top_changed: How many lists have other documents, or another order, among the first ten.
        emptied: How many lists lost all their documents.
    """

    def __init__(self, qrels: Mapping[str, Mapping[str, int]]) -> None:
        self.first_changed = self.top_changed = self.emptied = 0
        self._qrels = qrels
        self._before: dict[str, dict[str, float]] = {}
        self._after: dict[str, dict[str, float]] = {}
        self._values: list[np.ndarray] = []
        self._order: list[np.ndarray] = []
        self._rows: list[tuple[float, ...]] = []

    def add(self, before: List, after: List) -> None:
        """Take in the list of a query and what became of it."""
        self.first_changed += before.docs[:1] != after.docs[:1]
        self.top_changed += before.docs[:_TOP] != after.docs[:_TOP]
        self.emptied += bool(before.docs) and not after.docs
        place = {doc: number for number, doc in enumerate(before.docs)}
        places = np.array([place[doc] for doc in after.docs], dtype=np.int64)
        self._rows.append((_rank_correlation(places), places[0] + 1 if len(places) else np.nan, after.confidence))
        if self._qrels.get(before.query):
            self._before[before.query] = dict(zip(before.docs, before.scores.tolist(), strict=True))
            # The metrics see only the order, which in the file is strict also where scores are equal.
            self._after[before.query] = {doc: -float(rank) for rank, doc in enumerate(after.docs)}
        if len(self._rows) == _BLOCK:
            self._condense()

    def values(self) -> np.ndarray:
        """Return the metrics ``[judged queries, 2, measures]``, before and after."""
        self._condense()
        return np.concatenate([np.empty((0, 2, len(MEASURES))), *self._values])

    def order(self) -> np.ndarray:
        """Return ``[lists, 3]``: rank correlation, the rank that the first document had before, and confidence."""
        self._condense()
        return np.concatenate([np.empty((0, 3)), *self._order])

    def summary(self) -> dict[str, Any]:
        """Return what is printed and kept of all this; metrics only of judged queries."""
        order, values = self.order(), self.values()
        before, after = values[:, 0], values[:, 1]
        metrics = {
            name: {
                "before": float(before[:, column].mean()),
                "after": float(after[:, column].mean()),
                "wins": int((after[:, column] > before[:, column]).sum()),
                "ties": int((after[:, column] == before[:, column]).sum()),
                "losses": int((after[:, column] < before[:, column]).sum()),
            }
            for column, name in enumerate(MEASURES)
            if len(values)
        }
        return {
            "first_changed": self.first_changed,
            "top_10_changed": self.top_changed,
            "emptied": self.emptied,
            "rank_correlation": _mean(order[:, 0]),
            "confidence": _mean(order[:, 2]),
            "judged": len(values),
            "metrics": metrics,
        }

    def _condense(self) -> None:
        """Turn what has been gathered into numbers."""
        if self._rows:
            self._order.append(np.array(self._rows))
            self._rows = []
        if self._before:
            qrels: dict[Any, Any] = {query: self._qrels[query] for query in self._before}
            found = [evaluate(run, qrels, MEASURES).per_query for run in (self._before, self._after)]
            rows = [[[one[query][name] for name in MEASURES] for one in found] for query in self._before]
            self._values.append(np.array(rows))
            self._before, self._after = {}, {}


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of the values that are there, if any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _rank_correlation(places: np.ndarray) -> float:
    """Spearman's correlation of an order with the one before, given where each document was; NaN for less than two."""
    n = len(places)
    if n < 2:
        return np.nan
    rank = np.empty(n)
    rank[np.argsort(places)] = np.arange(n)
    return 1.0 - 6.0 * float(((rank - np.arange(n)) ** 2).sum()) / (n * (n * n - 1.0))
