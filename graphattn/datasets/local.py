"""One's own graph as a task: a file of PyG, NumPy or networkx, or a folder of tables."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
from torch_geometric.data.storage import GlobalStorage

from graphattn.datasets._checks import PARTS, check_features
from graphattn.datasets._download import find
from graphattn.datasets._pickles import load_npz
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets._tables import Table, read_csv, read_parquet
from graphattn.datasets.npz_graphs import read_npz
from graphattn.datasets.tasks import GraphTask, NodeTask

_LICENCE = "your own"
_READERS: dict[str, Callable] = {".graphml": nx.read_graphml, ".gml": nx.read_gml, ".gexf": nx.read_gexf}
_ARRAYS = ("x", "edge_index", "y", "edge_attr", "edge_weight", *(f"{part}_mask" for part in PARTS))
_RESERVED = ("id", "y", "split")


def load_local(path: Path, split: str | int | None) -> NodeTask | GraphTask:
    """Load a graph, or graphs, of one's own; the catalog documents the formats.

    Args:
        path: A file or a folder.
        split: ``"given"``, or ``"given:NUMBER"`` where masks have several columns; or a random split.

    Raises:
        FileNotFoundError: If there is nothing at the path, or a folder lacks its tables.
        ValueError: If the format is unknown, or the content broken or unsound.
    """
    if not path.exists():
        raise FileNotFoundError(f"local:{path} does not exist; expected a file or a folder of a graph")
    if path.is_dir():
        return _node_task(path, *_from_tables(path), split)
    if path.suffix == ".npz":
        data = _from_npz(path)
        return _node_task(path, data, _masks(data), split)
    if path.suffix in _READERS:
        return _node_task(path, *_from_networkx(path), split)
    if path.suffix != ".pt":
        known = ", ".join((".pt", ".npz", *_READERS))
        raise ValueError(f"local:{path} ends in {path.suffix!r}; expected {known}, or a folder with edges.csv")
    content = _load(path)
    if isinstance(content, Data):
        return _node_task(path, content, _masks(content), split)
    if isinstance(content, Mapping) and "edge_index" in content:
        data = _from_tensors(path, content)
        return _node_task(path, data, _masks(data), split)
    if isinstance(content, Mapping) and set(content) == {"graphs", "split"}:
        return _graph_task(path, content["graphs"], content["split"], split)
    return _graph_task(path, content, None, split)


def _node_task(path: Path, data: Data, given: Mapping[str, Tensor] | None, split: str | int | None) -> NodeTask:
    """Make the task of a graph; ``given`` holds masks, perhaps of several columns, or ids."""
    if not isinstance(data.y, Tensor):
        raise ValueError(f"local:{path} has no y; expected a label or a target for each node, -1 where unknown")
    if not data.y.numel():
        raise ValueError(f"local:{path} has no nodes; expected at least one in each part of a split")
    schemes = dict(RANDOM)
    if given is not None:
        columns = {mask.size(1) if mask.dim() == 2 else 1 for mask in given.values()}
        if len(columns) > 1:
            raise ValueError(f"local:{path} has masks of {sorted(columns)} columns; expected as many of each part")
        schemes = {"given": columns.pop(), **RANDOM}
    scheme, number = parse_split(f"local:{path}", split, schemes, "random-60-20-20" if given is None else "given")
    check_features(f"local:{path}", data.x)
    if scheme == "given" and given is not None:
        parts = {part: mask[:, number] if mask.dim() == 2 else mask for part, mask in given.items()}
    else:
        parts = random_split(scheme, number, data.y)
    num_classes = None if data.y.is_floating_point() else int(data.y.max()) + 1
    return NodeTask(
        name=path.stem,
        data=data,
        split=parts,
        split_name=split_name(scheme, number, schemes),
        metric="rmse" if num_classes is None else "accuracy",
        licence=_LICENCE,
        num_classes=num_classes,
    )


def _graph_task(path: Path, graphs: Any, given: Mapping[str, Tensor] | None, split: str | int | None) -> GraphTask:
    """Make the task of many graphs."""
    if not isinstance(graphs, (list, tuple)) or not graphs or not all(isinstance(graph, Data) for graph in graphs):
        raise ValueError(
            f"local:{path} holds {type(graphs).__name__}; expected a Data, a list of them, a dictionary of its "
            "tensors, or {'graphs': list, 'split': {'train': ids, 'val': ids, 'test': ids}}"
        )
    schemes: dict[str, int | None] = {"random-60-20-20": None}
    if given is not None:
        schemes = {"given": 1, **schemes}
    scheme, number = parse_split(f"local:{path}", split, schemes, "random-60-20-20" if given is None else "given")
    for place, graph in enumerate(graphs):
        if not isinstance(graph.y, Tensor):
            raise ValueError(f"graph {place} of local:{path} has no y; expected its label or target")
    classes = None if graphs[0].y.is_floating_point() else max(int(graph.y.max()) for graph in graphs) + 1
    parts = given if given is not None and scheme == "given" else random_split(scheme, number, torch.zeros(len(graphs)))
    return GraphTask(
        name=path.stem,
        graphs=list(graphs),
        split=parts,
        split_name=split_name(scheme, number, schemes),
        metric="rmse" if classes is None else "accuracy",
        licence=_LICENCE,
        num_classes=classes,
    )


def _masks(data: Data) -> dict[str, Tensor] | None:
    """Take the masks out of a graph, if it has all three."""
    keys = {part: f"{part}_mask" for part in PARTS}
    if not all(key in data for key in keys.values()):
        return None
    return {part: data.pop(key).bool() for part, key in keys.items()}


def _load(path: Path) -> Any:
    # At its end safe_globals forgets what it was given, which PyG may have allowed for good.
    allowed = torch.serialization.get_safe_globals()
    new = [kind for kind in (Data, DataEdgeAttr, DataTensorAttr, GlobalStorage) if kind not in allowed]
    try:
        with torch.serialization.safe_globals(new):
            return torch.load(path, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        # torch explains at length how to load what cannot be trusted; its reason is one line of that.
        reason = (str(error).partition("WeightsUnpickler error: ")[2] or str(error) or type(error).__name__).strip()
        raise ValueError(
            f"local:{path} cannot be read ({reason.splitlines()[0]}); expected what torch.save wrote of tensors and of "
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
    if not {"edge_index", "y"} <= set(tensors) <= set(_ARRAYS):
        known = ", ".join(_ARRAYS)
        raise ValueError(
            f"local:{path} has {', '.join(map(str, tensors))}; expected edge_index and y, and no others than {known}"
        )
    return Data(**tensors)


def _from_networkx(path: Path) -> tuple[Data, dict[str, Tensor] | None]:
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


def _from_tables(folder: Path) -> tuple[Data, dict[str, Tensor] | None]:
    parquet = find([folder], ["nodes.parquet"])
    if find([folder], ["edges.csv"]) is None or (parquet is None and find([folder], ["nodes.csv"]) is None):
        raise FileNotFoundError(
            f"local:{folder} lacks its tables; put edges.csv (source, target, perhaps weight) and nodes.csv or "
            "nodes.parquet (id, y, perhaps split, features) there"
        )
    needed = ("id", "y")
    nodes = (
        read_csv(folder / "nodes.csv", needed) if parquet is None else read_parquet(folder / "nodes.parquet", needed)
    )
    return _assemble(nodes, read_csv(folder / "edges.csv", ("source", "target")))


def _assemble(nodes: Table, edges: Table) -> tuple[Data, dict[str, Tensor] | None]:
    """Make a graph of a table of nodes and one of edges; every other column is a feature."""
    if "y" not in nodes.columns:
        raise ValueError(f"{nodes.source} has no nodes with a y; expected a label or a target, missing where unknown")
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
    data = Data(edge_index=edge_index, y=nodes.labels("y"), num_nodes=len(nodes))
    features = [name for name in nodes.columns if name not in _RESERVED]
    if features:
        data.x = nodes.numbers(features)
    if "weight" in edges.columns:
        data.edge_weight = edges.numbers(["weight"]).flatten()
    others = [name for name in edges.columns if name not in ("source", "target", "weight")]
    if others:
        data.edge_attr = edges.numbers(others)
    return data, nodes.parts("split") if "split" in nodes.columns else None
