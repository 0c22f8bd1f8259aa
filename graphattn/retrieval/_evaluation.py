"""Values of metrics for every query, their means, and the comparison of two of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from graphattn._optional import require
from graphattn.retrieval._run import Run

# Scores of the documents of each query: {query: {document: score}}.
Scores = Mapping[Hashable, Mapping[Hashable, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Hold the values of metrics for each query, and their means.

    Args:
        per_query: Value of every metric for every query; NaN where a metric has no value.
        mean: Mean of every metric over the queries that have a value.
        left_out: Queries that are not in the mean, and why.

    Example:
        >>> Evaluation({"q1": {"map": 1.0}, "q2": {"map": 0.5}}, {"map": 0.75}, {})
        Evaluation(2 queries: map 0.7500)
    """

    per_query: dict[Hashable, dict[str, float]]
    mean: dict[str, float]
    left_out: dict[Hashable, str]

    def as_frame(self) -> Any:
        """Return the values as a pandas DataFrame with one row per query and one column per metric.

        Example:
            >>> Evaluation({"q1": {"map": 1.0}, "q2": {"map": 0.5}}, {"map": 0.75}, {}).as_frame().to_dict()
            {'map': {'q1': 1.0, 'q2': 0.5}}
        """
        pandas = require("pandas", "retrieval")
        index = pandas.Index(list(self.per_query), name="query", tupleize_cols=False)
        return pandas.DataFrame(list(self.per_query.values()), index=index, columns=list(self.mean))

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {value:.4f}" for name, value in self.mean.items())
        without = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"Evaluation({len(self.per_query)} queries{without}: {means})"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Hold what became of each metric from one evaluation to another.

    Args:
        before: Means before.
        after: Means after.
        wins: Queries whose value is larger after, for each metric.
        ties: Queries whose value is the same.
        losses: Queries whose value is smaller.

    Example:
        >>> Comparison({"map": 0.5}, {"map": 0.6}, {"map": 3}, {"map": 1}, {"map": 1})
        Comparison(map 0.5000 -> 0.6000, 3 won, 1 tied, 1 lost)
    """

    before: dict[str, float]
    after: dict[str, float]
    wins: dict[str, int]
    ties: dict[str, int]
    losses: dict[str, int]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per metric.

        Example:
            >>> frame = Comparison({"map": 0.5}, {"map": 0.75}, {"map": 3}, {"map": 1}, {"map": 1}).as_frame()
            >>> frame.loc["map"].to_dict()
            {'before': 0.5, 'after': 0.75, 'wins': 3.0, 'ties': 1.0, 'losses': 1.0}
        """
        pandas = require("pandas", "retrieval")
        index = pandas.Index(list(self.before), name="metric")
        return pandas.DataFrame({name: list(values.values()) for name, values in vars(self).items()}, index=index)

    def __repr__(self) -> str:
        parts = (
            f"{name} {self.before[name]:.4f} -> {self.after[name]:.4f}, "
            f"{self.wins[name]} won, {self.ties[name]} tied, {self.losses[name]} lost"
            for name in self.before
        )
        return f"Comparison({'; '.join(parts)})"


def compare(before: Evaluation, after: Evaluation) -> Comparison:
    """Count the queries that gained, and those that lost, from one evaluation to another.

    Args:
        before: Evaluation of the first stage.
        after: Evaluation of what came of it: the same metrics of the same queries.

    Returns:
        Means and counts of each metric. A query that has no value (NaN) is in no count.

    Raises:
        ValueError: If the two do not have the same queries and metrics.

    Example:
        >>> before = Evaluation({"q1": {"map": 0.5}, "q2": {"map": 1.0}}, {"map": 0.75}, {})
        >>> after = Evaluation({"q1": {"map": 1.0}, "q2": {"map": 1.0}}, {"map": 1.0}, {})
        >>> compare(before, after)
        Comparison(map 0.7500 -> 1.0000, 1 won, 1 tied, 0 lost)
    """
    for what, ours, theirs in (
        ("queries", before.per_query, after.per_query),
        ("metrics", before.mean, after.mean),
    ):
        different: set[Any] = set(ours) ^ set(theirs)
        if different:
            names = ", ".join(sorted(map(repr, different))[:5])
            raise ValueError(
                f"before and after do not have the same {what}: {len(different)} are in one only ({names}); "
                "evaluate both on the same ones"
            )
    wins, ties, losses = (dict.fromkeys(before.mean, 0) for _ in range(3))
    for query, values in before.per_query.items():
        for name in before.mean:
            change = after.per_query[query][name] - values[name]
            wins[name] += change > 0
            ties[name] += change == 0
            losses[name] += change < 0
    return Comparison(dict(before.mean), {name: after.mean[name] for name in before.mean}, wins, ties, losses)


def read_scores(name: str, run: Any) -> Scores:
    """Return a run as a dict, and raise unless it is one of finite or ``-inf`` scores."""
    if isinstance(run, Run):
        run = run.to_dict()
    if not isinstance(run, Mapping) or not all(isinstance(docs, Mapping) for docs in run.values()):
        raise TypeError(f"{name} is a {type(run).__name__}; expected a dict {{query: {{document: score}}}} or a Run")
    for query, docs in run.items():
        for doc, score in docs.items():
            if not (isinstance(score, Real) and score < float("inf")):
                raise ValueError(f"{name} has score {score!r} at {doc!r} of query {query!r}; expected a number")
    return run
