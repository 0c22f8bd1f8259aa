"""Partial ancestral graphs: marks, what follows from them, and their distance."""

from __future__ import annotations

from itertools import combinations, product

import networkx as nx
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from graphattn.analysis.causal_pag import Pag

KINDS = [left + "-" + right for left, right in product("<-o", ">-o")]


def random_pag(seed: int, size: int = 6) -> Pag:
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in combinations(range(size), 2) if rng.random() < 0.6]
    return Pag.from_edges(range(size), [(i, KINDS[rng.integers(9)], j) for i, j in pairs])


@pytest.mark.parametrize("kind", KINDS)
def test_marks_are_read_as_they_are_drawn(kind: str) -> None:
    pag = Pag.from_edges([4, 2], [(4, kind, 2)])
    assert pag.mark(2, 4) == {"<": "arrow", "-": "tail", "o": "circle"}[kind[0]]
    assert pag.mark(4, 2) == {">": "arrow", "-": "tail", "o": "circle"}[kind[2]]
    assert pag.adjacent(2, 4)
    assert pag.adjacent(4, 2)


@pytest.mark.parametrize("seed", range(5))
def test_edges_are_what_the_graph_was_made_of(seed: int) -> None:
    pag = random_pag(seed)
    again = Pag.from_edges(pag.nodes, pag.edges())
    assert_array_equal(again.marks, pag.marks)
    assert not any(kind in ("<--", "<-o", "--o") and kind[2] != ">" and kind[0] == "<" for _, kind, _ in pag.edges())


def test_possible_parents_have_no_arrow_at_them_and_give_no_tail() -> None:
    edges = [(left, kind, 9) for left, kind in enumerate(KINDS)]
    pag = Pag.from_edges([*range(9), 9], edges)
    allowed = [index for index, kind in enumerate(KINDS) if kind[0] in "-o" and kind[2] in ">o"]
    assert pag.possible_parents(9) == tuple(allowed)


def test_colliders_have_two_arrows() -> None:
    pag = Pag.from_edges(range(5), [(0, "-->", 2), (1, "<->", 2), (3, "o-o", 2)])
    assert pag.is_collider(0, 2, 1)
    assert not pag.is_collider(0, 2, 3)
    assert not pag.is_collider(0, 2, 4)
    assert not pag.is_collider(0, 2, 0)


def test_the_distance_counts_pairs() -> None:
    pag = Pag.from_edges(range(4), [(0, "-->", 1), (1, "o-o", 2)])
    assert pag.hamming_distance(pag) == 0
    assert pag.hamming_distance(Pag.from_edges(range(4), [(1, "-->", 0), (1, "o-o", 2)])) == 1
    assert pag.hamming_distance(Pag.from_edges(range(4), [(2, "o-o", 1)])) == 1
    assert pag.hamming_distance(Pag.from_edges(range(4), [(0, "-->", 1), (1, "o-o", 2), (2, "---", 3)])) == 1
    assert pag.hamming_distance(Pag.from_edges([3, 2, 1, 0], pag.edges())) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_that_of_causal_learn(seed: int) -> None:
    shd = pytest.importorskip("causallearn.graph.SHD").SHD
    graphs = pytest.importorskip("causallearn.graph.GeneralGraph")
    node = pytest.importorskip("causallearn.graph.GraphNode").GraphNode
    codes = np.array([0, -1, 1, 2])
    pags = random_pag(seed), random_pag(seed + 100)
    theirs = []
    for pag in pags:
        graph = graphs.GeneralGraph([node(str(name)) for name in pag.nodes])
        graph.graph = codes[pag.marks.T]
        theirs.append(graph)
    assert pags[0].hamming_distance(pags[1]) == shd(*theirs).get_shd()


def test_networkx_keeps_every_mark() -> None:
    pag = random_pag(7)
    graph = pag.to_networkx()
    assert isinstance(graph, nx.Graph)
    assert not graph.is_directed()
    assert list(graph) == list(pag.nodes)
    edges = [(data["source"], data["kind"], data["target"]) for _, _, data in graph.edges(data=True)]
    assert_array_equal(Pag.from_edges(list(graph), edges).marks, pag.marks)
    assert {frozenset(edge) for edge in graph.edges} == {frozenset((i, j)) for i, _, j in pag.edges()}


def test_networkx_graphs_can_be_written(tmp_path: object) -> None:
    text = "\n".join(nx.generate_graphml(random_pag(1).to_networkx()))
    assert nx.parse_graphml(text).number_of_edges() == len(random_pag(1).edges())


def test_a_graph_without_edges() -> None:
    pag = Pag((3,), np.zeros((1, 1)))
    assert pag.edges() == []
    assert pag.neighbors(3) == ()
    assert repr(pag) == "Pag(1 nodes: no edges)"


def test_long_graphs_are_shortened() -> None:
    pag = Pag.from_edges(range(20), [(i, "o-o", i + 1) for i in range(19)])
    assert repr(pag).endswith("11 o-o 12 and 7 more)")


def test_marks_cannot_be_edited() -> None:
    marks = np.array([[0, 3], [3, 0]])
    pag = Pag((0, 1), marks)
    with pytest.raises(ValueError, match="read-only"):
        pag.marks[0, 1] = 1
    marks[0, 1] = 0
    assert pag.adjacent(0, 1)


@pytest.mark.parametrize(
    ("nodes", "marks", "message"),
    [
        ((0, 0), np.zeros((2, 2)), "different numbers"),
        ((0, 1), np.zeros((3, 3)), r"marks has shape \(3, 3\)"),
        ((0, 1), [[0, 1], [0, 0]], "both ends"),
        ((0, 1), [[0, 4], [1, 0]], "both ends"),
        ((0, 1), [[1, 0], [0, 0]], "both ends"),
    ],
)
def test_wrong_marks_are_refused(nodes: tuple[int, ...], marks: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pag(nodes, np.array(marks))


@pytest.mark.parametrize("edge", [(0, "->", 1), (0, "x->", 1), (0, "-->", 5), (0, "-->", 0), (0, "o=o", 1)])
def test_wrong_edges_are_refused(edge: tuple[int, str, int]) -> None:
    with pytest.raises(ValueError, match="is none; expected one such as"):
        Pag.from_edges(range(2), [edge])


def test_wrong_questions_are_refused() -> None:
    pag = Pag.from_edges(range(3), [(0, "-->", 1)])
    with pytest.raises(ValueError, match="given twice"):
        Pag.from_edges(range(3), [(0, "-->", 1), (1, "o-o", 0)])
    with pytest.raises(ValueError, match="0 and 2 have no edge"):
        pag.mark(0, 2)
    with pytest.raises(ValueError, match="7 is none of the nodes"):
        pag.adjacent(0, 7)
    with pytest.raises(ValueError, match=r"other has the nodes \[0, 1\]"):
        pag.hamming_distance(Pag.from_edges(range(2), []))
