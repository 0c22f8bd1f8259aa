"""Reading and checking attention maps, of which :class:`~graphattn.analysis.maps.AttentionMaps` are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity import DenseAffinity, SparseAffinity

Edges: TypeAlias = tuple[np.ndarray, np.ndarray]
Layer: TypeAlias = np.ndarray | Edges

_TOLERANCE = 1e-3  # of a sum over a row, above what half precision leaves


def split(layers: Any, sample: int | None) -> tuple[Sequence[Any], int | None]:
    """Return an entry a layer, and the sample that is yet to be taken of each."""
    if isinstance(layers, Tensor | np.ndarray):
        if layers.ndim == 5 and sample is not None:
            _check_sample(sample, len(layers))
            return list(_array(layers[sample])), None
        if layers.ndim != 4 or sample is not None:
            expected = "[L, H, N, N]" if sample is None else "[B, L, H, N, N], as sample is given"
            hint = "; pass sample= to read one of a batch" if layers.ndim == 5 else ""
            raise ValueError(f"layers has shape {tuple(layers.shape)}; expected {expected}{hint}")
        return list(_array(layers)), None
    if isinstance(layers, Sequence) and not isinstance(layers, str):
        return layers, sample
    raise TypeError(
        f"layers is a {type(layers).__name__}; expected an array [L, H, N, N] or a sequence with an entry a layer"
    )


def _array(values: Any) -> np.ndarray:
    """Read an array of weights as floats of at least single precision."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.to(torch.promote_types(values.dtype, torch.float32)).numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        what = f"an array of dtype {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise TypeError(f"a layer is {what}; expected real numbers in a NumPy array or a torch tensor")
    return np.asarray(values, dtype=np.promote_types(values.dtype, np.float32))


def read_layer(layer: Any, number: int, sample: int | None) -> tuple[Layer, int | None]:
    """Read one layer, and the number of its nodes where it tells."""
    if isinstance(layer, DenseAffinity):
        layer = layer.matrix
    if isinstance(layer, SparseAffinity):
        nodes, sources = layer.shape
        if nodes != sources:
            raise ValueError(f"layer {number} is {nodes} x {sources}; expected as many targets as sources")
        weights = torch.ones(layer.edge_index.size(1)) if layer.weight is None else layer.weight
        return _read_edges(layer.edge_index, weights, number), nodes
    if isinstance(layer, tuple) and len(layer) == 2:
        return _read_edges(*layer, number), None
    matrix = _array(layer)
    if matrix.ndim == 4 and sample is not None:
        _check_sample(sample, len(matrix))
        matrix = matrix[sample]
    elif sample is not None or matrix.ndim == 4:
        expected = "[H, N, N]; pass sample= to read one of a batch" if sample is None else "[B, H, N, N]"
        raise ValueError(f"layer {number} has shape {matrix.shape}; expected {expected}")
    if matrix.ndim == 2:
        matrix = matrix[None]
    if matrix.ndim != 3 or matrix.shape[1] != matrix.shape[2] or not len(matrix):
        raise ValueError(f"layer {number} has shape {matrix.shape}; expected [H, N, N] with at least one head")
    return matrix, matrix.shape[1]


def _read_edges(edge_index: Any, weights: Any, number: int) -> Edges:
    edges = edge_index.detach().cpu().numpy() if isinstance(edge_index, Tensor) else edge_index
    if not isinstance(edges, np.ndarray) or edges.dtype.kind not in "iu":
        raise TypeError(
            f"layer {number} is a pair whose edge_index is no integer array; expected (edge_index, weights)"
        )
    values = _array(weights)
    values = values[:, None] if values.ndim == 1 else values
    if edges.ndim != 2 or len(edges) != 2 or values.ndim != 2 or len(values) != edges.shape[1] or not values.shape[1]:
        raise ValueError(
            f"layer {number} has edge_index {edges.shape} and weights {np.shape(weights)}; expected [2, E] and [E, H]"
        )
    return edges.astype(np.int64), values


def _check_sample(sample: int, size: int) -> None:
    if not 0 <= sample < size:
        raise ValueError(f"sample is {sample} but the batch has {size}; pass a number of 0 to {size - 1}")


def common_size(read: Sequence[tuple[Layer, int | None]], num_nodes: int | None) -> int:
    sizes = [size for _, size in read if size is not None]
    if num_nodes is None and not sizes:
        raise ValueError("num_nodes is None; pass the number of nodes, which edges do not tell")
    size = sizes[0] if num_nodes is None else num_nodes
    for number, (layer, own) in enumerate(read):
        if own is not None and own != size:
            raise ValueError(f"layer {number} has {own} nodes but {size} were expected; all layers share their tokens")
        if isinstance(layer, tuple) and layer[0].size and not 0 <= layer[0].min() <= layer[0].max() < size:
            raise ValueError(
                f"layer {number} has edges between nodes {layer[0].min()} to {layer[0].max()}; "
                f"expected numbers of 0 to {size - 1}"
            )
    return size


def read_mask(mask: Any, size: int, sample: int | None) -> np.ndarray:
    if mask is None:
        return np.ones(size, dtype=bool)
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.ndim == 2 and sample is not None:
        values = values[sample]
    if values.shape != (size,) or not np.isin(values, (0, 1)).all():
        raise ValueError(f"mask has shape {values.shape}; expected {size} booleans, True for real tokens")
    return values.astype(bool)


def check_finite(layer: Layer, number: int) -> None:
    if not np.isfinite(layer[1] if isinstance(layer, tuple) else layer).all():
        raise ValueError(f"layer {number} has weights that are NaN or infinite; pass the attention after its softmax")


def check_rows(layer: Layer, size: int, kept: np.ndarray, number: int) -> None:
    """Check the rows of real tokens, over all columns and over those that stay."""
    values = layer[1] if isinstance(layer, tuple) else layer[:, kept]
    if values.size and values.min() < 0:
        raise ValueError(
            f"layer {number} has negative weights, the lowest {values.min():.3g}; pass the attention after its "
            "softmax, or validate=False"
        )
    full, staying = (_row_sums(layer, size, columns)[:, kept] for columns in (np.ones(size, dtype=bool), kept))
    for sums, advice in (
        (full, "pass the attention after its softmax and before dropout, or validate=False"),
        (staying, "the rest is on masked tokens; pass the mask the model was given, or validate=False"),
    ):
        wrong = np.argwhere((np.abs(sums - 1) > _TOLERANCE) & (full != 0))
        if len(wrong):
            head, row = wrong[0]
            raise ValueError(
                f"layer {number}, head {head}: row {np.flatnonzero(kept)[row]} sums to {sums[head, row]:.4g}, not to 1 "
                f"({len(wrong)} such rows); {advice}"
            )


def _row_sums(layer: Layer, size: int, columns: np.ndarray) -> np.ndarray:
    """Sum the rows of each head over some columns: shape (H, N)."""
    if not isinstance(layer, tuple):
        return np.asarray(layer[:, :, columns].sum(axis=-1, dtype=np.float64))
    (source, target), weights = layer
    stays = columns[source]
    return np.stack([np.bincount(target[stays], head[stays], minlength=size) for head in weights.T])


def remove(layer: Layer, kept: np.ndarray) -> Layer:
    """Remove the rows and columns of tokens that are not kept; edges are numbered anew."""
    if kept.all():
        return layer
    if not isinstance(layer, tuple):
        return layer[:, kept][:, :, kept]
    edge_index, weights = layer
    stays = kept[edge_index].all(axis=0)
    return (np.cumsum(kept) - 1)[edge_index[:, stays]], weights[stays]


def is_lower(layer: Layer) -> bool:
    if isinstance(layer, tuple):
        (source, target), weights = layer
        return not weights[source > target].any()
    return all(not np.triu(head, 1).any() for head in layer)
