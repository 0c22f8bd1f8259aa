"""Files that hold graphs of one's own: PyG's, NumPy's, networkx's, and folders of tables."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
from torch_geometric.data.storage import GlobalStorage

from graphattn._files import unread
from graphattn.datasets._checks import PARTS
from graphattn.datasets._download import find
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._tables import Table, read_csv, read_parquet
from graphattn.datasets.npz_graphs import read_npz

Split = Mapping[str, Tensor]

_READERS: dict[str, Callable] = {".graphml": nx.read_graphml, ".gml": nx.read_gml, ".gexf": nx.read_gexf}
_ARRAYS = ("x", "edge_index", "y", "edge_attr", "edge_weight", *(f"{part}_mask" for part in PARTS))
_RESERVED = ("id", "y", "split")
_MAPPED = (np.dtype(np.float32), np.dtype(np.int64))


def read_files(path: Path) -> tuple[Data | list[Data], Split | None]:
    """Read a graph, or graphs, and the split that is given with them; labels and split may be missing.

    A graph of tables has the names of its nodes in ``node_ids`` and, where labels are words, those in ``classes``.

    Args:
        path: A file or a folder.

    Returns:
        What is there, and masks of the nodes, perhaps of several columns, or ids of the graphs of each part.

    Raises:
        FileNotFoundError: If there is nothing at the path, or a folder lacks its tables.
        ValueError: If the format is unknown, or the content broken.
    """
    if not path.exists():
        raise FileNotFoundError(f"local:{path} does not exist; expected a file or a folder of a graph")
    if path.is_dir():
        return _from_tables(path)
    if path.suffix == ".npz":
        return _with_masks(_from_npz(path))
    if path.suffix in _READERS:
        return _from_networkx(path)
    if path.suffix != ".pt":
        known = ", ".join((".pt", ".npz", *_READERS))
        raise ValueError(f"local:{path} ends in {path.suffix!r}; expected {known}, or a folder with edges.csv")
    content = _load(path)
    if isinstance(content, Data):
        return _with_masks(content)
    if isinstance(content, Mapping) and "edge_index" in content:
        return _with_masks(_from_tensors(path, content))
    graphs, given = content, None
    if isinstance(content, Mapping) and set(content) == {"graphs", "split"}:
        graphs, given = content["graphs"], content["split"]
    if not isinstance(graphs, (list, tuple)) or not graphs or not all(isinstance(graph, Data) for graph in graphs):
        raise ValueError(
            f"local:{path} holds {type(graphs).__name__}; expected a Data, a list of them, a dictionary of its "
            "tensors, or {'graphs': list, 'split': {'train': ids, 'val': ids, 'test': ids}}"
        )
    return list(graphs), given


def _with_masks(data: Data) -> tuple[Data, Split | None]:
    """Take the masks out of a graph, if it has all three."""
    keys = {part: f"{part}_mask" for part in PARTS}
    if not all(key in data for key in keys.values()):
        return data, None
    return data, {part: data.pop(key).bool() for part, key in keys.items()}


def _load(path: Path) -> Any:
    # At its end safe_globals forgets what it was given, which PyG may have allowed for good.
    allowed = torch.serialization.get_safe_globals()
    new = [kind for kind in (Data, DataEdgeAttr, DataTensorAttr, GlobalStorage) if kind not in allowed]
    try:
        with torch.serialization.safe_globals(new):
            return torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"local:{path} cannot be read ({unread(error)}); expected what torch.save wrote of tensors and of "
            "PyG's Data, and nothing else"
        ) from error


def _from_npz(path: Path) -> Data:
    arrays = load_npz(path)
    if {"adj_data", "adj_matrix"} & set(arrays):
        return read_npz(path)
    try:
        return _from_tensors(path, {key: torch.from_numpy(array) for key, array in arrays.items()})
    except TypeError as error:
        raise ValueError(f"local:{path} has an array that torch does not take ({error})") from error


def _from_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Data:
    if "edge_index" not in tensors or not set(tensors) <= set(_ARRAYS):
        known = ", ".join(_ARRAYS)
        raise ValueError(
            f"local:{path} has {', '.join(map(str, tensors))}; expected edge_index, and no others than {known}"
        )
    return Data(**tensors)


def _from_networkx(path: Path) -> tuple[Data, Split | None]:
    try:
        graph = _READERS[path.suffix](path)
    except (ParseError, nx.NetworkXException, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"local:{path} cannot be read as {path.suffix[1:].upper()} ({error})") from error
    ids = list(graph.nodes)
    columns: dict[str, list[Any]] = {"id": [str(node) for node in ids]}
    for name in sorted({name for _, values in graph.nodes(data=True) for name in values} - {"id", "label"}):
        columns[name] = [graph.nodes[node].get(name) for node in ids]
    links = graph if graph.is_directed() else graph.to_directed()
    sources, targets, weights = [], [], []
    for source, target, values in links.edges(data=True):
        sources.append(str(source))
        targets.append(str(target))
        weights.append(values.get("weight"))
    edges: dict[str, list[Any]] = {"source": sources, "target": targets}
    if any(weight is not None for weight in weights):
        edges["weight"] = weights
    return _assemble(
        Table(f"local:{path}", columns, lambda row: f"node {ids[row]!r}"),
        Table(f"local:{path}", edges, lambda row: f"edge {sources[row]!r} - {targets[row]!r}"),
    )


def _from_tables(folder: Path) -> tuple[Data, Split | None]:
    parquet = find([folder], ["nodes.parquet"])
    if find([folder], ["edges.csv"]) is None or (parquet is None and find([folder], ["nodes.csv"]) is None):
        raise FileNotFoundError(
            f"local:{folder} lacks its tables; put edges.csv (source, target, perhaps weight) and nodes.csv or "
            "nodes.parquet (id, y, perhaps split, features) there"
        )
    nodes = (
        read_csv(folder / "nodes.csv", ["id"]) if parquet is None else read_parquet(folder / "nodes.parquet", ["id"])
    )
    data, split = _assemble(nodes, read_csv(folder / "edges.csv", ("source", "target")))
    features = folder / "x.npy"
    if features.is_file():
        if data.x is not None:
            raise ValueError(f"{nodes.source} has columns of features and {features} has others; keep one of the two")
        data.x = _map_features(features, len(nodes))
    return data, split


def _map_features(path: Path, num_nodes: int) -> Tensor:
    """Map features into memory, which are read where they are needed and never as a whole."""
    try:
        x = np.load(path, mmap_mode="c")  # copy on write: torch warns of arrays that cannot be written
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected what numpy.save wrote of numbers") from error
    if not isinstance(x, np.ndarray) or x.ndim != 2 or len(x) != num_nodes or x.dtype not in _MAPPED:
        found = f"an array {x.shape} of {x.dtype}" if isinstance(x, np.ndarray) else "several arrays"
        raise ValueError(
            f"{path} holds {found}; expected a row for each of the {num_nodes} nodes, of float32, or of int64 for "
            "categories"
        )
    return torch.from_numpy(x)


def _assemble(nodes: Table, edges: Table) -> tuple[Data, Split | None]:
    """Make a graph of a table of nodes and one of edges; every other column is a feature."""
    numbers: dict[str, int] = {}
    for row, node in enumerate(nodes.columns["id"]):
        if numbers.setdefault(str(node).strip(), row) != row:
            raise nodes.error(row, "id", f"is also the node of {nodes.place(numbers[str(node).strip()])}")
    ends = []
    for column in ("source", "target"):
        for row, node in enumerate(edges.columns[column]):
            if str(node).strip() not in numbers:
                raise edges.error(row, column, "is no node")
        ends.append([numbers[str(node).strip()] for node in edges.columns[column]])
    edge_index = torch.tensor(ends, dtype=torch.long).reshape(2, -1)
    data = Data(edge_index=edge_index, num_nodes=len(nodes), node_ids=list(numbers))
    if "y" in nodes.columns:
        data.y, words = nodes.labels("y")
        if words is not None:
            data.classes = words
    features = [name for name in nodes.columns if name not in _RESERVED]
    if features:
        data.x = nodes.numbers(features)
    if "weight" in edges.columns:
        data.edge_weight = edges.numbers(["weight"]).flatten()
    others = [name for name in edges.columns if name not in ("source", "target", "weight")]
    if others:
        data.edge_attr = edges.numbers(others)
    return data, nodes.parts("split") if "split" in nodes.columns else None
