"""Open Graph Benchmark: a reader of its original files that needs no processed ones and asks no questions."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn._optional import require
from graphattn.datasets._download import find, obtain
from graphattn.datasets._pickles import load_npz, load_torch
from graphattn.datasets._splits import parse_split
from graphattn.datasets.metrics import OGBEvaluator
from graphattn.datasets.tasks import GraphTask, LinkTask, NodeTask, Task


@dataclass(frozen=True)
class Meta:
    """What OGB states about a set.

    Args:
        metric: Name of the metric.
        split: Folder of the official split.
        archive: Path of the zip behind OGB's address, without ``.zip``.
        num_classes: Number of classes; ``None`` in a regression and for links.
        inverse: Whether each edge is stored once and to be read in both directions.
        extra: Files of further values of nodes (``node_*``) or edges (``edge_*``).
        licence: As OGB states it.
        repeats: Whether a pair of nodes may be in several parts of a split: collaborations come back, citations may be
            mutual.

    Example:
        >>> SETS["ogbl-ddi"].metric
        'hits@20'
    """

    metric: str
    split: str
    archive: str
    num_classes: int | None = None
    inverse: bool = True
    extra: tuple[str, ...] = ()
    licence: str = "MIT"
    repeats: bool = False


def _molecules(archive: str, metric: str = "roc_auc") -> Meta:
    num_classes = None if metric == "rmse" else 2
    return Meta(metric, "scaffold", f"graphproppred/csv_mol_download/{archive}", num_classes)


SETS: dict[str, Meta] = {
    "ogbn-arxiv": Meta("accuracy", "time", "nodeproppred/arxiv", 40, False, ("node_year",), "ODC-BY"),
    "ogbn-products": Meta("accuracy", "sales_ranking", "nodeproppred/products", 47, licence="Amazon licence"),
    "ogbn-proteins": Meta("roc_auc", "species", "nodeproppred/proteins", 2, True, ("node_species",), "CC-0"),
    "ogbn-papers100M": Meta("accuracy", "time", "nodeproppred/papers100M-bin", 172, False, (), "ODC-BY"),
    "ogbl-ddi": Meta("hits@20", "target", "linkproppred/ddi", licence="CC-0"),
    "ogbl-ppa": Meta("hits@100", "throughput", "linkproppred/ppassoc", licence="CC-0"),
    "ogbl-collab": Meta(
        "hits@50", "time", "linkproppred/collab", None, True, ("edge_weight", "edge_year"), "ODC-BY", repeats=True
    ),
    "ogbl-citation2": Meta(
        "mrr", "time", "linkproppred/citation-v2", None, False, ("node_year",), "ODC-BY", repeats=True
    ),
    "ogbl-vessel": Meta("roc_auc", "spatial", "linkproppred/vessel", inverse=False, licence="CC BY-NC 4.0"),
    "ogbg-molbace": _molecules("bace"),
    "ogbg-molbbbp": _molecules("bbbp"),
    "ogbg-molclintox": _molecules("clintox"),
    "ogbg-molmuv": _molecules("muv", "average_precision"),
    "ogbg-molpcba": _molecules("pcba", "average_precision"),
    "ogbg-molsider": _molecules("sider"),
    "ogbg-moltox21": _molecules("tox21"),
    "ogbg-moltoxcast": _molecules("toxcast"),
    "ogbg-molhiv": _molecules("hiv"),
    "ogbg-molchembl": _molecules("chembl"),
    "ogbg-molesol": _molecules("esol", "rmse"),
    "ogbg-molfreesolv": _molecules("freesolv", "rmse"),
    "ogbg-mollipo": _molecules("lipophilicity", "rmse"),
    "ogbg-ppa": Meta("accuracy", "species", "graphproppred/ogbg_ppi_medium", 37, licence="CC-0"),
}
_URL = "https://snap.stanford.edu/ogb/data/"
_OGB_PARTS = {"train": "train", "val": "valid", "test": "test"}
_LABELS = {"ogbn": "node-label", "ogbg": "graph-label"}
_UNREADABLE = (OSError, KeyError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError)


def load_ogb(name: str, root: Path, split: str | int | None) -> Task:
    """Load a set of the Open Graph Benchmark; the catalog documents the arguments."""
    meta = SETS[name]
    parse_split(name, split, {meta.split: 1}, meta.split)
    kind = name.split("-")[0]
    folder = _folder(name, kind, meta, root)
    try:
        graphs = read_graphs(folder / "raw", meta)
        parts = folder / "split" / meta.split
        links = _read_links(parts, graphs[0], meta) if kind == "ogbl" else None
        ids = _read_ids(parts) if links is None else {}
        labels = _read_labels(folder / "raw", _LABELS[kind]) if links is None else np.empty(0)
    except _UNREADABLE as error:
        raise ValueError(f"the files of {name} in {folder} cannot be read ({type(error).__name__}: {error})") from error
    common: dict[str, Any] = {
        "name": name,
        "split_name": meta.split,
        "metric": meta.metric,
        "licence": meta.licence,
        "evaluator": OGBEvaluator(name),
    }
    if links is not None:
        true, negatives = links
        return LinkTask(data=graphs[0], split=true, negatives=negatives, repeats=meta.repeats, **common)
    targets = _targets(labels, meta)
    expected = len(graphs) if kind == "ogbg" else int(graphs[0].num_nodes or 0)
    if len(targets) != expected:
        raise ValueError(f"{name} has {len(targets)} labels for {expected} {'graphs' if kind == 'ogbg' else 'nodes'}")
    if kind == "ogbn":
        graphs[0].y = targets
        return NodeTask(data=graphs[0], split=ids, num_classes=meta.num_classes, **common)
    for graph, target in zip(graphs, targets.split(1), strict=True):
        graph.y = target
    return GraphTask(graphs=graphs, split=ids, num_classes=meta.num_classes, **common)


def read_graphs(raw: Path, meta: Meta) -> list[Data]:
    """Read the graphs of a folder ``raw``, from OGB's CSV files or from its ``data.npz``.

    Args:
        raw: The folder.
        meta: What OGB states about the set.

    Returns:
        The graphs, with ``x``, ``edge_attr`` and what else there is.

    Raises:
        ImportError: If pandas, which reads the CSV files, is missing; the extra ``ogb`` brings it.
        ValueError: If a file holds something else than numbers, or rows do not add up.
    """
    if (raw / "data.npz").is_file():
        arrays = load_npz(raw / "data.npz", ("edge_index", "num_nodes_list", "num_edges_list"))
        edges = arrays.pop("edge_index")
        nodes, counts = arrays.pop("num_nodes_list"), arrays.pop("num_edges_list")
        inverse = False  # that layout holds both directions
    else:
        edges = read_csv(raw / "edge.csv.gz").T
        nodes, counts = (read_csv(raw / f"num-{what}-list.csv.gz")[:, 0] for what in ("node", "edge"))
        files = {"node_feat": "node-feat", "edge_feat": "edge-feat", **{key: key for key in meta.extra}}
        if not (raw / "node_species.csv.gz").is_file():
            files = {key: "species" if key == "node_species" else file for key, file in files.items()}
        arrays = {key: read_csv(path) for key, file in files.items() if (path := raw / f"{file}.csv.gz").is_file()}
        inverse = meta.inverse
    return cut_graphs(edges, nodes, counts, arrays, inverse)


def cut_graphs(
    edges: np.ndarray, nodes: np.ndarray, counts: np.ndarray, arrays: Mapping[str, np.ndarray], inverse: bool
) -> list[Data]:
    """Cut graphs out of arrays in which they follow one another.

    Args:
        edges: Edges ``[2, E]`` of all graphs; nodes are numbered from 0 in each.
        nodes: Number of nodes of each graph.
        counts: Number of edges of each graph.
        arrays: Values of all nodes (``node_*``) and of all edges (``edge_*``).
        inverse: Whether to follow each edge by its reverse, as OGB does.

    Raises:
        ValueError: If the rows of an array do not add up.
    """
    for what, array in [("edge_index", edges.T), *arrays.items()]:
        total = (nodes if what.startswith("node_") else counts).sum()
        if len(array) != total:
            raise ValueError(f"{what} has {len(array)} rows, the graphs have {total}")
    first, second = np.concatenate([[0], nodes.cumsum()]), np.concatenate([[0], counts.cumsum()])
    graphs = []
    for i in range(len(nodes)):
        of_nodes, of_edges = slice(first[i], first[i + 1]), slice(second[i], second[i + 1])
        graphs.append(_graph(edges[:, of_edges], int(nodes[i]), arrays, of_nodes, of_edges, inverse))
    return graphs


def _graph(
    edges: np.ndarray, num_nodes: int, arrays: Mapping[str, np.ndarray], of_nodes: slice, of_edges: slice, inverse: bool
) -> Data:
    if inverse:
        edges = np.stack([edges, edges[::-1]], axis=2).reshape(2, -1)
    data = Data(edge_index=torch.from_numpy(np.ascontiguousarray(edges, dtype=np.int64)), num_nodes=num_nodes)
    for key, array in arrays.items():
        rows = array[of_nodes] if key.startswith("node_") else array[of_edges]
        if inverse and key.startswith("edge_"):
            rows = np.repeat(rows, 2, axis=0)
        data[{"node_feat": "x", "edge_feat": "edge_attr"}.get(key, key)] = torch.from_numpy(np.ascontiguousarray(rows))
    return data


def read_csv(path: Path) -> np.ndarray:
    """Read a CSV of numbers: int64 if all are integers, else float32 with NaN for what is missing.

    Raises:
        ImportError: If pandas is missing; the extra ``ogb`` brings it.
        ValueError: If a cell is no number; its line is named.
    """
    pandas = require("pandas", "ogb")
    table = pandas.read_csv(path, header=None)
    for column in table.columns[[kind.kind not in "iufb" for kind in table.dtypes]]:
        numbers = pandas.to_numeric(table[column], errors="coerce")
        line = int((numbers.isna() & table[column].notna()).to_numpy().argmax())
        raise ValueError(f"{path}, line {line + 1}: {table[column][line]!r} is not a number")
    values = table.to_numpy()
    return values.astype(np.int64 if values.dtype.kind in "iub" else np.float32)


def _folder(name: str, kind: str, meta: Meta, root: Path) -> Path:
    """Find the folder of a set in OGB's layout, CSV or binary, or download it."""
    stem = name.replace("-", "_")
    folders = (root / stem, root / f"{stem}_pyg")
    label = [] if kind == "ogbl" else [f"raw/{_LABELS[kind]}"]
    binary = find(folders, ["raw/data.npz", *(f"{file}.npz" for file in label)])
    if binary is not None:
        return binary
    files = ["raw/edge.csv.gz", "raw/num-node-list.csv.gz", "raw/num-edge-list.csv.gz"]
    files += [f"{file}.csv.gz" for file in label]
    if name in ("ogbn-papers100M", "ogbl-vessel"):  # OGB gives these two in the binary layout
        files = ["raw/data.npz", *(f"{file}.npz" for file in label)]
    return obtain(name, folders, files, [f"{_URL}{meta.archive}.zip"], lambda new: _check(name, new, meta))


def _check(name: str, folder: Path, meta: Meta) -> None:
    if not (folder / "split" / meta.split).is_dir():
        raise ValueError(f"{name} was downloaded without its split {meta.split!r}")


def _targets(labels: np.ndarray, meta: Meta) -> Tensor:
    """Targets as OGB has them, ``[n, T]``; ``[n]`` where one of several classes is asked for."""
    targets = torch.from_numpy(np.ascontiguousarray(labels))
    if meta.num_classes is None:
        return targets.float()
    if bool(torch.isnan(targets).any()):
        if meta.metric != "accuracy":
            return targets.float()
        targets = torch.nan_to_num(targets, nan=-1)  # nodes without a label, which are in no split
    return targets.long().reshape(-1) if meta.metric == "accuracy" else targets.long()


def _read_labels(raw: Path, file: str) -> np.ndarray:
    if (raw / f"{file}.npz").is_file():
        key = file.replace("-", "_")
        return load_npz(raw / f"{file}.npz", (key,))[key]
    return read_csv(raw / f"{file}.csv.gz")


def _read_ids(folder: Path) -> dict[str, Tensor]:
    if (folder / "split_dict.pt").is_file():
        found = load_torch(folder / "split_dict.pt")
        return {part: torch.as_tensor(found[theirs]) for part, theirs in _OGB_PARTS.items()}
    return {part: torch.from_numpy(read_csv(folder / f"{theirs}.csv.gz")[:, 0]) for part, theirs in _OGB_PARTS.items()}


def _read_links(folder: Path, graph: Data, meta: Meta) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read true links and others of each part, from ``split_dict.pt``, ``{part}.pt`` or ``edge_split.npz``."""
    if (folder / "edge_split.npz").is_file():
        arrays = load_npz(folder / "edge_split.npz")
        entries: dict[str, dict[str, Any]] = {
            theirs: {key: arrays[f"{theirs}_{key}"] for key in ("edge", "edge_neg")} for theirs in ("valid", "test")
        }
        entries["train"] = {"edge": graph["edge_index"][:, :: 2 if meta.inverse else 1].t()}  # without their reverses
    elif (folder / "split_dict.pt").is_file():
        entries = load_torch(folder / "split_dict.pt")
    else:
        entries = {theirs: load_torch(folder / f"{theirs}.pt") for theirs in _OGB_PARTS.values()}
    true, negatives = {}, {}
    for part, theirs in _OGB_PARTS.items():
        entry = {key: torch.as_tensor(value).long() for key, value in entries[theirs].items()}
        if "source_node" in entry:
            true[part] = torch.stack([entry["source_node"], entry["target_node"]])
            if "target_node_neg" in entry:
                others = entry["target_node_neg"]
                negatives[part] = torch.stack([entry["source_node"][:, None].expand_as(others), others])
        else:
            true[part] = entry["edge"].t().contiguous()
            if "edge_neg" in entry:
                negatives[part] = entry["edge_neg"].t().contiguous()
    return true, negatives
