"""Attention rollout: how much of each input has reached each node, layer after layer, along all paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from graphattn.analysis._arrays import check_size, frame_of_inputs, merged_edges
from graphattn.analysis.maps import AttentionMaps

_FUSIONS = ("mean", "max", "min")


@dataclass(frozen=True, eq=False)
class Rollout:
    """Hold how much nodes have received from each input.

    Args:
        relevance: Of each layer, the share of every input in every target.
        layers: Number of each layer.
        targets: Number of each target.
        tokens: Names of the inputs.

    Shapes:
        - ``relevance`` :math:`(L, T, N)`, ``layers`` :math:`(L)`, ``targets`` :math:`(T)`
    """

    relevance: np.ndarray
    layers: np.ndarray
    targets: np.ndarray
    tokens: tuple[str, ...]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and target, and one column per input.

        Example:
            >>> maps = AttentionMaps.from_arrays(np.full((1, 1, 2, 2), 0.5))
            >>> rollout(maps).as_frame().loc[(0, 1)].tolist()
            [0.25, 0.75]
        """
        return frame_of_inputs(self.relevance, self.layers, self.targets, self.tokens)


def rollout(
    maps: AttentionMaps, *, fusion: str = "mean", residual: float | bool = True, start_layer: int = 0
) -> Rollout:
    r"""Multiply the attention of the layers, each mixed with the identity of the residual connection.

    .. math:: \hat{\mathbf{A}}_l = \operatorname{rownorm}(f(\mathbf{A}_l) + \mathbf{I}), \qquad
        \mathbf{R}_l = \hat{\mathbf{A}}_l\,\mathbf{R}_{l-1}, \quad \mathbf{R}_0 = \mathbf{I}

    with :math:`f` fusing the heads. :math:`R_{l,ij}` is the relevance of input j for node i. Attention that is not
    explanation is not made one by multiplying it: check what it says against what the model does.

    Args:
        maps: Attention maps; layers of edges are multiplied as sparse matrices.
        fusion: ``"mean"``, ``"max"`` or ``"min"`` of the heads, entry by entry.
        residual: Whether the residual connection counts as much as the attention, or its weight :math:`r` between 0
            and 1: :math:`(1 - r) f(\mathbf{A}_l) + r\,\mathbf{I}`. With the mean of rows that sum to 1, 0.5 is True.
        start_layer: First layer :math:`l` of the product.

    Returns:
        All :math:`\mathbf{R}_l` from that layer on; their rows sum to 1. A row of a fused layer without any attention
        keeps its node. Takes time :math:`O(L N^3)`, or :math:`O(L E N)` for layers of edges.

    Raises:
        ValueError: If an option is unknown or out of range, weights are negative, or the result would take more than
            2 GiB; then :func:`rollout_rows` gives the rows that matter.

    Example:
        >>> maps = AttentionMaps.from_arrays([np.array([[1.0, 0.0], [0.5, 0.5]])] * 2)
        >>> rollout(maps).relevance.tolist()
        [[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [0.4375, 0.5625]]]

    Reference:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    layers = _numbers(maps, start_layer)
    size = maps.num_nodes
    shape = len(layers), size, size
    what = f"the rollout of {len(layers)} layers over {size} nodes"
    check_size(what, shape, "rollout_rows gives the rows of the targets you need")
    relevance = np.empty(shape)
    step: Any = np.eye(size)
    for place, layer in enumerate(layers):
        step = relevance[place] = mixed_layer(maps, layer, fusion, residual) @ step
    return Rollout(relevance, layers, np.arange(size), maps.tokens)


def rollout_rows(
    maps: AttentionMaps,
    targets: Sequence[int],
    *,
    fusion: str = "mean",
    residual: float | bool = True,
    start_layer: int = 0,
) -> Rollout:
    r"""Give the rows of a rollout's last layer for some targets, without the rest: :math:`\mathbf{e}_i^\top
    \hat{\mathbf{A}}_L \cdots \hat{\mathbf{A}}_1`.

    Args:
        maps: Attention maps.
        targets: Numbers of the nodes to explain.
        fusion: As in :func:`rollout`.
        residual: As in :func:`rollout`.
        start_layer: As in :func:`rollout`.

    Returns:
        The rows, in time :math:`O(L E)` a target for layers of edges and :math:`O(L N^2)` for dense ones.

    Raises:
        ValueError: As :func:`rollout`, or if a target is no node.

    Example:
        >>> maps = AttentionMaps.from_arrays([np.array([[1.0, 0.0], [0.5, 0.5]])] * 2)
        >>> rollout_rows(maps, [1]).relevance.tolist()
        [[[0.4375, 0.5625]]]

    Reference:
        Abnar and Zuidema, 2020, see :func:`rollout`.
    """
    layers = _numbers(maps, start_layer)
    chosen = read_targets(maps, targets)
    rows = np.zeros((len(chosen), maps.num_nodes))
    rows[np.arange(len(chosen)), chosen] = 1.0
    for layer in layers[::-1]:
        rows = rows @ mixed_layer(maps, layer, fusion, residual)
    return Rollout(rows[None], layers[-1:], chosen, maps.tokens)


def mixed_layer(maps: AttentionMaps, layer: int, fusion: str, residual: float | bool) -> Any:
    """Fuse the heads of a layer and mix them with the identity: an array, or a sparse matrix if the layer is edges."""
    attention, identity = _shares(residual)
    if fusion not in _FUSIONS:
        raise ValueError(f"fusion is {fusion!r}; expected one of {', '.join(map(repr, _FUSIONS))}")
    fuse = getattr(np, fusion)
    size = maps.num_nodes
    if not maps.is_sparse(layer):
        fused = fuse(_positive(maps.dense(layer), layer), axis=0)
        fused *= attention
        fused.flat[:: size + 1] += identity
        sums = fused.sum(axis=1)
        fused.flat[:: size + 1] += sums == 0
        return fused / np.where(sums == 0, 1.0, sums)[:, None]
    source, target, heads = merged_edges(maps, layer)
    values = fuse(_positive(heads, layer), axis=0)
    nodes = np.arange(size)
    mixed = attention * csr_array((values, (target, source)), shape=(size, size))
    mixed = mixed + csr_array((np.full(size, identity), (nodes, nodes)), shape=(size, size))
    sums = mixed.sum(axis=1)
    empty = nodes[sums == 0]
    mixed = (mixed + csr_array((np.ones(empty.size), (empty, empty)), shape=(size, size))).tocoo()
    shares = mixed.data / np.where(sums == 0, 1.0, sums)[mixed.row]
    return csr_array((shares, (mixed.row, mixed.col)), shape=(size, size))


def read_targets(maps: AttentionMaps, targets: Sequence[int] | None) -> np.ndarray:
    """Return the numbers of the targets, all nodes by default."""
    if targets is None:
        return np.arange(maps.num_nodes)
    chosen = np.asarray(targets)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not chosen.size:
        raise ValueError(f"targets is {targets!r}; expected a list of node numbers, at least one")
    if not ((chosen >= 0) & (chosen < maps.num_nodes)).all():
        raise ValueError(f"targets is {targets!r} but there are {maps.num_nodes} nodes; expected numbers from 0 on")
    return chosen


def _numbers(maps: AttentionMaps, start_layer: int) -> np.ndarray:
    if not 0 <= start_layer < maps.num_layers:
        raise ValueError(f"start_layer is {start_layer} but there are {maps.num_layers} layers, numbered from 0")
    return np.arange(start_layer, maps.num_layers)


def _shares(residual: float | bool) -> tuple[float, float]:
    """Return the weights of attention and of the residual connection."""
    if isinstance(residual, bool):
        return 1.0, float(residual)
    if not 0 < residual < 1:
        raise ValueError(f"residual is {residual}; expected True, False or a weight between 0 and 1")
    return 1.0 - residual, float(residual)


def _positive(heads: np.ndarray, layer: int) -> np.ndarray:
    """Return the weights of the heads if none is negative."""
    if heads.size and heads.min() < 0:
        raise ValueError(f"layer {layer} has negative weights, the lowest {heads.min():.3g}, which are no shares")
    return heads
