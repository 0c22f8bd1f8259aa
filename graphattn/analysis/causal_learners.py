"""Learners of causal structure from tests of independence: FCI and PC of causal-learn, and a skeleton of our own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from graphattn._optional import require
from graphattn.analysis.causal_pag import ARROW, CIRCLE, NONE, TAIL, Pag
from graphattn.analysis.causal_tests import PartialCorrelationTest

Learner: TypeAlias = Callable[[PartialCorrelationTest, tuple[int, ...]], Pag]

_NAME = "graphattn_partial_correlation"
_MAX_CALLS = 5_000_000  # by causal-learn, repeated ones and those beyond max_cond included: about a minute
_MARKS = {0: NONE, -1: TAIL, 1: ARROW, 2: CIRCLE}  # causal-learn's codes


def learn_pag(test: PartialCorrelationTest, learner: str | Learner = "fci", order: Sequence[int] | None = None) -> Pag:
    """Learn a partial ancestral graph from tests of independence.

    Args:
        test: The tests, which tell the nodes, the level of significance, and how many nodes are held fixed at most.
        learner: One of these, or a function that takes the tests and the nodes and returns a :class:`Pag`:

            - ``"fci"``: fast causal inference of causal-learn, which allows for latent common causes;
            - ``"pc"``: PC of causal-learn, which assumes that there are none; an edge whose direction stays open has
              circles;
            - ``"skeleton"``: which pairs no set of neighbors separates, found as PC does, but without any directions;
              it needs no further package and does not depend on the order of the nodes.
        order: All nodes from the first to the last, of which no later one causes an earlier one, as in causal
            attention. It gives an arrow at the later node of each edge, and with ``"pc"``, which knows no latent
            causes, a tail at the earlier one. With ``"fci"`` the other end is what follows from the rest of the graph:
            causal-learn's own background knowledge would claim a tail there as well, which does not follow.

    Returns:
        The graph. Edges ``---`` and ``o--`` of ``"fci"`` are no sure sign of a selection, take them for ``o-o``:
        causal-learn 0.1.4 looks for selection along paths of circles that have shortcuts at either end, and finds it in
        graphs without any. They do not occur with ``order``.

    Raises:
        ValueError: If the learner is unknown, nodes are missing in ``order``, or a function is given along with it.
        TypeError: If a function returns something else than a :class:`Pag` of the nodes.
        ImportError: If causal-learn is needed and not installed; the extra ``causal`` brings it.
        RuntimeError: If there are more than a million tests, or causal-learn asks more than five million times, as it
            does for graphs that stay dense: FCI tries each subset of the possible d-separators of an edge, 2 ** 18 of
            them in a complete graph of 20 nodes.

    Example:
        >>> chain = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]])
        >>> learn_pag(PartialCorrelationTest(chain, n_samples=1000), "skeleton")
        Pag(3 nodes: 0 o-o 1, 1 o-o 2)

    Reference:
        Spirtes, Glymour and Scheines, "Causation, Prediction, and Search", 2000; Colombo and Maathuis,
        "Order-independent constraint-based causal structure learning", JMLR 2014.
    """
    ranks = None if order is None else _ranks(order, test.nodes)
    if callable(learner):
        if ranks is not None:
            raise ValueError("order is given but learner is a function, which takes none; use the order inside of it")
        found = learner(test, test.nodes)
        if not isinstance(found, Pag) or set(found.nodes) != set(test.nodes):
            raise TypeError(f"learner returned {found!r}; expected a Pag of the nodes {list(test.nodes)}")
        return found
    if learner not in ("fci", "pc", "skeleton"):
        raise ValueError(f"learner is {learner!r}; expected 'fci', 'pc', 'skeleton' or a function")
    if learner == "skeleton":
        return _skeleton(test, ranks)
    if len(test.nodes) == 1:
        return Pag(test.nodes, np.zeros((1, 1)))
    return _fci(test, ranks) if learner == "fci" else _pc(test, ranks)


def _ranks(order: Sequence[int], nodes: tuple[int, ...]) -> list[int]:
    places = {int(node): place for place, node in enumerate(order)}
    missing = [node for node in nodes if node not in places]
    if missing or len(places) != len(order):
        raise ValueError(
            f"order {f'misses the nodes {missing}' if missing else 'names a node twice'}; expected each node once, the "
            "first one first"
        )
    return [places[node] for node in nodes]


def _skeleton(test: PartialCorrelationTest, ranks: list[int] | None) -> Pag:
    """Remove the edges of pairs that are independent given neighbors of either, smallest sets first."""
    nodes = test.nodes
    neighbors = {node: set(nodes) - {node} for node in nodes}
    for size in range(test.max_cond + 1):
        edges = [(x, y) for x, y in combinations(nodes, 2) if y in neighbors[x]]
        # Edges go at the end of each round, so that what is found does not depend on the order of the nodes.
        removed = [(x, y) for x, y in edges if _separable(test, x, y, neighbors, size)]
        for x, y in removed:
            neighbors[x].remove(y)
            neighbors[y].remove(x)
        if all(len(near) - 1 <= size for near in neighbors.values()):
            break
    marks = np.array([[CIRCLE if b in neighbors[a] else NONE for b in nodes] for a in nodes]).reshape(len(nodes), -1)
    return Pag(nodes, marks if ranks is None else _point_forward(marks, ranks))


def _separable(test: PartialCorrelationTest, x: int, y: int, neighbors: dict[int, set[int]], size: int) -> bool:
    """Tell whether a set of some size separates a pair; all are tried, as the best of them is reported."""
    sets = {*combinations(sorted(neighbors[x] - {y}), size), *combinations(sorted(neighbors[y] - {x}), size)}
    return sum(test.independent(x, y, given) for given in sorted(sets)) > 0


def _point_forward(marks: np.ndarray, ranks: list[int]) -> np.ndarray:
    """Put an arrow at the later node of each edge.

    A tail there cannot be, so that the other end tells nothing either; nor does a tail at the earlier node of an edge
    without an arrow, which comes from rules for selections.
    """
    later = np.asarray(ranks)[None, :] > np.asarray(ranks)[:, None]
    unfounded = (marks.T == TAIL) | ((marks == TAIL) & (marks.T != ARROW))
    marks = np.where(unfounded & later.T, CIRCLE, marks)
    return np.where((marks != NONE) & later, ARROW, marks)


def _fci(test: PartialCorrelationTest, ranks: list[int] | None) -> Pag:
    fci = require("causallearn.search.ConstraintBased.FCI", "causal").fci
    with redirect_stdout(io.StringIO()):  # fci prints what it orients, even if it is not to be verbose
        graph, _ = fci(
            test.correlation,
            _register(),
            alpha=test.alpha,
            depth=test.max_cond,
            show_progress=False,
            node_names=_names(len(test.nodes)),
            test=test,
        )
    pag = _read(test.nodes, graph.graph)
    return pag if ranks is None else Pag(test.nodes, _add_tails(_point_forward(pag.marks, ranks)))


def _add_tails(marks: np.ndarray) -> np.ndarray:
    """Turn circles of b o-> c into tails by Zhang's rules R1 and R8, the ones that new arrows may call for."""
    marks = marks.copy()
    changed = True
    while changed:
        changed = False
        for b, c in np.argwhere((marks == ARROW) & (marks.T == CIRCLE)):
            causes = (marks == ARROW) & (marks.T == TAIL)
            no_collider = ((marks[:, b] == ARROW) & (marks[:, c] == NONE) & (np.arange(len(marks)) != c)).any()
            if no_collider or (causes[b] & causes[:, c]).any():
                marks[c, b] = TAIL
                changed = True
    return marks


def _pc(test: PartialCorrelationTest, ranks: list[int] | None) -> Pag:
    pc = require("causallearn.search.ConstraintBased.PC", "causal").pc
    graph = pc(
        test.correlation,
        alpha=test.alpha,
        indep_test=_register(),
        background_knowledge=_knowledge(ranks),
        show_progress=False,
        node_names=_names(len(test.nodes)),
        max_k=test.max_cond,
        test=test,
    ).G.graph
    # Two tails are an edge of unknown direction to PC, but a selection in a partial ancestral graph.
    return _read(test.nodes, np.where((graph == -1) & (graph.T == -1), 2, graph))


def _names(size: int) -> list[str]:
    return [str(position) for position in range(size)]


def _read(nodes: tuple[int, ...], graph: np.ndarray) -> Pag:
    """Read causal-learn's matrix, whose entry (a, b) is the mark at a, not at b."""
    return Pag(nodes, np.array([[_MARKS[int(mark)] for mark in row] for row in graph.T]))


def _knowledge(ranks: list[int] | None) -> Any:
    """Return causal-learn's form of an order: tiers, of which no later one causes an earlier one."""
    if ranks is None:
        return None
    knowledge = require("causallearn.utils.PCUtils.BackgroundKnowledge", "causal").BackgroundKnowledge()
    node_class = require("causallearn.graph.GraphNode", "causal").GraphNode
    for name, rank in zip(_names(len(ranks)), ranks, strict=True):
        knowledge.add_node_to_tier(node_class(name), rank)
    return knowledge


@cache
def _register() -> str:
    """Register our test with causal-learn, and return its name there."""
    cit = require("causallearn.utils.cit", "causal")

    class Registered(cit.CIT_Base):  # type: ignore[name-defined]
        """Answer causal-learn's questions, which are about positions of nodes."""

        def __init__(self, data: np.ndarray, test: PartialCorrelationTest, **kwargs: Any) -> None:
            super().__init__(data, **kwargs)
            self.method = _NAME  # which causal-learn asks for
            self.test, self.calls = test, 0

        def __call__(self, X: int, Y: int, condition_set: Sequence[int] | None = None) -> float:
            self.calls += 1
            if self.calls > _MAX_CALLS:
                raise RuntimeError(
                    f"the learner asked for more than {_MAX_CALLS} tests of {len(self.test.nodes)} nodes; choose fewer "
                    "nodes, a smaller max_cond or alpha, or learner='pc' or 'skeleton'"
                )
            nodes = self.test.nodes
            given = {int(position) for position in (() if condition_set is None else condition_set)}
            if len(given) > self.test.max_cond:
                return 0.0  # what is not tested keeps the edge
            return self.test(nodes[int(X)], nodes[int(Y)], [nodes[position] for position in given])

    cit.register_ci_test(_NAME, Registered)
    return _NAME
