"""Influence over many hops within a layer: what attention would pass on if it were applied again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphattn._optional import require
from graphattn.affinity import Affinity
from graphattn.analysis._arrays import check_size
from graphattn.analysis.maps import AttentionMaps
from graphattn.diffusion import resolvent

_TOL = 1e-10  # of the solver: residual of each column, over its length
_MAX_ITER = 1000


@dataclass(frozen=True, eq=False)
class Influence:
    """Hold the influence of tokens on all tokens, over paths of every length within each layer.

    Args:
        values: Influence of the column's source on the row's target, :math:`(L, N, S)`.
        sources: Numbers of the sources.
        tokens: Names of all tokens.
        decay: Share of each hop that takes another.
    """

    values: np.ndarray
    sources: np.ndarray
    tokens: tuple[str, ...]
    decay: float

    @property
    def reach(self) -> np.ndarray:
        """Mean influence of each source over all tokens, :math:`(L, S)`.

        Example:
            >>> A = np.array([[1.0, 0.0], [1.0, 0.0]])
            >>> influence(AttentionMaps.from_arrays(A[None, None]), decay=0.5).reach.round(9).tolist()
            [[0.75, 0.25]]
        """
        return self.values.mean(axis=1)

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and source: its mean and largest influence on others.

        Example:
            >>> A = np.array([[1.0, 0.0], [1.0, 0.0]])
            >>> influence(AttentionMaps.from_arrays(A[None, None]), decay=0.5).as_frame()["largest"].round(9).tolist()
            [0.5, 0.0]
        """
        pandas = require("pandas", "analysis")
        index = pandas.MultiIndex.from_product([range(len(self.values)), self.sources], names=["layer", "source"])
        others = self.values.copy()
        others[:, self.sources, np.arange(len(self.sources))] = 0.0
        columns = {
            "token": [self.tokens[source] for source in self.sources] * len(self.values),
            "reach": self.reach.ravel(),
            "largest": others.max(axis=1).ravel(),
        }
        return pandas.DataFrame(columns, index=index)


def influence(
    maps: AttentionMaps,
    decay: float = 0.9,
    *,
    head: int | None = None,
    sources: Sequence[int] | None = None,
    stacked: bool = False,
) -> Influence:
    r"""Sum the influence of tokens on one another over paths of every length, with less weight on longer ones.

    .. math:: \mathbf{M}_l = (1 - c) \sum_{t=0}^{\infty} (c\,\mathbf{A}_l / r)^t
        = (1 - c)\,(\mathbf{I} - c\,\mathbf{A}_l / r)^{-1}

    with r the largest row sum, if that is above 1: attention has r = 1, and rows of :math:`\mathbf{M}_l` sum to 1. A
    path of :math:`t` hops has the share :math:`(1 - c)\,c^t` of all, and the mean path :math:`c / (1 - c)` hops. A row
    without attention keeps :math:`1 - c` on itself and has nothing else.

    A layer applies its attention once; this is how its graph connects tokens, not what the model computes. The paths
    through the layers are those of :func:`~graphattn.analysis.rollout`.

    Args:
        maps: Attention maps; layers of edges stay sparse.
        decay: Share :math:`c` of each hop that takes another, in (0, 1).
        head: Which head of each layer; their mean by default.
        sources: Numbers of the tokens whose influence is asked for; all by default.
        stacked: Whether a layer takes up what the one below has passed on: :math:`\mathbf{M}_l \cdots \mathbf{M}_1`.

    Returns:
        The influence, from one linear system a layer and source, without an inverse: time :math:`O(E)` a product and
        source. Each value is within 1e-10 of the truth; where layers are stacked, each adds at most that much times
        the length of the column that it takes up.

    Raises:
        ValueError: If an argument is out of range, weights are negative, or the result would take more than 2 GiB;
            then choose ``sources``.
        RuntimeError: If the solver does not converge, as for a ``decay`` that is nearly 1.

    Example:
        >>> chain = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> influence(AttentionMaps.from_arrays(chain[None, None]), decay=0.5).values.round(9).tolist()
        [[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]]

    Reference:
        Katz, "A new status index derived from sociometric analysis", 1953; Page et al., "The PageRank Citation
        Ranking", 1999.
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay is {decay}; expected a number in (0, 1)")
    if head is not None and not all(0 <= head < heads for heads in maps.heads):
        raise ValueError(f"head is {head} but the layers have {maps.heads} heads; expected one that all of them have")
    chosen = np.arange(maps.num_nodes) if sources is None else np.asarray(sources)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not np.isin(chosen, np.arange(maps.num_nodes)).all():
        raise ValueError(f"sources is {sources!r}; expected a list of node numbers below {maps.num_nodes}")
    if not chosen.size:
        raise ValueError("sources is empty; expected at least one node number, or None for all")
    shape = maps.num_layers, maps.num_nodes, len(chosen)
    check_size(f"the influence of {len(chosen)} sources in {maps.num_layers} layers", shape, "choose fewer sources")
    values = np.empty(shape)
    start = torch.zeros(maps.num_nodes, len(chosen), dtype=torch.float64)
    start[chosen, range(len(chosen))] = 1.0
    passed = start
    for layer in range(maps.num_layers):
        A, radius = _fused(maps, layer, head)
        given = passed if stacked else start
        passed = (1 - decay) * resolvent(A, given, decay, radius=radius, tol=_TOL, max_iter=_MAX_ITER, strict=True)
        values[layer] = passed.numpy()
    return Influence(values, chosen, maps.tokens, decay)


def _fused(maps: AttentionMaps, layer: int, head: int | None) -> tuple[Affinity, float]:
    """Return the mean of the heads, or one of them, as an affinity, and what it is divided by."""
    size = maps.num_nodes
    if maps.is_sparse(layer):
        edge_index, weights = maps.edges(layer)
        fused = weights.mean(axis=1) if head is None else weights[:, head]
        sums = np.bincount(edge_index[1], fused, minlength=size)
        A: Affinity = Affinity.from_edge_index(torch.from_numpy(edge_index), torch.from_numpy(fused), size)
    else:
        heads = maps.dense(layer)
        fused = heads.mean(axis=0) if head is None else heads[head]
        sums = fused.sum(axis=1)
        A = Affinity.from_dense(torch.from_numpy(fused))
    if fused.size and fused.min() < 0:
        raise ValueError(
            f"layer {layer} has negative weights, the lowest {fused.min():.3g}; paths have no shares of it"
        )
    return A, max(1.0, float(sums.max()))
