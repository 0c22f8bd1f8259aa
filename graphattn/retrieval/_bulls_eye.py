"""The bull's eye score of the MPEG-7 shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from graphattn.retrieval._evaluation import Evaluation, read_scores


def evaluate_bulls_eye(run: Any, classes: Mapping[Hashable, Hashable]) -> Evaluation:
    r"""Count how much of its own class every item finds among the first items, twice as many as the class has.

    .. math:: \frac{1}{|c|} \bigl|\{i \in \text{the first } 2|c| : c_i = c\}\bigr|

    for a query of class :math:`c` with :math:`|c|` members (20 of the 1,400 shapes). The query is an item itself, its
    own list contains it, and it counts: the score is at least :math:`1/|c|` if it comes early.

    Args:
        run: Scores ``{item: {item: score}}``, larger is better, or a :class:`~graphattn.retrieval.runs.Run`; equal
            scores stay in their order.
        classes: Class of every item.

    Returns:
        ``"bulls_eye"`` of each query, in [0, 1], and the mean. Members of a class that are not in a list count as
        missed.

    Raises:
        ValueError: If an item has no class, a query is not in its own list, a score is not a number, or there is no
            query.
        TypeError: If ``run`` is no dict of dicts.

    Example:
        >>> classes = {"bat-1": "bat", "bat-2": "bat", "key-1": "key", "key-2": "key", "key-3": "key"}
        >>> run = {"bat-1": {"bat-1": 1.0, "key-1": 0.8, "key-3": 0.7, "key-2": 0.6, "bat-2": 0.5}}
        >>> evaluate_bulls_eye(run, classes)
        Evaluation(1 queries: bulls_eye 0.5000)

    Reference:
        Latecki, Lakämper and Eckhardt, "Shape Descriptors for Non-rigid Shapes with a Single Closed Contour", 2000.
    """
    lists = read_scores("run", run)
    if not lists:
        raise ValueError("run has no queries; expected one list per item")
    sizes = Counter(classes.values())
    per_query: dict[Hashable, dict[str, float]] = {}
    for query, docs in lists.items():
        if query not in docs:
            raise ValueError(f"run of query {query!r} does not contain the query; expected lists with the item itself")
        unknown = next((doc for doc in docs if doc not in classes), None)
        if unknown is not None:
            raise ValueError(f"classes has no class of item {unknown!r}, which is in the list of query {query!r}")
        size = sizes[classes[query]]
        first = sorted(docs, key=docs.__getitem__, reverse=True)[: 2 * size]
        hits = sum(classes[doc] == classes[query] for doc in first)
        per_query[query] = {"bulls_eye": hits / size}
    mean = float(np.mean([values["bulls_eye"] for values in per_query.values()]))
    return Evaluation(per_query, {"bulls_eye": mean}, {})
