"""Causal structure among tokens, read from the attention of one head.

Attention is taken for the solution of a linear structural model, so that its rows say which tokens are independent
given which others (Rohekar, Gurwicz and Nisimov, NeurIPS 2023). What comes out is a hypothesis about how the model
combines tokens, under assumptions that it cannot check:

- Values are taken for white noise, that of different tokens for independent, and the tokens for linear in one another.
- ``n_samples`` is no number of samples that anyone drew. The width of the model is used as one; p-values and
  confidences depend on it, and so does how many edges are left.
- Entries of attention are not negative, so that no two tokens correlate negatively.
- Independences are taken to come from the structure alone. Weights that nearly cancel break this.
- Heads differ. Deeper layers are read as sums of what came before; no theory picks the head.
- Pairs are not separated by more than ``max_cond`` tokens. The number of tests grows exponentially with the number of
  neighbors: random attention among 24 tokens takes a second, a dozen tokens that all depend on one another take half a
  minute. Choose them by ``nodes``.

Confirm what is found by a test on the model, as :meth:`CausalGraph.explain` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis.causal_correlation import attention_correlation, check_nodes
from graphattn.analysis.causal_explain import Explanations, IsExplanation, explain
from graphattn.analysis.causal_learners import Learner, learn_pag
from graphattn.analysis.causal_pag import Pag
from graphattn.analysis.causal_tests import PartialCorrelation, PartialCorrelationTest
from graphattn.analysis.maps import AttentionMaps

_MAX_NODES = 500


@dataclass(frozen=True, eq=False)
class CausalGraph:
    """Hold a causal graph of tokens with the tests behind it.

    Args:
        pag: The graph; its nodes are numbers of tokens.
        test: The tests that were made.
        tokens: Names of all tokens.

    Example:
        >>> A = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
        >>> graph = causal_graph(A, n_samples=768, learner="skeleton")
        >>> graph
        CausalGraph(3 of 3 tokens, 2 edges, 6 tests)
        >>> graph.pag
        Pag(3 nodes: 0 o-o 1, 1 o-o 2)
        >>> graph.separation(0, 2).given
        (1,)
    """

    pag: Pag
    test: PartialCorrelationTest
    tokens: tuple[str, ...]

    @property
    def n_tests(self) -> int:
        """Number of different tests that were made."""
        return self.test.n_tests

    def confidence(self, i: int, j: int) -> float:
        r"""Return how clearly the tests kept an edge.

        .. math:: -\log_{10} \max_Z\, p_{ij \cdot Z}

        Args:
            i: One node.
            j: The other node.

        Returns:
            The number of the test that came nearest to removing the edge, at least ``-log10(alpha)``; infinite if all
            correlations were 1; NaN if no test kept it.

        Raises:
            ValueError: If there is no such edge.

        Example:
            >>> A = np.array([[1.0, 0.0], [0.5, 0.5]])
            >>> round(causal_graph(A, n_samples=28, learner="skeleton").confidence(0, 1), 4)
            4.9793
        """
        if not self.pag.adjacent(i, j):
            raise ValueError(f"{i} and {j} have no edge; separation({i}, {j}) tells why")
        kept = [result.confidence for result in self.test.results(i, j) if result.p_value <= self.test.alpha]
        return min(kept, default=float("nan"))

    def separation(self, i: int, j: int) -> PartialCorrelation:
        """Return the test that removed the edge of a pair: of those with fewest nodes, that with the largest p-value.

        Args:
            i: One node.
            j: The other node.

        Raises:
            ValueError: If the pair has an edge, or no test removed it.

        Example:
            >>> causal_graph(np.eye(2), n_samples=768, learner="skeleton").separation(0, 1).p_value
            1.0
        """
        if self.pag.adjacent(i, j):
            raise ValueError(f"{i} and {j} have an edge, so that nothing separates them")
        removed = [result for result in self.test.results(i, j) if result.p_value > self.test.alpha]
        if not removed:
            raise ValueError(f"no test separated {i} and {j}; the learner left out their edge for reasons of its own")
        return min(removed, key=lambda result: (len(result.given), -result.p_value, result.given))

    def explain(
        self,
        target: int,
        is_explanation: IsExplanation | None = None,
        *,
        minimal: bool = True,
        max_size: int | None = None,
        max_range: int | None = None,
    ) -> Explanations:
        """Search the graph for small sets of tokens that explain a target.

        Args:
            target: The token to explain.
            is_explanation: See :func:`~graphattn.analysis.causal_explain.explain`.
            minimal: Whether to stop after the smallest size with an explanation.
            max_size: Largest size of a set.
            max_range: Largest distance from the target.

        Returns:
            The explanations.

        Raises:
            ValueError: If the target is none of the nodes, or ``max_size`` or ``max_range`` is below 1.

        Example:
            >>> A = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
            >>> graph = causal_graph(A, n_samples=768, learner="skeleton", order=range(3))
            >>> graph.explain(2, lambda subset, target: 0 in subset)
            Explanations(of 2: {0}; 2 sets tried)
        """
        return explain(
            self.pag,
            target,
            is_explanation,
            minimal=minimal,
            max_size=max_size,
            max_range=max_range,
            tokens=self.tokens,
        )

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per pair of nodes: its edge, or what separates it.

        The columns are ``source``, ``target`` and their names; ``kind``, such as ``"o->"``, or ``""`` without edge; of
        the decisive test ``p_value``, ``confidence``, ``correlation``, ``given``, ``degrees_of_freedom`` and
        ``singular``, all missing if a learner of one's own made none.

        Example:
            >>> frame = causal_graph(np.eye(2), n_samples=768, learner="skeleton").as_frame()
            >>> frame[["source", "target", "kind", "p_value"]].values.tolist()
            [[0, 1, '', 1.0]]
        """
        pandas = require("pandas", "causal")
        edges = {frozenset((source, target)): (source, kind, target) for source, kind, target in self.pag.edges()}
        rows = []
        for position, first in enumerate(self.pag.nodes):
            for second in self.pag.nodes[position + 1 :]:
                source, kind, target = edges.get(frozenset((first, second)), (first, "", second))
                names = {"source_token": self.tokens[source], "target_token": self.tokens[target]}
                row = {"source": source, "target": target, **names, "kind": kind}
                rows.append({**row, **self._decisive(first, second, bool(kind))})
        columns = ["source", "target", "source_token", "target_token", "kind", *_DECISIVE]
        return pandas.DataFrame(rows, columns=columns)

    def _decisive(self, i: int, j: int, edge: bool) -> dict[str, Any]:
        results = [result for result in self.test.results(i, j) if (result.p_value <= self.test.alpha) == edge]
        if not results:
            return {}
        result = min(results, key=lambda each: each.confidence) if edge else self.separation(i, j)
        return {
            "p_value": result.p_value,
            "confidence": result.confidence,
            "correlation": result.correlation,
            "given": result.given,
            "degrees_of_freedom": self.test.degrees_of_freedom(len(result.given)),
            "singular": result.singular,
        }

    def to_networkx(self) -> Any:
        """Return the graph as :meth:`Pag.to_networkx` does, with ``token`` on nodes and ``confidence`` on edges.

        Example:
            >>> A = np.array([[1.0, 0.0], [0.5, 0.5]])
            >>> graph = causal_graph(A, n_samples=768, learner="skeleton", order=[0, 1]).to_networkx()
            >>> graph.edges[0, 1]["kind"], graph.nodes[1]["token"]
            ('o->', '1')
        """
        graph = self.pag.to_networkx()
        for node in graph:
            graph.nodes[node]["token"] = self.tokens[node]
        for i, j in graph.edges:
            graph.edges[i, j]["confidence"] = self.confidence(i, j)
        return graph

    def __repr__(self) -> str:
        singular = sum(result.singular for result in self.test)
        flagged = f", {singular} of them singular" if singular else ""
        return (
            f"CausalGraph({len(self.pag.nodes)} of {len(self.tokens)} tokens, {len(self.pag.edges())} edges, "
            f"{self.n_tests} tests{flagged})"
        )


_DECISIVE = ("p_value", "confidence", "correlation", "given", "degrees_of_freedom", "singular")


def causal_graph(
    attention: Any,
    n_samples: int | str,
    *,
    layer: int = -1,
    head: int | None = None,
    nodes: Sequence[int] | None = None,
    alpha: float = 0.01,
    learner: str | Learner = "fci",
    order: Sequence[int] | None = None,
    max_cond: int = 4,
    on_zero: str = "raise",
    width: int | None = None,
) -> CausalGraph:
    r"""Learn the causal graph of tokens from the attention of one head.

    .. math:: \mathbf{x} = \mathbf{G}\mathbf{x} + \boldsymbol\Lambda\mathbf{u} \;\Rightarrow\;
        \operatorname{Cov}(\mathbf{x}) \propto \mathbf{A}\mathbf{A}^\top, \quad
        \mathbf{A} \propto (\mathbf{I} - \mathbf{G})^{-1}\boldsymbol\Lambda

    Args:
        attention: :class:`~graphattn.analysis.maps.AttentionMaps`, dense or as edges, or an array or tensor.
        n_samples: Number of samples that the tests assume; ``"hidden"`` for ``width`` and ``"head"`` for ``width``
            divided by the number of heads, which removes more edges.
        layer: Number of the layer, the deepest by default.
        head: Number of the head; needed if there are several.
        nodes: Tokens to keep, all by default; the others are marginalised.
        alpha: Level of significance: nodes are independent if the p-value is above.
        learner: ``"fci"``, ``"pc"``, ``"skeleton"`` or a function; see
            :func:`~graphattn.analysis.causal_learners.learn_pag`.
        order: Nodes from the first to the last, of which no later one causes an earlier one; ``range(N)`` for causal
            attention.
        max_cond: Largest number of nodes that are held fixed in a test.
        on_zero: ``"raise"`` if a node attends to nothing, or ``"drop"`` to leave it out.
        width: Width of the model, for ``n_samples`` by name and only then.

    Shapes:
        - **input:** an array is :math:`(N, N)` or :math:`(H, N, N)`

    Returns:
        The graph and its tests.

    Raises:
        ValueError: If a number is out of its range, there is no node or more than 500, a node attends to nothing, or
            what :class:`PartialCorrelationTest` and :func:`learn_pag` refuse.
        ImportError: If causal-learn is needed and not installed; the extra ``causal`` brings it.

    Example:
        >>> A = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
        >>> causal_graph(A, n_samples=768).pag
        Pag(3 nodes: 0 o-> 2, 1 o-> 2)

    Reference:
        Rohekar, Gurwicz and Nisimov, "Causal Interpretation of Self-Attention in Pre-Trained Transformers", NeurIPS
        2023.
    """
    single = np.ndim(attention) == 2
    if isinstance(attention, AttentionMaps):
        maps = attention
    else:
        maps = AttentionMaps.from_arrays([attention if isinstance(attention, Tensor) else np.asarray(attention)])
    if not -maps.num_layers <= layer < maps.num_layers:
        raise ValueError(f"layer is {layer} but there are {maps.num_layers}; expected one of them, counted from 0")
    heads = maps.heads[layer]
    if head is None and heads > 1:
        raise ValueError(f"head is None but there are {heads}; choose one, as each has a graph of its own")
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head is {head} but there are {heads}; expected a number of 0 to {heads - 1}")
    chosen = tuple(range(maps.num_nodes)) if nodes is None else check_nodes(nodes, maps.num_nodes)
    if len(chosen) > _MAX_NODES:
        raise ValueError(
            f"there are {len(chosen)} nodes; choose at most {_MAX_NODES} of them by nodes, as the number of tests "
            "grows exponentially with their neighbors"
        )
    samples = _samples(n_samples, width, None if single else heads)
    correlation, kept = attention_correlation(_matrix(maps, layer, head or 0), chosen, on_zero)
    if not kept:
        raise ValueError("no node is left, as all of them attend to nothing; choose other nodes or another head")
    test = PartialCorrelationTest(correlation, samples, alpha, kept, max_cond)
    return CausalGraph(learn_pag(test, learner, order), test, maps.tokens)


def _samples(n_samples: int | str, width: int | None, heads: int | None) -> int:
    """Read the number of samples, by name if it has one."""
    if not isinstance(n_samples, str):
        if width is not None:
            raise ValueError(f"width is {width} but n_samples is {n_samples}; pass width for 'hidden' and 'head' only")
        return n_samples
    if n_samples not in ("hidden", "head"):
        raise ValueError(f"n_samples is {n_samples!r}; expected a whole number, 'hidden' or 'head'")
    if width is None:
        raise ValueError(f"n_samples is {n_samples!r} but width is None; pass the width of the model")
    if n_samples == "hidden":
        return width
    if heads is None or width % heads:
        unknown = "one matrix does not tell the number of heads"
        seen = unknown if heads is None else f"width {width} is not a multiple of {heads} heads"
        raise ValueError(f"n_samples is 'head' but {seen}; pass all heads and choose by head, or pass a number")
    return width // heads


def _matrix(maps: AttentionMaps, layer: int, head: int) -> Any:
    """Return the attention of one head, a sparse matrix if it is stored as edges."""
    if not maps.is_sparse(layer):
        return maps.dense(layer)[head]
    (source, target), weights = maps.edges(layer)
    return sparse.csr_array((weights[:, head], (target, source)), shape=(maps.num_nodes, maps.num_nodes))
