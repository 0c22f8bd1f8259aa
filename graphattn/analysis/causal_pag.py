"""Partial ancestral graphs: what conditional independences tell of causes, latent ones included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np

NONE, TAIL, ARROW, CIRCLE = range(4)
_NAMES = {TAIL: "tail", ARROW: "arrow", CIRCLE: "circle"}
_LEFT = {TAIL: "-", ARROW: "<", CIRCLE: "o"}
_RIGHT = {TAIL: "-", ARROW: ">", CIRCLE: "o"}
_MARK_OF_LEFT = {sign: mark for mark, sign in _LEFT.items()}
_MARK_OF_RIGHT = {sign: mark for mark, sign in _RIGHT.items()}


@dataclass(frozen=True, eq=False)
class Pag:
    r"""Hold a partial ancestral graph: edges with a mark at either end.

    A tail at i says that i is a cause of j, an arrow that it is none, and a circle that the data allow both:

    - ``i --> j``: i causes j;
    - ``i <-> j``: neither causes the other, they have a latent common cause;
    - ``i o-> j``: j does not cause i;
    - ``i o-o j``: nothing is known but that no set of nodes separates them;
    - ``i --- j``: a selection depends on both.

    Args:
        nodes: Numbers of the nodes.
        marks: Entry :math:`(a, b)` is the mark at the ``b``-th node of its edge with the ``a``-th: 0 without edge, 1
            for a tail, 2 for an arrow, 3 for a circle.

    Shapes:
        - **input:** ``marks`` :math:`(m, m)`

    Raises:
        ValueError: If nodes repeat, or ``marks`` has another shape, unknown marks, or a mark at one end only.

    Example:
        >>> pag = Pag.from_edges([2, 5, 7], [(2, "-->", 7), (7, "<->", 5)])
        >>> pag
        Pag(3 nodes: 2 --> 7, 5 <-> 7)
        >>> pag.mark(2, 7), pag.mark(7, 2), pag.adjacent(2, 5)
        ('arrow', 'tail', False)

    Reference:
        Zhang, "On the completeness of orientation rules for causal discovery in the presence of latent confounders and
        selection bias", Artificial Intelligence 2008.
    """

    nodes: tuple[int, ...]
    marks: np.ndarray

    def __post_init__(self) -> None:
        nodes, marks = tuple(int(node) for node in self.nodes), np.array(self.marks, dtype=np.int8)
        if len(set(nodes)) != len(nodes):
            raise ValueError(f"nodes is {list(nodes)}; expected different numbers")
        if marks.shape != (len(nodes), len(nodes)):
            raise ValueError(f"marks has shape {marks.shape}; expected {(len(nodes), len(nodes))}, as there are nodes")
        if not np.isin(marks, range(4)).all() or ((marks == NONE) != (marks.T == NONE)).any() or marks.trace():
            raise ValueError(
                "marks is not symmetric in where it is 0, has a loop, or holds other numbers than 0 to 3; expected a "
                "mark at both ends of each edge"
            )
        marks.setflags(write=False)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "marks", marks)

    @classmethod
    def from_edges(cls, nodes: Sequence[int], edges: Iterable[tuple[int, str, int]]) -> Pag:
        """Make a graph of its edges.

        Args:
            nodes: Numbers of all nodes.
            edges: Triples such as ``(0, "o->", 1)``.

        Raises:
            ValueError: If an edge is between unknown nodes, drawn twice, or none of those listed above.

        Example:
            >>> Pag.from_edges(range(3), [(0, "o-o", 1)]).neighbors(1)
            (0,)
        """
        position = {node: index for index, node in enumerate(nodes)}
        marks = np.zeros((len(position), len(position)), dtype=np.int8)
        for left, edge, right in edges:
            known = len(edge) == 3 and edge[0] in _MARK_OF_LEFT and edge[1] == "-" and edge[2] in _MARK_OF_RIGHT
            if not known or left not in position or right not in position or left == right:
                raise ValueError(f"the edge {left} {edge} {right} is none; expected one such as (0, 'o->', 1) of nodes")
            a, b = position[left], position[right]
            if marks[a, b]:
                raise ValueError(f"the edge between {left} and {right} is given twice; expected one edge for each pair")
            marks[b, a], marks[a, b] = _MARK_OF_LEFT[edge[0]], _MARK_OF_RIGHT[edge[2]]
        return cls(tuple(nodes), marks)

    def _index(self, node: int) -> int:
        try:
            return self.nodes.index(node)
        except ValueError:
            raise ValueError(f"{node} is none of the nodes {list(self.nodes)}") from None

    def adjacent(self, i: int, j: int) -> bool:
        """Tell whether there is an edge between two nodes.

        Args:
            i: One node.
            j: The other node.

        Example:
            >>> Pag.from_edges([0, 1], [(0, "o-o", 1)]).adjacent(1, 0)
            True
        """
        return bool(self.marks[self._index(i), self._index(j)] != NONE)

    def mark(self, i: int, j: int) -> str:
        """Return the mark at ``j`` of the edge between ``i`` and ``j``.

        Args:
            i: One node.
            j: The node whose end is asked for.

        Returns:
            ``"tail"``, ``"arrow"`` or ``"circle"``.

        Raises:
            ValueError: If there is no such edge.

        Example:
            >>> Pag.from_edges([0, 1], [(0, "o->", 1)]).mark(0, 1)
            'arrow'
        """
        mark = int(self.marks[self._index(i), self._index(j)])
        if mark == NONE:
            raise ValueError(f"{i} and {j} have no edge, so that there is no mark; ask adjacent({i}, {j}) first")
        return _NAMES[mark]

    def neighbors(self, node: int) -> tuple[int, ...]:
        """Return the nodes that have an edge with a node, in the order of ``nodes``.

        Args:
            node: The node.

        Example:
            >>> Pag.from_edges([0, 1, 2], [(0, "o-o", 1), (2, "-->", 0)]).neighbors(0)
            (1, 2)
        """
        return tuple(self.nodes[index] for index in np.flatnonzero(self.marks[self._index(node)]))

    def is_collider(self, i: int, middle: int, j: int) -> bool:
        """Tell whether the arrows of two edges meet at a node.

        Args:
            i: A neighbor of the node.
            middle: The node.
            j: Another neighbor.

        Example:
            >>> Pag.from_edges([0, 1, 2], [(0, "-->", 2), (1, "o->", 2)]).is_collider(0, 2, 1)
            True
        """
        a, b, c = self._index(i), self._index(middle), self._index(j)
        return bool(a != c and self.marks[a, b] == ARROW and self.marks[c, b] == ARROW)

    def possible_parents(self, node: int) -> tuple[int, ...]:
        """Return the nodes that may be direct causes of a node: no arrow at them, no tail at it.

        Args:
            node: The node.

        Example:
            >>> pag = Pag.from_edges([0, 1, 2, 3], [(0, "o->", 3), (1, "<->", 3), (3, "-->", 2)])
            >>> pag.possible_parents(3)
            (0,)
        """
        index = self._index(node)
        into, out_of = self.marks[:, index], self.marks[index]
        may = ((into == ARROW) | (into == CIRCLE)) & ((out_of == TAIL) | (out_of == CIRCLE))
        return tuple(self.nodes[position] for position in np.flatnonzero(may))

    def edges(self) -> list[tuple[int, str, int]]:
        """Return all edges as triples such as ``(0, "o->", 1)``; a lone arrow points to the right.

        Example:
            >>> Pag.from_edges([0, 1], [(0, "<--", 1)]).edges()
            [(1, '-->', 0)]
        """
        found = []
        for a, b in combinations(range(len(self.nodes)), 2):
            if self.marks[a, b] != NONE:
                turn = self.marks[b, a] == ARROW and self.marks[a, b] != ARROW
                left, right = (b, a) if turn else (a, b)
                kind = f"{_LEFT[int(self.marks[right, left])]}-{_RIGHT[int(self.marks[left, right])]}"
                found.append((self.nodes[left], kind, self.nodes[right]))
        return found

    def hamming_distance(self, other: Pag) -> int:
        """Count the pairs of nodes whose edges differ, be it in being there or in a mark.

        Args:
            other: A graph of the same nodes, in any order.

        Returns:
            The structural Hamming distance.

        Raises:
            ValueError: If it has other nodes.

        Example:
            >>> chain = Pag.from_edges(range(3), [(0, "-->", 1), (1, "-->", 2)])
            >>> chain.hamming_distance(Pag.from_edges(range(3), [(0, "o->", 1)]))
            2

        Reference:
            Tsamardinos, Brown and Aliferis, "The max-min hill-climbing Bayesian network structure learning algorithm",
            Machine Learning 2006.
        """
        if set(self.nodes) != set(other.nodes):
            raise ValueError(f"other has the nodes {sorted(other.nodes)}; expected {sorted(self.nodes)}")
        order = [other.nodes.index(node) for node in self.nodes]
        differ = self.marks != other.marks[np.ix_(order, order)]
        return int(np.triu(differ | differ.T).sum())

    def to_networkx(self) -> Any:
        """Return the graph as a ``networkx.Graph``, whose edges have the attributes ``source``, ``target``, ``kind``.

        Edges of networkx have no marks, so that it is an undirected graph: ``kind`` is such as ``"o->"``, read from
        ``source`` to ``target``.

        Example:
            >>> graph = Pag.from_edges([3, 5], [(5, "-->", 3)]).to_networkx()
            >>> graph.edges[3, 5]
            {'source': 5, 'target': 3, 'kind': '-->'}
        """
        graph = nx.Graph()
        graph.add_nodes_from(self.nodes)
        for source, kind, target in self.edges():
            graph.add_edge(source, target, source=source, target=target, kind=kind)
        return graph

    def __repr__(self) -> str:
        edges = [f"{left} {kind} {right}" for left, kind, right in self.edges()]
        shown = ", ".join(edges[:12]) + (f" and {len(edges) - 12} more" if len(edges) > 12 else "")
        return f"Pag({len(self.nodes)} nodes: {shown or 'no edges'})"
