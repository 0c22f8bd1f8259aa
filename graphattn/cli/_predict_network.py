"""How ``graphattn predict`` runs a network: on what it was made for, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphattn.affinity import Affinity
from graphattn.cli._predict_read import Source
from graphattn.engine import seeded
from graphattn.models.network import Network
from graphattn.training import NeighborSampler

# Attributes of graphs, the options of networks that tell their width, and what they are called.
_OPTIONAL = (("edge_attr", "edge_dim", "edge features"), ("pe", "encoding_dim", "positional encodings pe"))
_More = Mapping[str, Tensor | None]


def predict(
    model: Network,
    source: Source,
    device: torch.device,
    batch_size: int,
    *,
    num_neighbors: Sequence[int] | None = None,
    labels: Tensor | None = None,
    pairs: Tensor | None = None,
) -> tuple[Tensor, list[str]]:
    """Run a network on graphs.

    Args:
        model: The network, in evaluation mode.
        source: The graphs.
        device: Where it runs.
        batch_size: Graphs at a time, or nodes or pairs with their surroundings.
        num_neighbors: Neighbours that a node draws in each hop; ``None`` for the whole graph at once.
        labels: What a network with labels as input may see.
        pairs: What a network scores that is about pairs of nodes.

    Returns:
        Its output on the CPU, and what is to be said of the data.

    Raises:
        ValueError: If the graphs lack what the network reads, or have it in another width.
        TypeError: If they have it in another form.
    """
    config = node_config(model.config)
    graphs, unread = [], dict[str, None]()
    for number, graph in enumerate(source.graphs):
        kept, left_out = network_inputs(
            graph, config, f"graph {number} of {source.name}" if source.many else source.name
        )
        graphs.append(kept)
        unread.update(dict.fromkeys(left_out))
    model = model.to(device)
    if source.many:
        batches = _joined(graphs, batch_size)
    elif num_neighbors is None:
        batches = iter([(graphs[0], {"labels": labels, "pairs": pairs})])
    else:
        batches = _sampled(graphs[0], num_neighbors, batch_size, pairs)
    with torch.no_grad(), seeded(0, device=device):
        outputs = [_call(model, data.to(device), more)[: data.get("batch_size")].cpu() for data, more in batches]
    return torch.cat(outputs), [f"the network reads no {what}; those of {source.name} are left out" for what in unread]


def _joined(graphs: Sequence[Data], batch_size: int) -> Iterator[tuple[Data, _More]]:
    """Yield several graphs side by side as one."""
    for start in range(0, len(graphs), batch_size):
        yield Batch.from_data_list(graphs[start : start + batch_size]), {}


def _sampled(
    data: Data, num_neighbors: Sequence[int], batch_size: int, pairs: Tensor | None
) -> Iterator[tuple[Data, _More]]:
    """Yield the surroundings of some nodes, of which the first are asked for, or of some pairs."""
    sampler = NeighborSampler(data, num_neighbors)
    if pairs is None:
        for batch in sampler.batches(torch.arange(sampler.num_nodes), batch_size):
            yield batch, {}
        return
    for part in pairs.split(batch_size, dim=1):
        nodes, places = part.unique(return_inverse=True)
        batch = sampler.sample(nodes)
        del batch.batch_size  # every pair is asked for, whatever the number of nodes
        yield batch, {"pairs": places}


def _call(model: Network, data: Data, more: _More) -> Tensor:
    return model(**arguments(model, data, more))


def arguments(model: Network, data: Data, more: _More) -> dict[str, Any]:
    """Collect what a network is called with for a graph."""
    inputs: dict[str, Any] = {name: data[name] for name in ("edge_attr", "pe", "batch") if data.get(name) is not None}
    inputs |= {name: value.to(data.x.device) for name, value in more.items() if value is not None}
    if isinstance(data, Batch) and "backbone" in model.config:
        inputs["num_graphs"] = data.num_graphs
    edges: Any = data.edge_index
    if model.takes_affinity or data.get("edge_weight") is not None:
        edges = Affinity.from_edge_index(data.edge_index, data.get("edge_weight"), data.num_nodes)
    return {"x": data.x, "edge_index": edges, **inputs}


def node_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Config of the network that sees the graphs, which heads hold inside."""
    while isinstance(config.get("backbone"), Mapping):
        config = config["backbone"]
    return config


def network_inputs(data: Data, config: Mapping[str, Any], name: str) -> tuple[Data, list[str]]:
    """Take what a network reads out of a graph, and name what it does not read."""
    columns = config["in_channels"]
    if data.x is None:
        raise ValueError(f"{name} has no features, but the network reads {columns}; expected them in x, or as columns")
    if data.num_node_features != columns:
        raise ValueError(f"{name} has {data.num_node_features} features, but the network reads {columns}")
    if data.edge_index is None:
        raise ValueError(f"{name} has no edges; expected an edge_index, which may be empty")
    kept = Data(x=_single(data.x), edge_index=data.edge_index, num_nodes=data.num_nodes)
    if data.get("edge_weight") is not None:
        kept.edge_weight = _single(data.edge_weight)
    left_out = []
    for key, option, what in _OPTIONAL:
        found, expected = data.get(key), config.get(option)
        if expected is None:
            left_out += [] if found is None else [what]
        elif found is None:
            raise ValueError(f"{name} has no {what}, but the network reads {expected}")
        elif (width := found.size(1) if found.dim() > 1 else 1) != expected:
            raise ValueError(f"{name} has {width} {what}, but the network reads {expected}")
        else:
            kept[key] = _single(found)
    return kept, left_out


def _single(values: Tensor) -> Tensor:
    """Numbers in the precision of the network; categories as they are."""
    return values.float() if values.is_floating_point() else values
