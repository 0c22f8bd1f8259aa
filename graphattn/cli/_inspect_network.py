"""Networks of this library on graphs, as ``graphattn inspect`` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphattn.analysis import capture
from graphattn.cli._checkpoint import read_checkpoint
from graphattn.cli._checks import UserError
from graphattn.cli._inspect_subject import (
    OUTPUTS,
    WHOLE,
    Sample,
    Subject,
    attribution,
    maps_of,
    outputs_of,
    weights_of,
)
from graphattn.cli._predict_network import arguments, network_inputs, node_config
from graphattn.cli._predict_read import Source, read_source
from graphattn.models.network import Network
from graphattn.nn.global_attention.softmax import SoftmaxAttention

MASKED = 64  # nodes of a graph that the faithfulness check leaves out, at most
_DENSE = 4096  # nodes up to which attention between all of them is kept


def read_network(
    path: Path, data: str | None, root: Path, split: str | None, node: int | None, most: int, device: torch.device
) -> Subject:
    """Read a checkpoint and capture its attention on the graphs of some data."""
    model, config = read_checkpoint(path)
    if data is None:
        raise UserError(f"{path} needs graphs; pass --data")
    try:
        source = read_source(data, root, split, config)
        return _subject(path, model.to(device), config, source, node, most, device)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        raise UserError(str(error)) from error


def _subject(
    path: Path,
    model: Network,
    config: dict[str, Any],
    source: Source,
    node: int | None,
    most: int,
    device: torch.device,
) -> Subject:
    inner = node_config(model.config)
    labels = source.shown_labels() if model.config.get("label_input") else None
    notes: dict[str, None] = {}
    if len(source.graphs) > most:
        notes[f"the first {most} of {len(source.graphs)} graphs were read"] = None
    if config.get("eval_neighbors") is not None:
        notes["the network draws neighbours in training; here it sees the graph as a whole"] = None
    samples: list[Sample] = []
    calls: list[tuple[_Call, list[str]]] = []
    weights: list[Any] = []
    for number, graph in enumerate(source.graphs[:most]):
        title = f"graph {number} of {source.name}" if source.many else source.name
        data, unread = network_inputs(graph, inner, title)
        size = int(data.num_nodes or 0)
        notes.update(dict.fromkeys(f"the network reads no {what}" for what in unread))
        if not size:
            notes[f"{title} has no nodes and is left out"] = None
            continue
        if size > _DENSE and any(isinstance(module, SoftmaxAttention) for module in model.modules()):
            raise ValueError(
                f"{title} has {size} nodes, and the network attends from each to all; expected at most {_DENSE}"
            )
        call = _Call(config["kind"], data.to(device), labels, _target(data, config["kind"], node, title))
        keep = len(samples) < OUTPUTS and size <= WHOLE
        captured = capture(model, call.inputs(model), head_outputs=keep)
        names = [str(name) for name in (source.ids if source.ids is not None else range(size))]
        maps, unchecked = maps_of(captured, names)
        if unchecked:
            notes[unchecked] = None
        weights = weights or weights_of(captured)
        calls.append((call, names))
        relevance = attribution(maps, call.target) if call.target is not None or size <= _DENSE else np.zeros(0)
        maskable = call.maskable(relevance)
        if len(maskable) == MASKED:
            notes[f"the check of the rollout leaves out the {MASKED} nodes of most relevance only"] = None
        gathered = outputs_of(captured) if keep else None
        samples.append(Sample(title, maps, None, call.target, maskable, call.scorer(model, maskable), gathered))
    if not samples:
        raise ValueError(f"{source.name} has no graph with a node")
    return Subject(
        name=path.name,
        what=f"{config['model']['model']}, {sum(each.numel() for each in model.parameters()):,} parameters",
        samples=samples,
        scored=calls[0][0].said,
        notes=list(notes),
        query_key=weights,
        width=inner.get("hidden_channels"),
        model=model,
        capture=lambda other, number: maps_of(
            capture(other, calls[number][0].inputs(other), head_outputs=False), calls[number][1]
        )[0],
    )


def _target(data: Data, kind: str, node: int | None, title: str) -> int | None:
    """Return the node to explain: one of many neighbours, where none is asked for; none of a whole graph."""
    size = int(data.num_nodes or 0)
    if kind == "graph":
        if node is not None:
            raise ValueError(f"--node is {node}, but the network is about whole graphs")
        return None
    if node is not None and not 0 <= node < size:
        raise ValueError(f"--node is {node} but {title} has {size} nodes; expected a number from 0")
    assert isinstance(data.edge_index, Tensor)
    return int(torch.bincount(data.edge_index[1], minlength=size).argmax()) if node is None else node


class _Call:
    """Call a network on a graph, or on what is left of it without some nodes."""

    def __init__(self, kind: str, data: Data, labels: Tensor | None, target: int | None) -> None:
        self.kind, self.data, self.labels, self.target = kind, data, labels, target
        self.partner = target
        if kind == "link":
            assert target is not None
            near = data.edge_index[0][data.edge_index[1] == target]
            self.partner = int(near[near != target][0]) if bool((near != target).any()) else target
        self.said = {
            "graph": "probability of the class that it predicts for the graph, or the size of its one output",
            "link": "its score of the pair of the node and its first neighbour, with the sign that makes it positive",
        }.get(kind, "probability of the class that it predicts for the node, or the size of its one output")

    def inputs(self, model: Any, kept: Tensor | None = None) -> dict[str, Any]:
        """Collect what the network is called with, on the nodes that are kept."""
        data, labels = self.data, self.labels
        place = torch.arange(int(data.num_nodes or 0), device=data.x.device)
        if kept is not None:
            kept = kept.to(place.device)
            data, place = data.subgraph(kept), kept.cumsum(0) - 1
            labels = None if labels is None else labels[kept.cpu()]
        pairs = torch.stack([place[self.target], place[self.partner]])[:, None] if self.kind == "link" else None
        if self.kind == "graph":
            data = Batch.from_data_list([data])
        return arguments(model, data, {"labels": labels, "pairs": pairs})

    def maskable(self, relevance: np.ndarray) -> np.ndarray:
        """Return the nodes that the score can do without: those of most relevance, and of these not the target."""
        order = np.argsort(-relevance, kind="stable")
        kept = {self.target, self.partner} if self.target is not None else {0}
        chosen = [int(number) for number in order if relevance[number] > 0 and int(number) not in kept][:MASKED]
        return np.array(sorted(chosen), dtype=np.int64)

    def scorer(self, model: Network, maskable: np.ndarray) -> Any:
        """Return what the network makes of some of the nodes."""
        places = torch.from_numpy(maskable)
        size = int(self.data.num_nodes or 0)

        def run(kept: Tensor | None) -> Tensor:
            with torch.no_grad():
                out = model(**self.inputs(model, kept))
            target = 0 if self.kind == "link" or self.target is None else self.target
            return out[target if kept is None else int(kept[:target].sum())].flatten().double().cpu()

        whole = run(None)
        best = int(whole.argmax())
        sign = 1.0 if float(whole[0]) >= 0 else -1.0

        def read(out: Tensor) -> float:
            return float(out.softmax(0)[best]) if len(out) > 1 else sign * float(out[0])

        def score(rows: Tensor) -> Tensor:
            found = []
            for row in rows:
                kept = torch.ones(size, dtype=torch.bool)
                kept[places] = row
                found.append(read(run(kept)))
            return torch.tensor(found, dtype=torch.float64)

        return score
