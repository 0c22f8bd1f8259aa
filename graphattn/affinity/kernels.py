"""Affinities of node features: a kernel on given edges, on all pairs, or on all pairs that are never stored.

Every kernel is one formula over pairs (i, j). Where the pairs come from decides the storage: ``edge_index`` gives a
:class:`~graphattn.affinity.SparseAffinity` on those edges; without it all pairs give a
:class:`~graphattn.affinity.DenseAffinity`, or with ``stored=False`` an :class:`~graphattn.affinity.ImplicitAffinity`.
Formulas are evaluated in at least float32 and cast back. Distances are taken from differences of the features: the
shortcut through inner products loses the distance between close points that are far from the origin.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.affinity.affinity import Affinity
from graphattn.affinity.checks import check_count
from graphattn.affinity.pairs import Build, EdgePairs, Pairs, read_features, squared_distances
from graphattn.ops import Layout

__all__ = ["bilateral", "cosine", "dot_product", "gaussian"]

_BLOCK_BYTES = 64 << 20  # of a block of rows in the search for the k-th neighbor


def dot_product(
    x: Tensor,
    edge_index: Any = None,
    *,
    scale: float | None = None,
    y: Tensor | None = None,
    stored: bool = True,
) -> Affinity:
    r"""Weigh pairs of nodes by the scaled inner product of their features.

    .. math:: A_{ij} = \tau\, \mathbf{x}_i^{\top} \mathbf{y}_j

    With ``stored=False`` the affinity is applied as the two thin matrices it is made of: a product costs
    :math:`O((N + M) D)` instead of :math:`O(N M)`.

    Args:
        x: Features of the targets.
        edge_index: Which pairs: a Tensor, an ``EdgeIndex`` or an ``Affinity``, whose weights are not read; all pairs
            by default.
        scale: Factor :math:`\tau`; :math:`1/\sqrt{D}` by default, as in attention.
        y: Features of the sources; ``x`` by default.
        stored: Whether to store the weights. Without ``edge_index`` they may instead be computed wherever they are
            used.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`, ``edge_index`` :math:`(2, E)`
        - **output:** an affinity :math:`N \times M`

    Returns:
        A ``SparseAffinity`` on the given edges, which shares the sorted form of an ``Affinity``; else a
        ``DenseAffinity``, or an ``ImplicitAffinity`` if not ``stored``. Without ``y`` it is marked symmetric wherever
        the edges are.

    Raises:
        ValueError: If a shape, a device or an index does not fit, a feature is not finite, or ``stored`` is false
            although edges are given.
        TypeError: If ``x`` is not a floating-point tensor or ``edge_index`` no edges.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> dot_product(x, scale=1.0).matrix
        tensor([[5., 3.],
                [3., 9.]])
        >>> dot_product(x, torch.tensor([[0], [1]]), scale=1.0).weight
        tensor([3.])
    """
    (wide, other), dtype = read_features(x=x, y=y)
    build = Build(wide, other, edge_index, stored, dtype)
    scale = wide.size(1) ** -0.5 if scale is None else scale
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; expected a finite number")
    return build.products(wide, wide if other is None else other, scale)


def cosine(x: Tensor, edge_index: Any = None, *, y: Tensor | None = None, stored: bool = True) -> Affinity:
    r"""Weigh pairs of nodes by the cosine of the angle between their features.

    .. math:: A_{ij} = \frac{\mathbf{x}_i^{\top} \mathbf{y}_j}{\|\mathbf{x}_i\|\, \|\mathbf{y}_j\|}

    A zero vector has cosine 0 with everything: norms are taken to be at least :math:`10^{-12}`.

    Args:
        x: Features of the targets.
        edge_index: Which pairs, as in :func:`dot_product`.
        y: Features of the sources; ``x`` by default.
        stored: Whether to store the weights, as in :func:`dot_product`.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`, ``edge_index`` :math:`(2, E)`
        - **output:** an affinity :math:`N \times M`

    Returns:
        As :func:`dot_product`.

    Raises:
        ValueError: If a shape, a device or an index does not fit, a feature is not finite, or ``stored`` is false
            although edges are given.
        TypeError: If ``x`` is not a floating-point tensor or ``edge_index`` no edges.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
        >>> cosine(x).matrix
        tensor([[1.0000, 0.6000, 0.0000],
                [0.6000, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    (wide, other), dtype = read_features(x=x, y=y)
    build = Build(wide, other, edge_index, stored, dtype)
    unit = F.normalize(wide, dim=1)
    return build.products(unit, unit if other is None else F.normalize(other, dim=1), 1.0)


def gaussian(
    x: Tensor,
    edge_index: Any = None,
    *,
    bandwidth: float | Tensor | str,
    k: int | None = None,
    y: Tensor | None = None,
    stored: bool = True,
) -> Affinity:
    r"""Weigh pairs of nodes by a Gaussian of their distance, of one width or of a width that suits every node.

    .. math:: A_{ij} = \exp\left(-\frac{\|\mathbf{x}_i - \mathbf{y}_j\|^2}{2 \sigma^2}\right)
        \quad\text{or}\quad
        A_{ij} = \exp\left(-\frac{\|\mathbf{x}_i - \mathbf{x}_j\|^2}{\sigma_i \sigma_j}\right)

    The second form is ``bandwidth="self-tuning"``: :math:`\sigma_i` is the distance from :math:`i` to its k-th nearest
    neighbor, among all other nodes or, where edges are given, among the nodes it shares an edge with in either
    direction. A node with fewer neighbors takes its farthest. Edges of a k-nearest-neighbor graph thus get the weights
    they have among all pairs. Where :math:`\sigma_i = 0` (k neighbors in the same place) the weight is that of the
    limit: 1 between points in the same place, else 0.

    Non-local means is ``gaussian(patches, window, bandwidth=h / 2**0.5).normalize("row") @ pixels``.

    Args:
        x: Features of the targets.
        edge_index: Which pairs, as in :func:`dot_product`.
        bandwidth: Standard deviation :math:`\sigma`, a number or a tensor of one, which may need a gradient; or
            ``"self-tuning"``.
        k: Which neighbor tells the bandwidth of a node, 7 by default as in the paper. Only for ``"self-tuning"``.
        y: Features of the sources; ``x`` by default. Not for ``"self-tuning"``.
        stored: Whether to store the weights, as in :func:`dot_product`.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``y`` :math:`(M, D)`, ``edge_index`` :math:`(2, E)`
        - **output:** an affinity :math:`N \times M`

    Returns:
        As :func:`dot_product`.

    Raises:
        ValueError: If a shape, a device or an index does not fit, a feature is not finite, ``bandwidth`` is not
            positive, or two arguments exclude each other.
        TypeError: If ``x`` is not a floating-point tensor or ``edge_index`` no edges.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> gaussian(x, bandwidth=1.0).matrix[0]
        tensor([1.0000, 0.6065, 0.0111])
        >>> gaussian(x, bandwidth="self-tuning", k=1).matrix[2]
        tensor([0.0111, 0.1353, 1.0000])

    Reference:
        Zelnik-Manor and Perona, "Self-Tuning Spectral Clustering", 2004; Buades et al., "A non-local algorithm for
        image denoising", 2005.
    """
    (wide, other), dtype = read_features(x=x, y=y)
    build = Build(wide, other, edge_index, stored, dtype)
    other = wide if other is None else other
    if isinstance(bandwidth, str):
        if bandwidth != "self-tuning":
            raise ValueError(f"bandwidth is {bandwidth!r}; expected a positive number or 'self-tuning'")
        if y is not None:
            raise ValueError("y is given but bandwidth is 'self-tuning', which compares the nodes of one set; leave y")
        k = 7 if k is None else k
        check_count(k)
        scale = _local_scale(wide, None if build.edges is None else build.edges.layout, k)
        return build(lambda pairs: _self_tuned(pairs.distances(wide, wide), pairs.outer(scale)))
    if k is not None:
        raise ValueError(f"k is {k} but bandwidth is not 'self-tuning', the only one that looks for neighbors; leave k")
    sigma = _bandwidth("bandwidth", bandwidth, wide)
    return build(lambda pairs: (pairs.distances(wide, other) / sigma / sigma).mul(-0.5).exp())


def bilateral(
    position: Tensor,
    value: Tensor,
    edge_index: Any = None,
    *,
    position_bandwidth: float | Tensor,
    value_bandwidth: float | Tensor,
    stored: bool = True,
) -> Affinity:
    r"""Weigh pairs of nodes by how close they are and how alike: the weights of the bilateral filter.

    .. math:: A_{ij} = \exp\left(-\frac{\|\mathbf{p}_i - \mathbf{p}_j\|^2}{2 \sigma_p^2}
        - \frac{\|\mathbf{v}_i - \mathbf{v}_j\|^2}{2 \sigma_v^2}\right)

    The filter is ``bilateral(...).normalize("row") @ value``; edges restrict it to a window.

    Args:
        position: Where the nodes stand, such as pixel coordinates.
        value: What they hold, such as colors.
        edge_index: Which pairs, as in :func:`dot_product`.
        position_bandwidth: Standard deviation :math:`\sigma_p`, a number or a tensor of one.
        value_bandwidth: Standard deviation :math:`\sigma_v`, likewise.
        stored: Whether to store the weights, as in :func:`dot_product`.

    Shapes:
        - **input:** ``position`` :math:`(N, P)`, ``value`` :math:`(N, D)`, ``edge_index`` :math:`(2, E)`
        - **output:** an affinity :math:`N \times N`

    Returns:
        As :func:`dot_product`.

    Raises:
        ValueError: If a shape, a device or an index does not fit, a feature is not finite, or a bandwidth is not
            positive.
        TypeError: If ``position`` or ``value`` is not a floating-point tensor or ``edge_index`` no edges.

    Example:
        >>> step = torch.tensor([[0.0], [0.2], [0.0], [5.0], [5.2]])
        >>> time = torch.arange(5.0).unsqueeze(1)
        >>> A = bilateral(time, step, position_bandwidth=1.0, value_bandwidth=0.5).normalize("row")
        >>> (A @ step).flatten()
        tensor([0.0661, 0.0943, 0.0661, 5.0718, 5.1282])

    Reference:
        Tomasi and Manduchi, "Bilateral Filtering for Gray and Color Images", 1998.
    """
    (place, look), dtype = read_features(position=position, value=value)
    if place.size(0) != look.size(0):
        raise ValueError(f"position has {place.size(0)} rows but value has {look.size(0)}; expected one row per node")
    build = Build(place, None, edge_index, stored, dtype)
    near = _bandwidth("position_bandwidth", position_bandwidth, place)
    alike = _bandwidth("value_bandwidth", value_bandwidth, look)

    def kernel(pairs: Pairs) -> Tensor:
        apart, unlike = pairs.distances(place, place), pairs.distances(look, look)
        return (apart / near / near + unlike / alike / alike).mul(-0.5).exp()

    return build(kernel)


def _bandwidth(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """Check a bandwidth and return it as a scalar in the dtype of ``x``."""
    readable = True
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} and dtype {value.dtype}; expected one floating-point number"
            )
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device} but the features are on {x.device}; move one of them")
        readable = x.device.type == "cpu" and not torch.compiler.is_compiling()
        scalar = value.to(x.dtype).reshape(())
    elif isinstance(value, (int, float)):
        scalar = x.new_tensor(value)
    else:
        raise TypeError(f"{name} is a {type(value).__name__}; expected a positive number")
    if readable and not 0 < scalar.item() < math.inf:
        shown = value.item() if isinstance(value, Tensor) else value
        raise ValueError(f"{name} is {shown}; expected a positive number of {x.dtype}")
    return scalar


def _self_tuned(distance: Tensor, scale: Tensor) -> Tensor:
    """The weights of squared distances and products of bandwidths, which may be 0."""
    degenerate = scale == 0
    weight = (-distance / scale.masked_fill(degenerate, 1.0)).exp()
    return torch.where(degenerate, (distance == 0).to(weight.dtype), weight)


def _local_scale(x: Tensor, layout: Layout | None, k: int) -> Tensor:
    """Distance of every node to its k-th neighbor, 0 for a node without neighbors; differentiable in ``x``."""
    with torch.no_grad():
        neighbor = _kth_of_all(x, k) if layout is None else _kth_of_edges(x, layout, k)
    squared = (x - x.index_select(0, neighbor)).square().sum(dim=1)
    return squared.masked_fill(squared == 0, 1.0).sqrt().masked_fill(squared == 0, 0.0)


def _kth_of_all(x: Tensor, k: int) -> Tensor:
    """The k-th nearest other node of every node, by blocks of rows."""
    n = x.size(0)
    neighbor = torch.arange(n, device=x.device)
    if n < 2:
        return neighbor
    step = max(1, _BLOCK_BYTES // (n * x.element_size()))
    for start in range(0, n, step):
        distance = squared_distances(x[start : start + step], x)
        distance.diagonal(start).fill_(math.inf)  # a node is no neighbor of its own
        neighbor[start : start + step] = distance.kthvalue(min(k, n - 1), dim=1).indices
    return neighbor


def _kth_of_edges(x: Tensor, layout: Layout, k: int) -> Tensor:
    """The k-th nearest of the nodes that every node shares an edge with; itself if there are none."""
    n = x.size(0)
    source, target = layout.edge_index.long()
    apart = source != target
    source, target = source[apart], target[apart]
    key = torch.cat([target * n + source, source * n + target]).unique()  # parallel edges count once
    node, other = key // max(n, 1), key % max(n, 1)
    distance = EdgePairs(Layout(torch.stack([other, node]), n, n)).distances(x, x)
    order = distance.argsort()
    order = order.index_select(0, node[order].argsort(stable=True))
    degree = node.bincount(minlength=n)
    last = degree.cumsum(0) - degree + degree.clamp(max=k) - 1
    neighbor, linked = torch.arange(n, device=x.device), degree > 0
    neighbor[linked] = other[order[last[linked]]]
    return neighbor
