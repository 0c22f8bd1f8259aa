"""The simplest graph of tokens: entries of the sharpest heads, above a threshold. A baseline for causal structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from graphattn._optional import require
from graphattn.analysis.maps import AttentionMaps


@dataclass(frozen=True, eq=False)
class AttentionThreshold:
    """Hold the graph of large mean attention.

    Args:
        adjacency: Entry :math:`(i, j)` tells whether token i draws on token j by more than the threshold.
        attention: Mean attention of the heads that were taken.
        threshold: The threshold.
        heads: The heads that were taken, as (layer, head), the sharpest first.
        sharpness: How sharp each of them is, in [0, 1].
        tokens: Names of all tokens.

    Shapes:
        - ``adjacency`` and ``attention`` are :math:`(N, N)`

    Example:
        >>> A = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
        >>> attention_threshold(A)
        AttentionThreshold(3 tokens, 1 edges, threshold 0.1, heads [(0, 0)])
    """

    adjacency: np.ndarray
    attention: np.ndarray
    threshold: float
    heads: tuple[tuple[int, int], ...]
    sharpness: tuple[float, ...]
    tokens: tuple[str, ...]

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per edge: its ends, their names, and its weight, row by row.

        Example:
            >>> A = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
            >>> attention_threshold(A).as_frame()[["source", "target", "weight"]].values.tolist()
            [[0.0, 1.0, 0.7]]
        """
        pandas = require("pandas", "analysis")
        target, source = np.nonzero(self.adjacency)
        names = np.array(self.tokens, dtype=object)
        columns = {"source": source, "target": target, "source_token": names[source], "target_token": names[target]}
        return pandas.DataFrame({**columns, "weight": self.attention[target, source]})

    def to_networkx(self) -> Any:
        """Return the graph as a ``networkx.DiGraph`` whose edges go from the token drawn on, with a ``weight``.

        Example:
            >>> A = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
            >>> list(attention_threshold(A).to_networkx().edges(data="weight"))
            [(0, 1, 0.7)]
        """
        graph = nx.DiGraph()
        graph.add_nodes_from((node, {"token": token}) for node, token in enumerate(self.tokens))
        for target, source in np.argwhere(self.adjacency).tolist():
            graph.add_edge(source, target, weight=float(self.attention[target, source]))
        return graph

    def __repr__(self) -> str:
        return (
            f"AttentionThreshold({len(self.tokens)} tokens, {int(self.adjacency.sum())} edges, threshold "
            f"{self.threshold:.4g}, heads {list(self.heads)})"
        )


def attention_threshold(attention: Any, top: int = 1) -> AttentionThreshold:
    r"""Average the sharpest heads and keep the entries above Otsu's threshold.

    .. math:: \text{sharpness} = \frac1N \sum_i \Bigl(1 - \frac{H(\mathbf{A}_i)}{\log N}\Bigr), \quad
        H(\mathbf{A}_i) = -\sum_j A_{ij} \log A_{ij}

    It reads attention itself as structure and tests nothing: what a causal graph has to be better than. The diagonal is
    left out.

    Args:
        attention: :class:`~graphattn.analysis.maps.AttentionMaps`, dense or of edges, all of whose heads are ranked, or
            an array or tensor.
        top: Number of heads to average.

    Shapes:
        - **input:** an array is :math:`(N, N)`, :math:`(H, N, N)` or :math:`(L, H, N, N)`

    Returns:
        The graph; without edges if all entries are equal.

    Raises:
        ValueError: If ``top`` is below 1 or above the number of heads, the attention is none, or a layer would take
            more than 2 GiB as matrices.

    Example:
        >>> uniform, sharp = np.full((3, 3), 1 / 3), np.roll(np.eye(3), 1, axis=1)
        >>> attention_threshold(np.stack([uniform, sharp])).heads
        ((0, 1),)

    Reference:
        Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
        Cybernetics 1979.
    """
    if not isinstance(attention, AttentionMaps):
        attention = AttentionMaps.from_arrays(attention if np.ndim(attention) == 4 else [attention])
    names = [(layer, head) for layer, heads in enumerate(attention.heads) for head in range(heads)]
    if not 1 <= top <= len(names):
        raise ValueError(f"top is {top} but there are {len(names)} heads; expected a number of 1 to {len(names)}")
    sharpness = np.concatenate([_sharpness(attention.dense(layer)) for layer in range(attention.num_layers)])
    chosen = np.argsort(-sharpness, kind="stable")[:top]
    heads = tuple(names[index] for index in chosen)
    mean = np.mean([attention.dense(layer)[head] for layer, head in heads], axis=0)
    others = ~np.eye(len(mean), dtype=bool)
    threshold = otsu_threshold(mean[others]) if len(mean) > 1 else 0.0
    taken = tuple(float(sharpness[index]) for index in chosen)
    return AttentionThreshold((mean > threshold) & others, mean, threshold, heads, taken, attention.tokens)


def _sharpness(heads: np.ndarray) -> np.ndarray:
    """Return one number for each head; a row without any attention counts as spread evenly, a single token as sharp."""
    size = heads.shape[-1]
    if size == 1:
        return np.ones(len(heads))
    entropy = -(heads * np.log(np.where(heads > 0, heads, 1.0))).sum(axis=-1)
    entropy[~heads.any(axis=-1)] = np.log(size)
    sharpness: np.ndarray = 1 - entropy.mean(axis=-1) / np.log(size)
    return sharpness


def otsu_threshold(values: np.ndarray) -> float:
    r"""Split values in two groups that differ most: :math:`n_0 n_1 (\mu_0 - \mu_1)^2` is largest.

    Args:
        values: The values, at least one.

    Returns:
        The largest value of the lower group, so that ``values > threshold`` is the upper one; the largest of all if
        they are equal. It is exact, without a histogram.

    Example:
        >>> otsu_threshold(np.array([0.1, 0.9, 0.2, 0.8]))
        0.2
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    below = np.arange(1, len(ordered))
    split = ordered[1:] > ordered[:-1]
    if not split.any():
        return float(ordered[-1])
    sums = np.cumsum(ordered)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (means[1] - means[0]) ** 2
    return float(ordered[:-1][np.where(split, between, -np.inf).argmax()])
