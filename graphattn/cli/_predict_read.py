"""What ``graphattn predict`` reads: graphs with or without labels, and pairs of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.datasets import GraphTask, LinkTask, load, read_local
from graphattn.datasets._checks import PARTS
from graphattn.datasets._tables import read_csv
from graphattn.datasets.local import class_names
from graphattn.datasets.metrics import LOWER_IS_BETTER, METRICS
from graphattn.datasets.tasks import Evaluator
from graphattn.datasets.transforming import make_transform

_LOCAL = "local:"
_BESIDE = ("node_ids", "classes", *(f"{part}_mask" for part in PARTS))


@dataclass(frozen=True)
class Source:
    """Graphs to predict, as the network takes them, and what is known of them.

    Args:
        name: Name of the data.
        graphs: The graphs.
        many: Whether they are what is asked for, and not the nodes, or pairs of nodes, of a single one.
        ids: Name of each node of a single graph, if they have names.
        y: Known labels, numbered as the network does, -1 or NaN where unknown; or targets.
        parts: Ids of the nodes or graphs of each part of a split.
        metric: Name of the metric.
        evaluate: Computes it; ``None`` if it is known for sets of a name only.
    """

    name: str
    graphs: list[Data]
    many: bool
    ids: Sequence[str] | None
    y: Tensor | None
    parts: Mapping[str, Tensor] | None
    metric: str
    evaluate: Evaluator | None

    def shown_labels(self) -> Tensor:
        """Return the labels that a network which takes labels may see, -1 for the others."""
        if self.y is None:
            return torch.full((int(self.graphs[0].num_nodes or 0),), -1)
        if self.parts is None:
            return self.y
        train = self.parts["train"]
        return torch.full_like(self.y, -1).index_copy(0, train, self.y[train])


def read_source(data: str, root: Path, split: str | None, config: Mapping[str, Any]) -> Source:
    """Read data for a network, in the transforms and classes of its training.

    Args:
        data: Name of a set, or ``"local:PATH"``.
        root: Folder of the sets.
        split: Name of a split; by default that of the files, or for the set of the training that of the training.
        config: Config of the checkpoint.

    Raises:
        ValueError: If the data are broken, or of another kind or other classes than the network's.
        FileNotFoundError: If they are not there.
        ImportError: If they need a package that is not installed.
    """
    kind, metric = config["kind"], config["metric"]
    parts: Mapping[str, Tensor] | None = None
    if data.startswith(_LOCAL):
        path = data.removeprefix(_LOCAL)
        name, content, evaluate = Path(path).stem, read_local(path), METRICS.get(metric)
        names = class_names(content) if isinstance(content, Data) else None
        if split is not None:
            parts = load(data, root, split).split
        elif isinstance(content, Data):
            parts = _given_parts(data, content)
    else:
        if split is None and _key(data) == _key(config["task"]):
            split = config["split"]
        task = load(data, root, split)
        name, content = task.name, list(task.graphs) if isinstance(task, GraphTask) else task.data
        names, evaluate = None, METRICS.get(metric)
        if not isinstance(task, LinkTask):
            names, parts, metric = task.classes, task.split, task.metric
            evaluate = task.evaluator or METRICS[metric]
    _check_kind(data, content, kind)
    graphs = content if isinstance(content, list) else [content]
    y = None if kind == "link" else _labels(data, graphs, names, config["classes"])
    apply = make_transform(config["transform"])
    if isinstance(content, list):
        changed = [apply(graph, f"graph {number} of {name}") for number, graph in enumerate(content)]
        return Source(name, changed, True, None, y, parts, metric, evaluate)
    # In training, a graph of one's own has neither names nor masks when it is transformed.
    ids = content.get("node_ids")
    content = Data.from_dict({key: value for key, value in content.to_dict().items() if key not in _BESIDE})
    new = apply(content, name)
    if new.num_nodes != content.num_nodes:
        steps = ", ".join(config["transform"])
        raise ValueError(f"the transforms of the training, {steps}, change which nodes {name} has")
    return Source(name, [new], False, ids, y, parts, metric, evaluate)


def _key(name: str) -> str:
    """Spell a name as the catalog compares it."""
    return name.lower().replace("_", "-")


def read_pairs(path: Path, source: Source) -> Tensor:
    """Read pairs of nodes, named as the nodes of the graph are.

    Args:
        path: CSV file with the columns ``source`` and ``target``.
        source: The graph.

    Returns:
        Numbers of the nodes, ``[2, pairs]``.

    Raises:
        ValueError: If the file is broken, holds no pair, or names a node that is not there.
        FileNotFoundError: If there is no file.
    """
    table = read_csv(path, ("source", "target"))
    if not len(table):
        raise ValueError(f"{path} names no pairs; expected a row for each")
    ids = source.ids or range(int(source.graphs[0].num_nodes or 0))
    numbers = {str(name): number for number, name in enumerate(ids)}
    for column in ("source", "target"):
        for row, cell in enumerate(table.columns[column]):
            if cell.strip() not in numbers:
                raise table.error(row, column, f"is no node of {source.name}")
    return torch.tensor([[numbers[cell.strip()] for cell in table.columns[name]] for name in ("source", "target")])


def score(out: Tensor, source: Source, *, seen: bool) -> list[str]:
    """Say how good predictions are, as far as labels are known.

    Args:
        out: What the network returns, a row for each node or graph.
        source: What was predicted.
        seen: Whether the network was shown known labels.
    """
    if source.y is None:
        return []
    if source.evaluate is None:
        return [f"no score: {source.metric} is computed for the set of its name only"]
    if source.parts is None and seen:
        return ["no score: the network has seen all known labels"]
    if len(source.y) != len(out):
        return [f"no score: there are {len(source.y)} labels, but {len(out)} predictions"]
    known = _known(source.y, source.metric)
    place = "all"
    if source.parts is not None:
        known &= _rows_of(source.parts["test"], source, len(known))
        place = "the test part's"
    if not bool(known.any()):
        return []
    try:
        value = source.evaluate(out[known], source.y[known])
    except (ValueError, ImportError) as error:
        return [f"no score: {error}"]
    return [f"{source.metric} {value:.4f} on {place} {int(known.sum())} known labels"]


def _known(y: Tensor, metric: str) -> Tensor:
    """Mask of the rows whose label is known: every target of it in a regression, any in other metrics."""
    known = (~y.isnan() if y.is_floating_point() else y >= 0).reshape(len(y), -1)
    return known.all(dim=1) if metric in LOWER_IS_BETTER else known.any(dim=1)


def _rows_of(part: Tensor, source: Source, rows: int) -> Tensor:
    """Mask of the rows of a part of the split, which names graphs even if their nodes are the rows."""
    mask = torch.zeros(len(source.graphs) if source.many else rows, dtype=torch.bool).index_fill(0, part, True)
    if len(mask) == rows:
        return mask
    return mask.repeat_interleave(torch.tensor([int(graph.num_nodes or 0) for graph in source.graphs]))


def _given_parts(data: str, content: Data) -> dict[str, Tensor] | None:
    """Return the ids of each part of the split that a graph came with."""
    masks = {part: content.get(f"{part}_mask") for part in PARTS}
    if any(mask is None for mask in masks.values()):
        return None
    if any(mask.dim() > 1 for mask in masks.values()):
        raise ValueError(f"{data} has several splits; choose one, such as --split given:0")
    return {part: mask.nonzero().flatten() for part, mask in masks.items()}


def _check_kind(data: str, content: Data | list[Data], kind: str) -> None:
    if kind == "graph" and isinstance(content, Data):
        raise ValueError(
            f"{data} is one graph, but the network is about whole graphs; expected a .pt with a list of them"
        )
    if kind != "graph" and not isinstance(content, Data):
        raise ValueError(f"{data} holds {len(content)} graphs, but the network is about the {kind}s of one")


def _labels(
    data: str, graphs: Sequence[Data], names: tuple[str, ...] | None, classes: Sequence[str] | None
) -> Tensor | None:
    """Known labels, numbered as the classes of the network are."""
    if not all(isinstance(graph.y, Tensor) for graph in graphs):
        return None
    y = torch.cat([torch.atleast_1d(graph.y) for graph in graphs])
    if classes is None:
        return y
    known = torch.isfinite(y) & (y >= 0)
    y = torch.where(known, y, -1).long().reshape(-1)
    if names is not None and names != tuple(map(str, range(len(names)))):
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise ValueError(f"{data} has the class {unknown[0]!r}; the network knows {', '.join(classes)}")
        y = torch.tensor([*(list(classes).index(name) for name in names), -1])[y]
    if len(y) and int(y.max()) >= len(classes):
        raise ValueError(f"{data} has the class {int(y.max())}; the network knows {len(classes)}: {', '.join(classes)}")
    return y
