"""One's own graph: read as it is, or as a task."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.datasets._checks import check_graph
from graphattn.datasets._local_files import Split, read_files
from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name
from graphattn.datasets.events import EventTask
from graphattn.datasets.local_events import SUFFIXES, load_local_events
from graphattn.datasets.tasks import GraphTask, NodeTask

_LICENCE = "your own"


def read_local(path: str | Path) -> Data | list[Data]:
    """Read a graph, or graphs, of one's own, whose labels and split may be missing.

    It reads what :func:`load` reads as ``"local:PATH"``. A graph of a folder or of networkx has the names of its nodes
    in ``node_ids`` and, where labels are words, those of the classes in ``classes``; a split of nodes stands in
    ``train_mask``, ``val_mask`` and ``test_mask``.

    Args:
        path: A file or a folder.

    Returns:
        The graph, or the list of graphs.

    Raises:
        FileNotFoundError: If there is nothing at the path, or a folder lacks its tables.
        ValueError: If the format is unknown, or the content broken or unsound.
        ImportError: If a file needs a package that is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "nodes.csv").write_text("id,age,height\\nann,31,1.6\\nbob,35,1.8\\n")
        ...     _ = Path(folder, "edges.csv").write_text("source,target\\nann,bob\\n")
        ...     read_local(folder)
        Data(edge_index=[2, 1], num_nodes=2, node_ids=[2], x=[2, 2])
    """
    path = Path(path).expanduser()
    content, given = read_files(path)
    if isinstance(content, Data):
        check_graph(f"local:{path}", content)
        for part, mask in (given or {}).items():
            content[f"{part}_mask"] = mask
    else:
        for number, graph in enumerate(content):
            check_graph(f"local:{path}", graph, number)
    return content


def load_local(path: Path, split: str | int | None) -> NodeTask | GraphTask | EventTask:
    """Load a graph, graphs or events of one's own as a task; the catalog documents the formats.

    Args:
        path: A file or a folder.
        split: ``"given"``, or ``"given:NUMBER"`` where masks have several columns; or a random split. Of events a split
            by time.

    Raises:
        FileNotFoundError: If there is nothing at the path, or a folder lacks its tables.
        ValueError: If the format is unknown, or the content broken or unsound.
    """
    if path.suffix in SUFFIXES:
        return load_local_events(path, split)
    content, given = read_files(path)
    if isinstance(content, Data):
        return _node_task(path, content, given, split)
    return _graph_task(path, content, given, split)


def class_names(data: Data) -> tuple[str, ...] | None:
    """Return the names of the classes of a graph that was read, if its labels are words."""
    names = data.get("classes")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _node_task(path: Path, data: Data, given: Split | None, split: str | int | None) -> NodeTask:
    """Make the task of a graph; ``given`` holds masks, perhaps of several columns."""
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
    if scheme == "given" and given is not None:
        parts = {part: mask[:, number] if mask.dim() == 2 else mask for part, mask in given.items()}
    else:
        parts = random_split(scheme, number, data.y)
    num_classes = None if data.y.is_floating_point() else int(data.y.max()) + 1
    classes = class_names(data)
    for name in ("classes", "node_ids"):  # what is no tensor stands in the way of batches
        data.pop(name, None)
    return NodeTask(
        name=path.stem,
        data=data,
        split=parts,
        split_name=split_name(scheme, number, schemes),
        metric="rmse" if num_classes is None else "accuracy",
        licence=_LICENCE,
        num_classes=num_classes,
        classes=classes,
    )


def _graph_task(path: Path, graphs: list[Data], given: Split | None, split: str | int | None) -> GraphTask:
    """Make the task of many graphs."""
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
        graphs=graphs,
        split=parts,
        split_name=split_name(scheme, number, schemes),
        metric="rmse" if classes is None else "accuracy",
        licence=_LICENCE,
        num_classes=classes,
    )
