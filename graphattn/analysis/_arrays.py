"""How the measures read and bound arrays, split what is sparse into heads, and show what targets get from inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from graphattn._optional import require
from graphattn.affinity import SparseAffinity
from graphattn.analysis.maps import MAX_BYTES, AttentionMaps


def read_array(name: str, values: Any) -> np.ndarray:
    """Read real, finite numbers in float64."""
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} is of dtype {array.dtype}; expected real numbers")
    check_finite(name, array)
    return array.astype(np.float64, copy=False)


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise if an entry is NaN or infinite."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has entries that are NaN or infinite; remove the nodes or tokens they belong to")


def check_size(what: str, shape: Sequence[int], advice: str) -> None:
    """Raise before an array of float64 is made that would take more than 2 GiB."""
    needed = 8 * math.prod(shape)
    if needed > MAX_BYTES:
        raise ValueError(f"{what} is {needed / 2**30:.1f} GiB; {advice}")


def sparse_heads(name: str, affinity: SparseAffinity) -> list[csr_array]:
    """Return each head as a sparse matrix in float64, in which parallel edges are added up."""
    source, target = affinity.edge_index.cpu().numpy()
    weights = affinity.weights().detach().cpu().double().numpy().reshape(-1, affinity.num_heads)
    check_finite(name, weights)
    return [csr_array((column, (target, source)), shape=affinity.shape) for column in weights.T]


def merged_edges(maps: AttentionMaps, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sources, targets and weights (H, E) of a layer, with parallel edges added up."""
    (source, target), weights = maps.edges(layer)
    pairs, place = np.unique(target * maps.num_nodes + source, return_inverse=True)
    heads = np.stack([np.bincount(place, head, minlength=pairs.size) for head in weights.T])
    return pairs % maps.num_nodes, pairs // maps.num_nodes, heads


def frame_of_inputs(values: np.ndarray, layers: np.ndarray, targets: np.ndarray, tokens: Sequence[str]) -> Any:
    """Return values (L, T, N) as a pandas DataFrame with one row per layer and target, and one column per input."""
    pandas = require("pandas", "analysis")
    index = pandas.MultiIndex.from_product([layers, targets], names=["layer", "target"])
    columns = pandas.RangeIndex(len(tokens), name="source")
    return pandas.DataFrame(values.reshape(len(index), -1), index=index, columns=columns)
