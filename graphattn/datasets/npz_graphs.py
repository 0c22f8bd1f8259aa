"""Amazon and Coauthor: the co-purchase and co-author graphs of Shchur et al., which have no split of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops, to_undirected

from graphattn.datasets._download import find, obtain
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets.tasks import NodeTask

# PyG's folder, the file there, its name in other collections; nodes, features and classes.
SETS = {
    "Amazon-Computers": ("Computers", "amazon_electronics_computers.npz", "amazon_cs.npz", (13752, 767, 10)),
    "Amazon-Photo": ("Photo", "amazon_electronics_photo.npz", "amazon_photo.npz", (7650, 745, 8)),
    "Coauthor-CS": ("CS", "ms_academic_cs.npz", "coauthor_cs.npz", (18333, 6805, 15)),
    "Coauthor-Physics": ("Physics", "ms_academic_phy.npz", "coauthor_phy.npz", (34493, 8415, 5)),
}
_URL = "https://github.com/shchur/gnn-benchmark/raw/master/data/npz/"
_LICENCE = "repository of the files: MIT; the underlying data state none"


def load_npz_graph(name: str, root: Path, split: str | int | None) -> NodeTask:
    """Load an Amazon or Coauthor graph; the catalog documents the arguments."""
    scheme, number = parse_split(name, split, RANDOM, "random-60-20-20")
    inner, file, other, _ = SETS[name]
    folders = (root / inner / "raw", root / inner, root)
    folder = find(folders, [other])
    if folder is not None:
        path = folder / other
    else:
        path = obtain(name, folders, [file], [_URL + file], lambda new: _check(name, new / file)) / file
    data = read_npz(path)
    return NodeTask(
        name=name,
        data=data,
        split=random_split(scheme, number, data.y),
        split_name=split_name(scheme, number, RANDOM),
        metric="accuracy",
        licence=_LICENCE,
        num_classes=int(data.y.max()) + 1,
    )


def read_npz(path: Path) -> Data:
    """Read a graph that is stored as sparse matrices: as their plain arrays, as Shchur et al. do, or pickled.

    Features become binary and edges undirected, without loops, as in PyG.

    Raises:
        ValueError: If it is none of the two layouts.
    """
    arrays = load_npz(path)
    try:
        if "adj_matrix" in arrays:
            adjacency, features, labels = arrays["adj_matrix"], arrays["node_attr"], arrays["node_label"]
        else:
            adjacency, features, labels = _matrix(arrays, "adj"), _matrix(arrays, "attr"), arrays["labels"]
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}; expected adj_*, attr_* and labels, or adj_matrix, node_attr and node_label"
        ) from error
    x = torch.from_numpy((features > 0).astype(np.float32).toarray())
    pairs = adjacency.tocoo()
    edge_index = torch.stack([torch.from_numpy(pairs.row).long(), torch.from_numpy(pairs.col).long()])
    edge_index, _ = remove_self_loops(edge_index)
    return Data(
        x=x, edge_index=to_undirected(edge_index, num_nodes=len(x)), y=torch.from_numpy(labels).long().reshape(-1)
    )


def _matrix(arrays: dict[str, Any], name: str) -> scipy.sparse.csr_array:
    parts = tuple(arrays[f"{name}_{part}"] for part in ("data", "indices", "indptr"))
    return scipy.sparse.csr_array(parts, shape=arrays[f"{name}_shape"])


def _check(name: str, path: Path) -> None:
    data = read_npz(path)
    found = (data.num_nodes, data.num_node_features, int(data.y.max()) + 1)
    if found != SETS[name][3]:
        raise ValueError(f"{name} was downloaded with nodes, features and classes {found}; expected {SETS[name][3]}")
