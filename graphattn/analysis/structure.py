"""Attention as a graph for NetworkX and SciPy: who is central in it, and which tokens belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, dijkstra

from graphattn._optional import require
from graphattn.analysis.maps import AttentionMaps

_ROWS = 256  # of distances, held at a time
_NUDGE = 1e-9  # of a weight: far above rounding, far below what makes a difference

MEASURES = ("received", "pagerank", "closeness", "betweenness")


@dataclass(frozen=True, eq=False)
class Centrality:
    """Hold how central each token is, by several measures.

    Args:
        values: For each measure a value per token, :math:`(N)`.
        tokens: Names of the tokens.
    """

    values: dict[str, np.ndarray]
    tokens: tuple[str, ...]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per token.

        Example:
            >>> centrality(AttentionMaps.from_arrays(np.eye(2)[None, None])).as_frame()["received"].tolist()
            [0.0, 0.0]
        """
        pandas = require("pandas", "analysis")
        return pandas.DataFrame({"token": self.tokens, **self.values}, index=pandas.RangeIndex(len(self.tokens)))


@dataclass(frozen=True, eq=False)
class Communities:
    """Hold groups of tokens that draw on one another more than on others.

    Args:
        member: Number of the group of each token, :math:`(N)`; the largest group is 0.
        modularity: How much more weight lies within groups than if weights were spread by strength alone; at most 1.
        components: Number of the strongly connected component of each token, :math:`(N)`; within one, every token
            draws on every other over some path.
        tokens: Names of the tokens.
    """

    member: np.ndarray
    modularity: float
    components: np.ndarray
    tokens: tuple[str, ...]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per token.

        Example:
            >>> communities(AttentionMaps.from_arrays(np.eye(2)[None, None])).as_frame()["community"].tolist()
            [0, 1]
        """
        pandas = require("pandas", "analysis")
        columns = {"token": self.tokens, "community": self.member, "component": self.components}
        return pandas.DataFrame(columns, index=pandas.RangeIndex(len(self.tokens)))


def attention_graph(
    maps: AttentionMaps, layer: int = -1, *, head: int | None = None, least: float = 0.0, loops: bool = True
) -> nx.DiGraph:
    r"""Give a layer's attention as a NetworkX graph, whose edge j -> i has the weight :math:`A_{ij}`.

    Edges go the way information does, from what is read to what reads it, as in PyG.

    Args:
        maps: Attention maps, dense or of edges.
        layer: Number of the layer; the last by default.
        head: Number of the head; the mean of all by default.
        least: Weights of at most this are no edges.
        loops: Whether what tokens give to themselves is kept.

    Returns:
        A graph over the numbers of all tokens, with their names as ``token``, weights as ``weight``.

    Raises:
        ValueError: If the layer or head is not there, weights are negative, or ``least`` is.

    Example:
        >>> maps = AttentionMaps.from_arrays(np.array([[[[1.0, 0.0], [0.75, 0.25]]]]), tokens=["a", "b"])
        >>> list(attention_graph(maps, least=0.5).edges(data="weight"))
        [(0, 0, 1.0), (0, 1, 0.75)]
    """
    source, target, weight = _edges(maps, layer, head, least, loops)
    graph = nx.DiGraph()
    graph.add_nodes_from((number, {"token": token}) for number, token in enumerate(maps.tokens))
    graph.add_weighted_edges_from(zip(source.tolist(), target.tolist(), weight.tolist(), strict=True))
    return graph


def centrality(
    maps: AttentionMaps,
    layer: int = -1,
    *,
    head: int | None = None,
    least: float = 0.0,
    measures: Sequence[str] = MEASURES,
    damping: float = 0.85,
) -> Centrality:
    r"""Measure how central each token is in a layer's attention.

    - ``received``: mean weight that the other tokens give to it, :math:`\frac{1}{N - 1} \sum_{i \ne j} A_{ij}`;
    - ``pagerank``: share of the time of a walker that goes from each token to one it draws on, in proportion, and with
      probability :math:`1 - d` anywhere; tokens that draw on none lead anywhere too;
    - ``closeness``: :math:`\frac{r}{N - 1} \cdot \frac{r}{\sum_i d_{ij}}` over the r other tokens that j reaches, in
      steps of length :math:`1 / A_{ij}`;
    - ``betweenness``: share of the shortest paths between other tokens that lead through it, of the same lengths.

    What tokens give to themselves counts in ``pagerank`` alone.

    Args:
        maps: Attention maps, dense or of edges.
        layer: As in :func:`attention_graph`.
        head: As in :func:`attention_graph`.
        least: As in :func:`attention_graph`.
        measures: Which to compute. Closeness and betweenness take a search from each token, :math:`O(N E \log N)`,
            betweenness in Python; for thousands of tokens leave it out, or raise ``least``.
        damping: Damping :math:`d` of ``pagerank``, in [0, 1).

    Returns:
        The measures.

    Raises:
        ValueError: If a measure is unknown, ``damping`` is out of range, or as :func:`attention_graph`.

    Example:
        >>> star = np.eye(4)[[0, 0, 0, 0]]
        >>> found = centrality(AttentionMaps.from_arrays(star[None, None]))
        >>> found.values["received"].tolist(), found.values["pagerank"].round(4).tolist()
        ([1.0, 0.0, 0.0, 0.0], [0.8875, 0.0375, 0.0375, 0.0375])

    Reference:
        Freeman, "Centrality in Social Networks: Conceptual Clarification", 1978; Brandes, "A Faster Algorithm for
        Betweenness Centrality", 2001.
    """
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown or not measures:
        raise ValueError(f"measures is {list(measures)}; expected some of {', '.join(map(repr, MEASURES))}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping is {damping}; expected a number in [0, 1)")
    size = maps.num_nodes
    source, target, weight = _edges(maps, layer, head, least, loops=True)
    away = source != target
    values = {}
    for name in measures:
        if name == "received":
            values[name] = np.bincount(source[away], weight[away], minlength=size) / max(size - 1, 1)
        elif name == "pagerank":
            values[name] = _pagerank(size, source, target, weight, damping)
        else:
            compute = _closeness if name == "closeness" else _betweenness
            values[name] = compute(size, source[away], target[away], 1 / weight[away])
    return Centrality(values, maps.tokens)


def communities(
    maps: AttentionMaps,
    layer: int = -1,
    *,
    head: int | None = None,
    least: float = 0.0,
    resolution: float = 1.0,
    random_state: int = 0,
) -> Communities:
    r"""Find groups of tokens that draw on one another, by Louvain's search for the largest modularity.

    .. math:: Q = \frac{1}{2m} \sum_{ij} \Bigl(W_{ij} - \gamma\,\frac{k_i k_j}{2m}\Bigr) [g_i = g_j], \qquad
        \mathbf{W} = \mathbf{A} + \mathbf{A}^\top

    with :math:`\mathbf{k}` the row sums of W and 2m their total. What tokens give to themselves does not count.

    Args:
        maps: Attention maps, dense or of edges.
        layer: As in :func:`attention_graph`.
        head: As in :func:`attention_graph`.
        least: As in :func:`attention_graph`.
        resolution: Resolution :math:`\gamma`; larger ones make smaller groups.
        random_state: Seed of the search, which visits tokens and decides between equals at random.

    Returns:
        The groups; tokens without edges are each a group. Without any edge the modularity is 0. The search is in
        Python: 10,000 tokens with a few edges each take seconds.

    Raises:
        ValueError: If ``resolution`` is not positive, or as :func:`attention_graph`.

    Example:
        >>> blocks = np.kron(np.eye(2), np.full((3, 3), 1 / 3))
        >>> found = communities(AttentionMaps.from_arrays(blocks[None, None]))
        >>> found.member.tolist(), round(found.modularity, 6)
        ([0, 0, 0, 1, 1, 1], 0.5)

    Reference:
        Blondel et al., "Fast unfolding of communities in large networks", 2008; Newman, "Modularity and community
        structure in networks", 2006.
    """
    if not resolution > 0:
        raise ValueError(f"resolution is {resolution}; expected a positive number")
    size = maps.num_nodes
    source, target, weight = _edges(maps, layer, head, least, loops=False)
    directed = coo_array((weight, (target, source)), shape=(size, size))
    mutual = coo_array(directed + directed.T)
    graph = nx.Graph()
    graph.add_nodes_from(range(size))
    rows, columns = mutual.coords
    upper = rows < columns
    pairs = rows[upper].tolist(), columns[upper].tolist()
    # Between moves that gain the same NetworkX lets rounding decide, and may take them in turns for minutes.
    nudged = mutual.data[upper] * (1 + _NUDGE * np.random.default_rng(random_state).random(upper.sum()))
    graph.add_weighted_edges_from(zip(*pairs, mutual.data[upper].tolist(), strict=True))
    graph.add_weighted_edges_from(zip(*pairs, nudged.tolist(), strict=True), weight="nudged")
    if weight.size:
        groups = nx.community.louvain_communities(graph, "nudged", resolution, seed=random_state)
        modularity = float(nx.community.modularity(graph, groups, resolution=resolution))
    else:
        groups, modularity = [{number} for number in range(size)], 0.0
    member = np.empty(size, dtype=np.int64)
    for number, group in enumerate(sorted(groups, key=lambda group: (-len(group), min(group)))):
        member[list(group)] = number
    components = connected_components(directed, connection="strong")[1]
    return Communities(member, modularity, components, maps.tokens)


def _edges(
    maps: AttentionMaps, layer: int, head: int | None, least: float, loops: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sources, targets and weights of a layer, one edge a pair, without zeros."""
    count = maps.num_layers
    if not -count <= layer < count:
        raise ValueError(f"layer is {layer} but there are {count} layers; expected a number of {-count} to {count - 1}")
    heads = maps.heads[layer]
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head is {head} but layer {layer} has {heads} heads; expected one of 0 to {heads - 1}")
    if not least >= 0:
        raise ValueError(f"least is {least}; expected a weight of at least 0")
    size = maps.num_nodes
    (source, target), weights = maps.edges(layer)
    entry, place = np.unique(target * size + source, return_inverse=True)
    fused = weights.mean(axis=1) if head is None else weights[:, head]
    weight = np.bincount(place, fused, minlength=entry.size)
    if weight.size and weight.min() < 0:
        raise ValueError(f"layer {layer} has negative weights, the lowest {weight.min():.3g}; expected attention")
    target, source = entry // size, entry % size
    kept = (weight > least) & (loops | (target != source))
    return source[kept], target[kept], weight[kept]


def _pagerank(size: int, source: np.ndarray, target: np.ndarray, weight: np.ndarray, damping: float) -> np.ndarray:
    walk = nx.DiGraph()
    walk.add_nodes_from(range(size))
    walk.add_weighted_edges_from(zip(target.tolist(), source.tolist(), weight.tolist(), strict=True))
    # NetworkX stops when the values of all nodes together change by less than tol times their number.
    found = nx.pagerank(walk, alpha=damping, tol=1e-12 / size, max_iter=100_000)
    return np.array([found[number] for number in range(size)])


def _closeness(size: int, source: np.ndarray, target: np.ndarray, length: np.ndarray) -> np.ndarray:
    graph = coo_array((length, (source, target)), shape=(size, size)).tocsr()
    closeness = np.empty(size)
    for start in range(0, size, _ROWS):
        chosen = np.arange(start, min(start + _ROWS, size))
        distance = dijkstra(graph, indices=chosen)
        reached = np.isfinite(distance)
        others = reached.sum(axis=1) - 1
        total = np.where(reached, distance, 0.0).sum(axis=1)
        closeness[chosen] = others**2 / np.where(others > 0, total, 1.0) / max(size - 1, 1)
    return closeness


def _betweenness(size: int, source: np.ndarray, target: np.ndarray, length: np.ndarray) -> np.ndarray:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_weighted_edges_from(zip(source.tolist(), target.tolist(), length.tolist(), strict=True))
    found = nx.betweenness_centrality(graph, weight="weight")
    return np.array([found[number] for number in range(size)])
