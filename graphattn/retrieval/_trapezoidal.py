"""The protocols of the revisited Oxford and Paris landmarks: trapezoidal average precision, with ignored images."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from graphattn.retrieval._evaluation import Evaluation, read_scores

# What each protocol takes for positive; the rest that is labelled is ignored.
_POSITIVE = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
_LABELS = ("easy", "hard", "junk")


def trapezoidal_average_precision(positions: Sequence[int] | np.ndarray, num_positives: int) -> float:
    r"""Compute the area under the precision-recall curve by trapezoids.

    .. math::
        AP = \frac{1}{R} \sum_{j=1}^{m} \frac{1}{2}\Bigl(a_j + \frac{j}{p_j + 1}\Bigr), \quad
        a_j = \begin{cases} 1 & p_j = 0 \\ (j - 1)/p_j & \text{else} \end{cases}

    trec_eval's average precision has :math:`j/(p_j + 1)` alone and is never smaller; do not mix them.

    Args:
        positions: Where the positives stand in the list, :math:`p_1, \ldots, p_m`, counted from 0.
        num_positives: All positives :math:`R`; those that are not in the list count as missed.

    Returns:
        The area, in [0, 1].

    Raises:
        ValueError: If a position is negative or comes twice, or there are fewer positives than positions, or none.

    Example:
        >>> trapezoidal_average_precision([0, 2], 2)
        0.7916666666666666

    Reference:
        Philbin et al., "Object Retrieval with Large Vocabularies and Fast Spatial Matching", 2007; code of Radenović et
        al., "Revisiting Oxford and Paris", 2018.
    """
    p = np.sort(np.asarray(positions, dtype=np.int64))
    if p.size and (p[0] < 0 or (p[1:] == p[:-1]).any()):
        raise ValueError(f"positions is {p.tolist()}; expected different positions of at least 0")
    if num_positives < max(1, p.size):
        raise ValueError(f"num_positives is {num_positives}; expected at least {max(1, p.size)}")
    j = np.arange(1, p.size + 1)
    before = np.where(p == 0, 1.0, (j - 1) / np.maximum(p, 1))
    return float((before + j / (p + 1)).sum() / (2 * num_positives))


def evaluate_revisited(
    run: Any,
    ground_truth: Mapping[Hashable, Mapping[str, Collection[Hashable]]],
    protocol: str = "medium",
    cutoffs: Sequence[int] = (1, 5, 10),
) -> Evaluation:
    r"""Evaluate result lists by the Easy, Medium or Hard protocol of revisited Oxford and Paris.

    =========  ============  ============
    protocol   positive      ignored
    =========  ============  ============
    easy       easy          junk, hard
    medium     easy, hard    junk
    hard       hard          junk, easy
    =========  ============  ============

    What is ignored is taken out of the lists, after they are ranked. ``"map_trapezoidal"`` is the mean of
    :func:`trapezoidal_average_precision`; ``"mP@k"`` is the part of positives among the first :math:`k`, or among those
    up to the last positive if these are fewer (trec_eval's ``P_k`` always divides by :math:`k`).

    Other protocols that ignore something are said in the same labels: in re-identification, matches by the query's own
    camera are ``"junk"`` and the other matches ``"easy"``.

    Args:
        run: Scores ``{query: {document: score}}``, larger is better, or a :class:`~graphattn.retrieval.runs.Run`; equal
            scores stay in their order.
        ground_truth: ``{query: {"easy": documents, "hard": documents, "junk": documents}}``, as it is published; a
            label that is not there has no documents.
        protocol: ``"easy"``, ``"medium"`` or ``"hard"``.
        cutoffs: The :math:`k` of ``"mP@k"``.

    Returns:
        Values of each query and their means. Queries without positives have NaN and are in ``left_out``, as are those
        that have no list or no ground truth.

    Raises:
        ValueError: If ``protocol``, a cutoff or a label is unknown, a document has two labels, a score is not a number,
            or no query has a positive.
        TypeError: If ``run`` is no dict of dicts.

    Example:
        >>> run = {"q": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}}
        >>> ground_truth = {"q": {"easy": ["a"], "hard": ["d"], "junk": ["b"]}}
        >>> evaluate_revisited(run, ground_truth, "medium", cutoffs=(1, 5))
        Evaluation(1 queries: map_trapezoidal 0.7917, mP@1 1.0000, mP@5 0.6667)

    Reference:
        Radenović et al., "Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking", 2018.
    """
    if protocol not in _POSITIVE:
        raise ValueError(f"protocol is {protocol!r}; expected {', '.join(map(repr, _POSITIVE))}")
    if any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in cutoffs):
        raise ValueError(f"cutoffs is {cutoffs!r}; expected integers, at least 1")
    lists = read_scores("run", run)
    names = ["map_trapezoidal", *(f"mP@{k}" for k in cutoffs)]
    left_out = {query: "no ground truth" for query in lists if query not in ground_truth}
    per_query: dict[Hashable, dict[str, float]] = {}
    for query, labelled in ground_truth.items():
        if query not in lists:
            left_out[query] = "no list"
            continue
        positive, ignored = _read_labels(query, labelled, protocol)
        if not positive:
            left_out[query] = "no positive"
            per_query[query] = dict.fromkeys(names, float("nan"))
            continue
        ranked = sorted(lists[query], key=lists[query].__getitem__, reverse=True)
        kept = [doc for doc in ranked if doc not in ignored]
        positions = np.array([place for place, doc in enumerate(kept) if doc in positive], dtype=np.int64)
        values = [trapezoidal_average_precision(positions, len(positive))]
        values += [_precision(positions, k) for k in cutoffs]
        per_query[query] = dict(zip(names, values, strict=True))
    counted = [values for query, values in per_query.items() if query not in left_out]
    if not counted:
        raise ValueError("run and ground_truth have no query with a positive in common")
    mean = {name: float(np.mean([values[name] for values in counted])) for name in names}
    return Evaluation(per_query, mean, left_out)


def _precision(positions: np.ndarray, k: int) -> float:
    """Return the part of positives among the first k, or up to the last positive if that comes before."""
    if not positions.size:
        return 0.0
    length = min(k, int(positions[-1]) + 1)
    return float((positions < length).sum() / length)


def _read_labels(query: Hashable, labelled: Mapping[str, Any], protocol: str) -> tuple[set[Any], set[Any]]:
    """Return what is positive and what is ignored."""
    # Published files also hold the place of the query in its image.
    unknown = sorted(set(labelled) - {*_LABELS, "bbx"})
    if unknown:
        raise ValueError(f"ground_truth of query {query!r} has label {unknown[0]!r}; expected easy, hard or junk")
    sets = {label: set(labelled.get(label, ())) for label in _LABELS}
    everything = set().union(*sets.values())
    if len(everything) < sum(map(len, sets.values())):
        twice = next(doc for doc in everything if sum(doc in docs for docs in sets.values()) > 1)
        raise ValueError(f"ground_truth of query {query!r} has two labels for document {twice!r}")
    positive = set().union(*(sets[label] for label in _POSITIVE[protocol]))
    return positive, everything - positive
