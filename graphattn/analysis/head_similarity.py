"""Which tokens a head makes alike: the scalar products of its output vectors, and what the closest pairs share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from graphattn._optional import require
from graphattn.analysis._arrays import check_size, read_array
from graphattn.analysis.maps import AttentionMaps

_NORMALIZATIONS = ("none", "cosine")


@dataclass(frozen=True, eq=False)
class HeadSimilarity:
    """Hold what the most similar pairs of each head have in common; one entry per head, layer after layer.

    The pairs are those whose similarity is at least the quantile of that head. A statistic is NaN where there is no
    pair, or where what it needs was not given.

    Args:
        layer: Layer of each head.
        head: Number of each head in its layer.
        n_pairs: Number of its pairs.
        mean_distance: Mean distance of the two tokens of a pair.
        same_token: Share of pairs of equal tokens.
        concentration: The largest share of pairs that one and the same token takes part in.
        within_segment: Share of pairs inside one segment; a separator belongs to the segment that it ends.
        separator_mass: Mean attention that a token pays to separators.
    """

    layer: np.ndarray
    head: np.ndarray
    n_pairs: np.ndarray
    mean_distance: np.ndarray
    same_token: np.ndarray
    concentration: np.ndarray
    within_segment: np.ndarray
    separator_mass: np.ndarray

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row per layer and head.

        Example:
            >>> head_similarity([np.eye(3)[None]]).as_frame()["n_pairs"].tolist()
            [3]
        """
        columns = dict(vars(self))
        index = [columns.pop("layer"), columns.pop("head")]
        pandas = require("pandas", "analysis")
        return pandas.DataFrame(columns, index=pandas.MultiIndex.from_arrays(index, names=["layer", "head"]))


def output_similarity(outputs: Any, *, normalize: str = "none") -> np.ndarray:
    r"""Compute the scalar products of the output vectors of a head.

    .. math:: \mathbf{S} = \mathbf{O} \mathbf{O}^\top = \mathbf{A} (\mathbf{V} \mathbf{V}^\top) \mathbf{A}^\top,
        \qquad \mathbf{O} = \mathbf{A} \mathbf{V}

    Args:
        outputs: Output vectors :math:`\mathbf{O}` of one head, or of several.
        normalize: ``"none"``, or ``"cosine"`` for vectors divided by their length; a vector of zeros stays so.

    Shapes:
        - **input:** :math:`(*, N, C)`
        - **output:** :math:`(*, N, N)`

    Returns:
        The similarities, float64.

    Raises:
        ValueError: If the outputs are no such finite arrays, or ``normalize`` is unknown.

    Example:
        >>> output_similarity(np.array([[3.0, 4.0], [0.0, 2.0]]), normalize="cosine").round(2).tolist()
        [[1.0, 0.8], [0.8, 1.0]]

    Reference:
        Halevi et al., Physica A 686, 2026.
    """
    if normalize not in _NORMALIZATIONS:
        raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, _NORMALIZATIONS))}")
    vectors = _outputs(outputs)
    if normalize == "none":
        return vectors @ vectors.swapaxes(-1, -2)
    largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)  # divided out, so that no square underflows
    vectors = vectors / np.where(largest == 0, 1.0, largest)
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    vectors = vectors / np.where(length == 0, 1.0, length)
    return np.clip(vectors @ vectors.swapaxes(-1, -2), -1.0, 1.0)


def head_similarity(
    outputs: Iterable[Any],
    maps: AttentionMaps | None = None,
    *,
    ids: Sequence[Any] | None = None,
    separators: Sequence[Any] | None = None,
    normalize: str = "none",
    quantile: float = 0.95,
) -> HeadSimilarity:
    """Describe the pairs of tokens whose output vectors are most similar, head by head.

    The choice of the pairs and the statistics are definitions of this library.

    Args:
        outputs: Output vectors of each layer before the heads are mixed, as a capture keeps them; they are read one
            layer at a time.
        maps: The attention maps of the same tokens, dense or of edges, for the attention that separators get.
        ids: What each token is, by whatever compares equal; the tokens of ``maps`` by default.
        separators: Which of the ids are separators, that end a segment.
        normalize: As in :func:`output_similarity`.
        quantile: Quantile of a head's similarities from which on its pairs are looked at.

    Shapes:
        - **input:** each of ``outputs`` :math:`(H, N, C)`, ``ids`` :math:`(N)`

    Returns:
        The statistics, in time :math:`O(N^2 C)` for each head, and memory :math:`O(N^2)` for one head at a time.

    Raises:
        ValueError: If there is no layer, shapes do not fit, ``separators`` come without ids, an option is out of
            range, or the similarities of a head would take more than 2 GiB.

    Example:
        >>> outputs = np.array([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
        >>> found = head_similarity([outputs], ids=["a", "a", "b", "a"], quantile=0.8)
        >>> found.n_pairs.tolist(), found.mean_distance.tolist(), found.same_token.tolist()
        ([2], [1.0], [0.5])

    Reference:
        Halevi et al., 2026, see :func:`output_similarity`.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}; expected a number between 0 and 1")
    if ids is None and maps is not None:
        ids = maps.tokens
    if separators is not None and ids is None:
        raise ValueError("separators are given but no ids to find them by; pass ids, or maps with tokens")
    codes, ends = _read_ids(ids, separators)
    rows: list[tuple[float, ...]] = []
    number = -1
    for number, layer in enumerate(outputs):
        heads = _outputs(layer)
        if heads.ndim != 3 or (codes is not None and heads.shape[1] != len(codes)):
            expected = "[H, N, C]" if codes is None else f"[H, {len(codes)}, C]"
            raise ValueError(f"outputs of layer {number} have shape {heads.shape}; expected {expected}")
        nodes = heads.shape[1]
        check_size(f"the similarity of {nodes} tokens in layer {number}", (nodes, nodes), "choose fewer tokens")
        mass = _separator_mass(maps, number, ends, heads)
        for head, vectors in enumerate(heads):
            S = output_similarity(vectors, normalize=normalize)
            rows.append((number, head, *_statistics(S, vectors, quantile, codes, ends), mass[head]))
    if number < 0 or (maps is not None and number + 1 != maps.num_layers):
        expected = "at least one" if maps is None else f"{maps.num_layers}, as maps has"
        raise ValueError(f"outputs has {number + 1} layers; expected {expected}")
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return HeadSimilarity(*columns)


def _statistics(
    S: np.ndarray, vectors: np.ndarray, quantile: float, codes: np.ndarray | None, ends: np.ndarray | None
) -> tuple[float, ...]:
    """Return number of pairs, mean distance, shares of equal tokens, of the commonest token and inside segments."""
    if len(S) < 2:
        return 0, *[np.nan] * 4
    pairs = np.triu(np.ones(S.shape, dtype=bool), 1)
    # Products of C terms: those that are equal but for rounding are in or out together.
    rounding = 4 * vectors.shape[1] * np.finfo(np.float64).eps * max(S.max(), -S.min())
    least = np.quantile(S[pairs], quantile, overwrite_input=True) - rounding
    first, second = np.nonzero(pairs & (least <= S))
    same = concentration = within = np.nan
    if codes is not None:
        equal = codes[first] == codes[second]
        size = int(codes.max()) + 1  # a pair of equal tokens counts once
        touches = np.bincount(codes[first], minlength=size) + np.bincount(codes[second][~equal], minlength=size)
        same, concentration = equal.mean(), touches.max() / first.size
    if ends is not None:
        segment = np.cumsum(ends) - ends
        within = (segment[first] == segment[second]).mean()
    return first.size, (second - first).mean(), same, concentration, within


def _separator_mass(maps: AttentionMaps | None, layer: int, ends: np.ndarray | None, heads: np.ndarray) -> np.ndarray:
    if maps is None or ends is None or layer >= maps.num_layers:
        return np.full(len(heads), np.nan)
    if maps.heads[layer] != len(heads) or maps.num_nodes != heads.shape[1]:
        raise ValueError(
            f"outputs of layer {layer} have shape {heads.shape} but maps has {maps.heads[layer]} heads over "
            f"{maps.num_nodes} nodes"
        )
    (source, _), weights = maps.edges(layer)
    return weights[ends[source]].sum(axis=0) / maps.num_nodes


def _read_ids(
    ids: Sequence[Any] | None, separators: Sequence[Any] | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Number the ids, and tell which are separators."""
    if ids is None:
        return None, None
    listed = ids.tolist() if isinstance(ids, np.ndarray | Tensor) else list(ids)
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in listed], dtype=np.int64)
    if separators is None:
        return codes, None
    names = separators.tolist() if isinstance(separators, np.ndarray | Tensor) else list(separators)
    return codes, np.isin(codes, [numbers[name] for name in names if name in numbers])


def _outputs(values: Any) -> np.ndarray:
    vectors = read_array("outputs", values)
    if vectors.ndim < 2 or vectors.shape[-1] == 0:
        raise ValueError(f"outputs have shape {vectors.shape}; expected vectors [*, N, C]")
    return vectors
