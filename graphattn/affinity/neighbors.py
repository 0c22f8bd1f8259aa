"""Affinities between near points: which pairs, found exactly and block by block.

Every function lists the edges of a target together, sources that are equally near by ascending index, and gives the
same answer with every backend. How strong a pair is, is the ``weight`` of its distance or similarity, or a kernel of
:mod:`graphattn.affinity.kernels` on the edges found here.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from graphattn import ops
from graphattn.affinity._search import METRICS, Search, direct, unit
from graphattn.affinity.checks import check_count, check_weights
from graphattn.affinity.pairs import read_features
from graphattn.affinity.sparse import SparseAffinity
from graphattn.ops import Layout

__all__ = ["k_reciprocal", "knn", "mutual_knn", "nearest", "radius"]

Weight = Callable[[Tensor], Tensor]

_BACKENDS = ("auto", "torch", "faiss")
_BLOCK_BYTES = 16 << 20  # of the sets of neighbors' neighbors that are compared at a time


def nearest(
    x: Tensor, k: int, *, y: Tensor | None = None, metric: str = "euclidean", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    r"""List the ``k`` nearest points of each point.

    Args:
        x: Points. Those in float16 or bfloat16 are compared in float32.
        k: How many; all there are if there are fewer.
        y: Points to search; by default the other points of ``x``: a point is never its own neighbor, but a copy of
            it is one at distance 0.
        metric: ``"euclidean"``, ``"cosine"`` (0 for a zero vector) or ``"dot"``, the inner product.
        backend: ``"torch"``, ``"faiss"`` (float32 and narrower, CPU), or ``"auto"``: FAISS for a large search if it
            is installed. The answer is the same.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`
        - **output:** :math:`(N, k)` each

    Returns:
        Distances from the smallest, or similarities from the largest, in at least float32 and without gradient, and
        the indices of the points; equally near points are listed by ascending index. Near means near by the direct
        formula (:math:`\|\mathbf{x}_i - \mathbf{y}_j\|`, say) in that dtype. Time is :math:`O(N M D)`; memory is a few
        dozen MiB beside inputs and outputs, unless very many points are equally near.

    Raises:
        ValueError: If ``k`` is not a positive integer, an argument is unknown, a shape or a device does not fit, a
            point is not finite or its squares overflow, or FAISS cannot serve the call.
        TypeError: If ``x`` or ``y`` is not a floating-point tensor.
        ImportError: If ``backend="faiss"`` is not installed.

    Example:
        >>> distance, index = nearest(torch.tensor([[0.0], [1.0], [3.0]]), k=2)
        >>> distance.tolist(), index.tolist()
        ([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]], [[1, 2], [0, 2], [1, 0]])
    """
    return _Points(x, y, metric).nearest(k, backend)


def knn(
    x: Tensor,
    k: int,
    *,
    y: Tensor | None = None,
    metric: str = "euclidean",
    mutual: bool = False,
    loops: bool = False,
    weight: Weight | None = None,
    backend: str = "auto",
) -> SparseAffinity:
    r"""Let each node draw on its ``k`` nearest others.

    .. math:: A_{ij} = \begin{cases} w(d_{ij}) & j \in \operatorname{kNN}(i) \\ 0 & \text{otherwise} \end{cases}

    where :math:`d` is the distance or similarity of the metric.

    Args:
        x: Features of the targets. Those in float16 or bfloat16 are compared in float32.
        k: How many; all there are if there are fewer.
        y: Features of the sources; by default the nodes of ``x`` itself. Then a node is never its own neighbor, but a
            copy of it is one at distance 0.
        metric: ``"euclidean"``, ``"cosine"`` (0 for a zero vector) or ``"dot"``, the inner product.
        mutual: Keep the edges whose reverse is one, too, as :func:`mutual_knn` does.
        loops: Let each node draw on itself besides.
        weight: Maps the distances (Euclidean) or similarities of the edges, ``[E]``, to their weights, each on its
            own. By default a similarity is its own weight, and edges at a distance have weight 1.
        backend: As in :func:`nearest`.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`
        - **output:** an affinity :math:`N \times M`

    Returns:
        An affinity that lists the neighbors of each target from the nearest to the farthest, after itself with
        ``loops``, marked symmetric if ``mutual``. Weights have the dtype of ``x`` and gradients with respect to ``x``
        and ``y``; which pairs are edges has none.

    Raises:
        ValueError: As in :func:`nearest`; if ``mutual`` or ``loops`` is asked of two sets; or if ``weight`` returns
            another shape.
        TypeError: If ``x`` or ``y`` is not a floating-point tensor.
        ImportError: If ``backend="faiss"`` is not installed.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> knn(x, k=1).edge_index.tolist()
        [[1, 0, 1], [0, 1, 2]]
        >>> knn(x, k=1, weight=lambda distance: torch.exp(-distance)).weight
        tensor([0.3679, 0.3679, 0.1353])
        >>> knn(x, k=1, mutual=True)
        SparseAffinity(3 x 3, edges=2, heads=1, dtype=torch.float32, symmetric)
    """
    _check_one_set(y, mutual=mutual, loops=loops)
    points = _Points(x, y, metric)
    value, source = points.nearest(k, backend)
    keep = _is_mutual(source) if mutual else torch.ones_like(source, dtype=torch.bool)
    target = torch.arange(source.size(0), device=source.device).unsqueeze(1).expand_as(source)
    return points.affinity(target[keep], source[keep], value[keep], loops=loops, weight=weight, symmetric=mutual)


def mutual_knn(
    x: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    loops: bool = False,
    weight: Weight | None = None,
    backend: str = "auto",
) -> SparseAffinity:
    r"""Join nodes that are each among the ``k`` nearest of the other.

    .. math:: A_{ij} \ne 0 \iff j \in \operatorname{kNN}(i) \text{ and } i \in \operatorname{kNN}(j)

    Args:
        x: Features of the nodes.
        k: How many neighbors each node proposes; it may keep none.
        metric: As in :func:`knn`, as are the other arguments.
        loops: Let each node draw on itself besides.
        weight: Maps distances or similarities to weights.
        backend: As in :func:`nearest`.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        A symmetric affinity, ``knn(x, k, mutual=True)``.

    Raises:
        ValueError: As :func:`knn`.
        TypeError: As :func:`knn`.
        ImportError: As :func:`knn`.

    Example:
        >>> A = mutual_knn(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
        >>> A.edge_index.tolist()
        [[1, 0], [0, 1]]

    Reference:
        Iscen et al., "Efficient diffusion on region manifolds: recovering small objects with compact CNN
        representations", CVPR 2017, with ``weight=lambda s: s.clamp(min=0) ** 3`` of the cosine.
    """
    return knn(x, k, metric=metric, mutual=True, loops=loops, weight=weight, backend=backend)


def radius(
    x: Tensor,
    r: float,
    *,
    y: Tensor | None = None,
    max_neighbors: int | None = None,
    loops: bool = False,
    weight: Weight | None = None,
) -> SparseAffinity:
    r"""Join nodes that are at most ``r`` apart.

    .. math:: A_{ij} \ne 0 \iff \|\mathbf{x}_i - \mathbf{x}_j\| \le r

    Args:
        x: Features of the targets. Those in float16 or bfloat16 are compared in float32.
        r: Largest Euclidean distance, at least 0.
        y: Features of the sources; by default the other nodes of ``x``.
        max_neighbors: Keep that many of each target, the nearest; by default all.
        loops: Let each node draw on itself besides.
        weight: Maps the distances of the edges, ``[E]``, to their weights, each on its own; ones by default.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`
        - **output:** an affinity :math:`N \times M`

    Returns:
        An affinity that lists the neighbors of each target from the nearest to the farthest, symmetric without ``y``
        and ``max_neighbors``. Weights have the dtype of ``x`` and gradients with respect to ``x`` and ``y``.

    Raises:
        ValueError: If ``r`` is negative or NaN, ``max_neighbors`` not a positive integer, a shape or a device does
            not fit, a point is not finite or its squares overflow, or ``loops`` is asked of two sets.
        TypeError: If ``x`` or ``y`` is not a floating-point tensor.

    Example:
        >>> radius(torch.tensor([[0.0], [1.0], [3.0]]), 2.0).edge_index.tolist()
        [[1, 0, 2, 1], [0, 1, 1, 2]]
    """
    if not isinstance(r, Real) or not r >= 0:
        raise ValueError(f"r is {r!r}; expected a number of at least 0")
    if max_neighbors is not None and (not isinstance(max_neighbors, int) or max_neighbors < 1):
        raise ValueError(f"max_neighbors is {max_neighbors!r}; expected a positive integer")
    _check_one_set(y, loops=loops)
    points = _Points(x, y, "euclidean")
    if max_neighbors is None:
        target, source, closeness = points.search.within(float(r))
        value = points.value(closeness)
    else:
        value, source = points.nearest(max_neighbors, "auto")
        target, place = (value <= float(r)).nonzero(as_tuple=True)
        source, value = source[target, place], value[target, place]
    symmetric = y is None and max_neighbors is None
    return points.affinity(target, source, value, loops=loops, weight=weight, symmetric=symmetric)


def k_reciprocal(
    x: Tensor, k: int = 20, *, metric: str = "euclidean", weight: Weight | None = None, backend: str = "auto"
) -> SparseAffinity:
    r"""Join each node to its expanded set of k-reciprocal neighbors.

    With :math:`N(i, k)` the node :math:`i` and its ``k`` nearest others, the set is

    .. math::
        R(i, k) &= \{ j \in N(i, k) : i \in N(j, k) \} \\
        R^*(i, k) &= R(i, k) \cup \bigcup \{ R(c, h) : c \in R(i, k),\ |R(c, h) \cap R(i, k)| > \tfrac{2}{3}
        |R(c, h)| \}

    with :math:`h = k/2`, rounded to even. It keeps neighbors that agree and drops one-sided ones, such as the hubs that
    are near to everything.

    Args:
        x: Features of the nodes. Those in float16 or bfloat16 are compared in float32.
        k: How many neighbors each node proposes, :math:`k_1` of the paper.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.
        weight: Maps the distances (Euclidean) or similarities of the edges, ``[E]``, to their weights, each on its
            own. By default a similarity is its own weight, and edges at a distance have weight 1.
        backend: As in :func:`nearest`.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        An affinity that lists the set of each target by ascending index, the target among them. Weights have the
        dtype of ``x`` and a gradient with respect to it. Memory is :math:`O(N k)` beside the result.

    Raises:
        ValueError: As :func:`nearest`; or if ``weight`` returns another shape.
        TypeError: If ``x`` is not a floating-point tensor.
        ImportError: If ``backend="faiss"`` is not installed.

    Example:
        >>> A = k_reciprocal(torch.tensor([[0.0], [1.0], [3.0]]), k=1)
        >>> A.to_dense().matrix.tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]

    Reference:
        Zhong et al., "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017.
    """
    points = _Points(x, None, metric)
    _, others = points.nearest(k, backend)
    nodes = torch.arange(others.size(0), device=others.device)
    index = torch.cat([nodes.unsqueeze(1), others], dim=1)
    target, source = _expanded(_reciprocal(index), _reciprocal(index[:, : round(k / 2) + 1]))
    value = points.value(points.search.closeness(target, source))
    return points.affinity(target, source, value, weight=weight)


def _is_mutual(index: Tensor) -> Tensor:
    """Tell of each listed neighbor whether it lists the node, too."""
    n = index.size(0)
    target = torch.arange(n, device=index.device).unsqueeze(1)
    return torch.isin(index * n + target, target * n + index, assume_unique=True)


def _reciprocal(index: Tensor) -> Tensor:
    """Return the lists with the neighbors that are not mutual replaced by -1."""
    return index.masked_fill(~_is_mutual(index), -1)


def _expanded(near: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of each node and what is in its set ``near``, or in a set ``half`` of a member that mostly lies there."""
    size = (half >= 0).sum(dim=1)
    targets, sources = [near.new_empty(0)], [near.new_empty(0)]
    rows = max(1, _BLOCK_BYTES // (near.size(1) * half.size(1) * near.element_size()))
    for block in torch.arange(near.size(0), device=near.device).split(rows):
        own = near[block]
        members = half[own.clamp(min=0)].masked_fill((own < 0).unsqueeze(2), -1)
        sets, flat = own.sort(dim=1).values, members.flatten(1)
        place = torch.searchsorted(sets, flat).clamp(max=sets.size(1) - 1)
        inside = ((sets.gather(1, place) == flat) & (flat >= 0)).view_as(members).sum(dim=2)
        joins = 3 * inside > 2 * size[own.clamp(min=0)]
        joined = torch.cat([own, members.masked_fill(~joins.unsqueeze(2), -1).flatten(1)], dim=1).sort(dim=1).values
        first = joined >= 0
        first[:, 1:] &= joined[:, 1:] != joined[:, :-1]
        row, at = first.nonzero(as_tuple=True)
        targets.append(block[row])
        sources.append(joined[row, at])
    return torch.cat(targets), torch.cat(sources)


class _Points:
    """Checked features, the search among them, and the affinity that pairs of them become."""

    def __init__(self, x: Any, y: Any, metric: str) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; expected one of " + ", ".join(map(repr, METRICS)))
        (x, y), self.dtype = read_features(x=x, y=y)
        if y is not None and y.size(1) != x.size(1):
            raise ValueError(f"y has shape {tuple(y.shape)}; expected [M, {x.size(1)}], as many features as x")
        if metric == "cosine":
            x, y = unit(x), None if y is None else unit(y)
        self.metric = metric
        self.x, self.y = x, x if y is None else y
        self.search = Search(x.detach(), None if y is None else y.detach(), metric)

    def nearest(self, k: int, backend: str) -> tuple[Tensor, Tensor]:
        """Values and indices ``[N, k]`` of the nearest, fewer if there are not as many."""
        check_count(k)
        if backend not in _BACKENDS:
            raise ValueError(f"backend is {backend!r}; expected one of " + ", ".join(map(repr, _BACKENDS)))
        n, m = self.search.sizes
        k = min(k, max(0, m - self.search.alone))
        _, source, closeness = self.search.nearest(k, backend)
        return self.value(closeness).view(n, k), source.view(n, k)

    def value(self, closeness: Tensor) -> Tensor:
        """Distance or similarity."""
        return -closeness if self.metric == "euclidean" else closeness

    def affinity(
        self,
        target: Tensor,
        source: Tensor,
        value: Tensor,
        *,
        loops: bool = False,
        weight: Weight | None,
        symmetric: bool = False,
    ) -> SparseAffinity:
        """Weigh pairs, targets ascending, by the values found or, for a gradient, by these computed again."""
        if loops:
            nodes = torch.arange(self.x.size(0), device=target.device)
            value = torch.cat([self.value(self.search.closeness(nodes, nodes)), value])
            target, order = torch.cat([nodes, target]).sort(stable=True)
            source, value = torch.cat([nodes, source])[order], value[order]
        layout = Layout(torch.stack([source, target]), *self.search.sizes)
        if weight is None and self.metric == "euclidean":
            return SparseAffinity(layout, torch.ones_like(value, dtype=self.dtype), symmetric=symmetric)
        if torch.is_grad_enabled() and (self.x.requires_grad or self.y.requires_grad):
            metric, x, y = self.metric, self.x.unsqueeze(1), self.y.unsqueeze(1)
            value = ops.edge_scores(lambda x_i, y_j, _: direct(metric, x_i, y_j), x, y, None, layout).squeeze(1)
        weights = value if weight is None else weight(value)
        check_weights("weight(values)", weights)
        if weights.shape != value.shape:
            raise ValueError(f"weight(values) has shape {tuple(weights.shape)}; expected {tuple(value.shape)}")
        return SparseAffinity(layout, weights.to(self.dtype), symmetric=symmetric)


def _check_one_set(y: Tensor | None, **given: bool) -> None:
    for name, value in given.items():
        if value and y is not None:
            raise ValueError(f"{name} is True but y is given; expected one set of nodes, x alone")
