"""Networks for tasks: by their usual names, with the widths that the data of a task ask for."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn._optional import require
from graphattn.datasets import EventTask, GraphTask, LinkTask
from graphattn.datasets.tasks import Task
from graphattn.models import GraphHead, LinkHead, from_config
from graphattn.models.network import Network
from graphattn.training.event_networks import EVENT_MODELS, make_event_network

OURS: dict[str, dict[str, Any]] = {
    "AttentionNet": {"model": "AttentionNet"},
    "InfDiffusionNet": {"model": "InfDiffusionNet"},
    "GraphTransformer": {"model": "GraphTransformer"},
    "TGAT": {"model": "TGAT"},
    "TemporalNet": {"model": "TemporalNet"},
}
PEERS: dict[str, dict[str, Any]] = {
    "GCN": {"model": "MessagePassingNet", "conv": "gcn"},
    "SAGE": {"model": "MessagePassingNet", "conv": "sage"},
    "GAT": {"model": "MessagePassingNet", "conv": "gat"},
    "GATv2": {"model": "MessagePassingNet", "conv": "gatv2"},
    "APPNP": {"model": "APPNPNet"},
    "GPS": {"model": "GPSNet"},
    "SGFormer": {"model": "SGFormerNet"},
    "TGN": {"model": "TGN"},
}
ALL_MODELS = (*OURS, *PEERS)
MODELS = tuple(name for name in ALL_MODELS if name not in ("TGAT", "TemporalNet", "TGN"))
_WITHOUT_EDGES = ("GCN", "SAGE", "APPNP", "SGFormer")
_WITH_ENCODING = ("GraphTransformer", "GPS")


def make_network(model: str, task: Task | EventTask, options: Mapping[str, Any]) -> Network:
    """Build a network for a task: what the options leave open, its data decide.

    Widths of input and output, categories, edge features and positional encodings ``pe`` follow from the task. Graphs,
    links and events get their head, whose options stand under ``"head"``.

    Args:
        model: Name of the network, one of ``MODELS``, or of ``EVENT_MODELS`` for events.
        task: The task.
        options: Arguments of the network by name, and perhaps ``"head"``.

    Returns:
        The network.

    Raises:
        ValueError: If the name or an option is unknown.

    Example:
        >>> from graphattn.datasets import load
        >>> make_network("GAT", load("karate"), {"hidden_channels": 8, "heads": 2}).config["out_channels"]
        4
    """
    check_model(model, "event" if isinstance(task, EventTask) else "graph")
    if isinstance(task, EventTask):
        return make_event_network(model, task, options)
    config = {**{**OURS, **PEERS}[model], **options}
    head = dict(config.pop("head", {}))
    data = _graphs(task)
    first = data[0]
    config["in_channels"] = task.num_features
    if first.x is not None and not first.x.is_floating_point():
        config |= {"encoder": "embedding", "vocabulary": _vocabulary(task, data, "x")}
    if first.edge_attr is not None and reads_edges(model, config):
        config["edge_dim"] = 1 if first.edge_attr.dim() == 1 else first.edge_attr.size(1)
        if not first.edge_attr.is_floating_point():
            config["edge_vocabulary"] = _vocabulary(task, data, "edge_attr")
    if first.get("pe") is not None and model in _WITH_ENCODING:
        config["encoding_dim"] = first.pe.size(1)
    if not isinstance(task, LinkTask) and not _pools(task):
        return from_config({**config, "out_channels": task.out_channels})
    width = config["hidden_channels"]
    backbone = from_config({**config, "out_channels": width})
    if isinstance(task, LinkTask):
        return LinkHead(backbone, width, **head)
    return GraphHead(backbone, width, task.out_channels, **head)


def check_model(model: str, kind: str | None = None) -> None:
    """Raise if there is no network of a name for tasks of a kind, and say which names are near."""
    known = ALL_MODELS if kind is None else EVENT_MODELS if kind == "event" else MODELS
    if model not in known:
        near = get_close_matches(model, known, cutoff=0.3)
        hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
        where = "" if kind is None else " for events" if kind == "event" else " for graphs"
        raise ValueError(f"model is {model!r}; {hint}expected one of {', '.join(known)}{where}")


def reads_edges(model: str, options: Mapping[str, Any]) -> bool:
    """Whether a network of these options reads edge features."""
    if model == "InfDiffusionNet":
        return options.get("affinity") == "learned"
    return model not in _WITHOUT_EDGES


def without_edge_features(task: Task) -> Task:
    """Return a task whose graphs have no ``edge_attr``, for a network that does not read them."""
    # A copy, since a task that is made again takes edges that a transform has derived for a leak.
    task = copy.copy(task)
    name = "graphs" if isinstance(task, GraphTask) else "data"
    graphs = list(map(_without, _graphs(task)))
    object.__setattr__(task, name, graphs if isinstance(task, GraphTask) else graphs[0])
    return task


def _without(data: Data) -> Data:
    if data.edge_attr is None:
        return data
    data = copy.copy(data)
    del data.edge_attr
    return data


def _graphs(task: Task) -> Sequence[Data]:
    return task.graphs if isinstance(task, GraphTask) else [task.data]


def _pools(task: Task) -> bool:
    """Whether the targets of a task belong to graphs, not to their nodes."""
    return isinstance(task, GraphTask) and len(task.target("train")) == len(task.split["train"])


def _vocabulary(task: Task, graphs: Sequence[Data], name: str) -> list[int]:
    """Number of categories of each column: those that OGB defines for molecules, else those that occur."""
    if task.name.startswith(("ogbg-mol", "molhiv")):
        features = require("ogb.utils.features", "ogb")
        sizes = {"x": features.get_atom_feature_dims, "edge_attr": features.get_bond_feature_dims}[name]
        return list(map(int, sizes()))
    columns: list[Tensor] = [torch.atleast_2d(graph[name]).amax(dim=0) for graph in graphs if graph[name].numel()]
    return (torch.stack(columns).amax(dim=0) + 1).tolist()
