"""Attention sinks: nodes that all others draw on, whatever is said; and how spread out the attention is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import entr
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis._arrays import merged_edges
from graphattn.analysis.maps import AttentionMaps


@dataclass(frozen=True, eq=False)
class Sinks:
    """Hold how strongly each node is drawn on, and how spread out attention is; one entry of each list per layer.

    Args:
        strength: Mean weight of each node over the nodes that may see it, :math:`(H, N)`.
        entropy: Entropy of each node's attention in nats, :math:`(H, N)`; 0 where all of it is on one node.
        first_token_mass: Mean weight that the other nodes give to the first, :math:`(H)`; NaN if there are none.
        eps: Strength above which a node is a sink.
    """

    strength: tuple[np.ndarray, ...]
    entropy: tuple[np.ndarray, ...]
    first_token_mass: tuple[np.ndarray, ...]
    eps: float

    @property
    def found(self) -> np.ndarray:
        """All sinks: rows of layer, head and node, :math:`(S, 3)`.

        Example:
            >>> A = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.9, 0.1, 0.0]])
            >>> sinks(AttentionMaps.from_arrays(A[None, None])).found.tolist()
            [[0, 0, 0]]
        """
        places = [
            np.insert(np.argwhere(strength > self.eps), 0, layer, axis=1)
            for layer, strength in enumerate(self.strength)
        ]
        return np.concatenate(places)

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and head: its strongest node, sinks, and means over nodes.

        Example:
            >>> sinks(AttentionMaps.from_arrays(np.full((1, 1, 2, 2), 0.5))).as_frame()["n_sinks"].tolist()
            [2]
        """
        pandas = require("pandas", "analysis")
        heads = [(layer, head) for layer, values in enumerate(self.strength) for head in range(len(values))]
        strength, entropy = np.concatenate(self.strength), np.concatenate(self.entropy)
        columns = {
            "strongest": strength.argmax(axis=1),
            "strength": strength.max(axis=1),
            "n_sinks": (strength > self.eps).sum(axis=1),
            "first_token_mass": np.concatenate(self.first_token_mass),
            "entropy": entropy.mean(axis=1),
        }
        return pandas.DataFrame(columns, index=pandas.MultiIndex.from_tuples(heads, names=["layer", "head"]))


@dataclass(frozen=True, eq=False)
class SinkRate:
    """Hold how often a position is a sink, for samples of each length.

    Args:
        lengths: Lengths of the samples.
        rates: Share of (sample, layer, head) in which the position is a sink, for each length.
        counts: Number of (sample, layer, head) of each length.
    """

    lengths: np.ndarray
    rates: np.ndarray
    counts: np.ndarray

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per length.

        Example:
            >>> sink_rate([AttentionMaps.from_arrays(np.eye(2)[None, None])]).as_frame()["rates"].to_dict()
            {2: 1.0}
        """
        pandas = require("pandas", "analysis")
        columns = {"rates": self.rates, "counts": self.counts}
        return pandas.DataFrame(columns, index=pandas.Index(self.lengths, name="length"))


def sinks(maps: AttentionMaps, eps: float = 0.3) -> Sinks:
    r"""Find the nodes that attention collects on.

    .. math:: \alpha_j = \frac{1}{|\{i : i \text{ may see } j\}|} \sum_i A_{ij}

    In causal maps node j, counted from 0, is seen by the last :math:`N - j` nodes; in other dense maps by all; in a
    layer of edges by the nodes it has an edge to.

    Args:
        maps: Attention maps.
        eps: Strength :math:`\alpha` above which a node is a sink, between 0 and 1.

    Returns:
        Strengths, sinks and entropies, in one pass over the weights.

    Raises:
        ValueError: If ``eps`` is out of range, or weights are negative.

    Example:
        >>> uniform = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
        >>> sinks(AttentionMaps.from_arrays(uniform[None, None])).strength[0].round(3).tolist()
        [[0.521, 0.361, 0.292, 0.25]]

    Reference:
        Gu et al., "When Attention Sink Emerges in Language Models: An Empirical View", ICLR 2025.
    """
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is {eps}; expected a strength between 0 and 1")
    size = maps.num_nodes
    strengths, entropies, masses = [], [], []
    for layer in range(maps.num_layers):
        if maps.is_sparse(layer):
            received, entropy, first = _of_edges(maps, layer)
        else:
            A = maps.dense(layer)
            seen = np.arange(size, 0, -1) if maps.causal else np.full(size, size)
            received, entropy, first = A.sum(axis=1) / seen, _surprise(A, layer).sum(axis=2), A[:, 1:, 0].sum(axis=1)
        strengths.append(received)
        entropies.append(entropy)
        masses.append(first / (size - 1) if size > 1 else np.full(len(first), np.nan))
    return Sinks(tuple(strengths), tuple(entropies), tuple(masses), eps)


def sink_rate(
    samples: Iterable[AttentionMaps], eps: float = 0.3, *, position: int = 0, as_percent: bool = False
) -> SinkRate:
    r"""Count how often a position is a sink, over samples, layers and heads.

    .. math:: \operatorname{Sink}_k(\epsilon) = \frac{1}{S L H} \sum_{s, l, h} [\alpha_{slhk} > \epsilon]

    Args:
        samples: Attention maps of each sample, read one at a time; those too short for the position are left out.
        eps: As in :func:`sinks`.
        position: The node :math:`k`, counted from 0: the first token.
        as_percent: Whether rates are given in percent, as the released code of the paper prints them.

    Returns:
        The rates, for samples of each length apart: how many nodes share the attention matters. The paper compares
        models at 64 tokens.

    Raises:
        ValueError: If no sample has the position, or as :func:`sinks`.

    Example:
        >>> uniform = np.tril(np.ones((64, 64))) / np.arange(1, 65)[:, None]
        >>> sink_rate([AttentionMaps.from_arrays(uniform[None, None])]).rates.tolist()
        [0.0]

    Reference:
        Gu et al., 2025, see :func:`sinks`.
    """
    if position < 0:
        raise ValueError(f"position is {position}; expected a node number, counted from 0")
    hits: dict[int, list[np.ndarray]] = {}
    for maps in samples:
        if position < maps.num_nodes:
            strength = np.concatenate(sinks(maps, eps).strength)[:, position]
            hits.setdefault(maps.num_nodes, []).append(strength > eps)
    if not hits:
        raise ValueError(f"no sample has position {position}; pass maps of more than {position} nodes")
    pooled = {length: np.concatenate(hits[length]) for length in sorted(hits)}
    rates = np.array([values.mean() for values in pooled.values()])
    counts = np.array([values.size for values in pooled.values()])
    return SinkRate(np.array(list(pooled)), 100 * rates if as_percent else rates, counts)


def sink_mask(num_nodes: int, start: int = 4, window: int = 512) -> Tensor:
    r"""Let every token see the first tokens, which are the sinks, and the most recent ones, itself included.

    .. math:: M_{ij} = [j \le i] \land ([j < s] \lor [i - j < w])

    Args:
        num_nodes: Number of tokens :math:`N`.
        start: Number :math:`s` of first tokens.
        window: Number :math:`w` of recent tokens, at least 1.

    Shapes:
        - **output:** :math:`(N, N)`

    Returns:
        A mask that is True where attention is allowed, as ``scaled_dot_product_attention`` takes it.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> sink_mask(5, start=1, window=2).int()
        tensor([[1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0],
                [1, 0, 1, 1, 0],
                [1, 0, 0, 1, 1]], dtype=torch.int32)

    Reference:
        Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024.
    """
    for name, value, least in (("num_nodes", num_nodes, 0), ("start", start, 0), ("window", window, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")
    place = torch.arange(num_nodes)
    back = place[:, None] - place
    return (back >= 0) & ((place < start) | (back < window))


def _of_edges(maps: AttentionMaps, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return strength, entropy and the sum of what others give to the first node, of a layer of edges."""
    size = maps.num_nodes
    source, target, heads = merged_edges(maps, layer)
    seen = np.maximum(np.bincount(source, minlength=size), 1)
    strength = np.stack([np.bincount(source, head, minlength=size) for head in heads]) / seen
    entropy = np.stack([np.bincount(target, head, minlength=size) for head in _surprise(heads, layer)])
    return strength, entropy, heads[:, (source == 0) & (target > 0)].sum(axis=1)


def _surprise(A: np.ndarray, layer: int) -> np.ndarray:
    """Return -a log a of each weight, 0 for 0."""
    if A.size and A.min() < 0:
        raise ValueError(f"layer {layer} has negative weights, the lowest {A.min():.3g}, which have no entropy")
    return np.asarray(entr(A))
