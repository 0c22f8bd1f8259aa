"""Networks for streams of events: by their names, with the widths that the events ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphattn.datasets import EventTask
from graphattn.models import TGAT, TGN, EventHead, EventNetwork, MessagePassingNet, StaticNet, TemporalNet

_CONVS = {"GCN": "gcn", "SAGE": "sage", "GAT": "gat", "GATv2": "gatv2"}
EVENT_MODELS = ("TGAT", "TemporalNet", "TGN", *_CONVS)


def make_event_network(model: str, task: EventTask, options: Mapping[str, Any]) -> EventHead:
    """Build a network of events with its head for a task.

    Args:
        model: Name of the network, one of ``EVENT_MODELS``; layers of PyG see the graph of all training events.
        task: The task.
        options: Arguments of the network by name, ``hidden_channels`` among them, and perhaps those of ``"head"``.

    Returns:
        The network.

    Raises:
        ValueError: If an option is unknown or out of range.
        KeyError: If ``hidden_channels`` is missing.

    Example:
        >>> import torch
        >>> from torch_geometric.data import TemporalData
        >>> stream = TemporalData(src=torch.tensor([0, 1, 0]), dst=torch.tensor([1, 2, 2]), t=torch.tensor([5, 6, 8]),
        ...                       msg=torch.ones(3, 1))
        >>> split = {"train": torch.tensor([0]), "val": torch.tensor([1]), "test": torch.tensor([2])}
        >>> task = EventTask(name="toy", data=stream, num_nodes=3, split=split, split_name="own", licence="generated")
        >>> make_event_network("TGAT", task, {"hidden_channels": 8}).backbone.config["edge_dim"]
        1
    """
    options = dict(options)
    head = dict(options.pop("head", {}))
    width: int = options["hidden_channels"]
    backbone = _make_backbone(model, task, options)
    return EventHead(backbone, width, None if task.kind == "link" else task.out_channels, **head)


def _make_backbone(model: str, task: EventTask, options: dict[str, Any]) -> EventNetwork:
    width, nodes, edge_dim = options["hidden_channels"], task.num_nodes, task.num_features
    if model == "TGAT":
        return TGAT.from_config({"in_channels": 0, "out_channels": width, "edge_dim": edge_dim, **options})
    if model == "TemporalNet":
        config = {"num_nodes": nodes, "in_channels": 0, "out_channels": width, "edge_dim": edge_dim}
        return TemporalNet.from_config({**config, **options})
    if model == "TGN":
        del options["hidden_channels"]
        return TGN.from_config({"num_nodes": nodes, "channels": width, "edge_dim": edge_dim, **options})
    config = {"conv": _CONVS[model], "in_channels": width, "out_channels": width}
    return StaticNet(MessagePassingNet.from_config({**config, **options}), nodes, width)
