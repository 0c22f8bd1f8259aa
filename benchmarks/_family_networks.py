"""The network that ``attention_family.py`` tries every attention in, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from _family_tasks import Task
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import global_mean_pool
from torch_geometric.utils import to_dense_batch

from graphattn.engine import Recipe, seeded, train
from graphattn.nn import AttentionConv, GraphTransformerLayer
from graphattn.nn.encodings import SinusoidalEncoding
from graphattn.nn.global_attention import PrimalAttention, make_attention


@dataclass(frozen=True)
class Candidate:
    """An attention to be tried.

    Args:
        attention: Name of an attention between all nodes; ``None`` for attention along the edges of ``pattern``.
        options: What that attention has of its own.
        pattern: Name of a pattern of the task.
        last_only: Whether the layers before the last one have softmax attention.
    """

    attention: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    pattern: str | None = None
    last_only: bool = False


@dataclass(frozen=True)
class Setting:
    """Size of a network and how it is trained."""

    channels: int
    heads: int
    num_layers: int
    norm: str
    dropout: float
    recipe: Recipe


SETTINGS = {
    # Four layers: along the edges the leaves are three steps away from the root, and their keys have to meet there.
    "long_range": Setting(64, 4, 4, "layer", 0.0, Recipe(30, 64, lr=8e-3, optimizer="adamw", weight_decay=0.01)),
    # Dropout was 0.1 or 0.3, chosen by cross-validation of softmax attention within the training samples.
    "vowels": Setting(128, 8, 2, "batch", 0.1, Recipe(60, 16, lr=0.016, optimizer="adamw", weight_decay=0.01)),
    "digits": Setting(64, 4, 2, "layer", 0.1, Recipe(40, 64, lr=8e-3, optimizer="adamw", weight_decay=0.01)),
    "spectrum": Setting(64, 4, 2, "layer", 0.1, Recipe(20, 64, lr=8e-3, optimizer="adamw", weight_decay=0.01)),
}
QUICK = Setting(16, 2, 2, "layer", 0.0, Recipe(2, 32, lr=8e-3, optimizer="adamw"))

_FAMILY = {
    "softmax": Candidate("softmax"),
    "linear": Candidate("linear"),
    "performer": Candidate("performer"),
    "nystrom": Candidate("nystrom", {"num_landmarks": 8}),
    "infsa": Candidate("infsa"),
    "linear_infsa": Candidate("linear_infsa"),
    "window": Candidate(pattern="window"),
    "expander": Candidate(pattern="expander"),
}
CANDIDATES: Mapping[str, Mapping[str, Candidate]] = {
    "long_range": {
        **_FAMILY,
        "primal": Candidate("primal", {"low_rank": 16, "rows": 15}),
        "edges": Candidate(pattern="edges"),
    },
    # Directions, rows and weight of the loss of primal attention are those of its publication.
    "vowels": {
        "softmax": _FAMILY["softmax"],
        "primal": Candidate("primal", {"low_rank": 40, "rows": 29, "eta": 0.5}),
        "primal, last layer": Candidate("primal", {"low_rank": 30, "rows": 29, "eta": 0.2}, last_only=True),
        **_FAMILY,
    },
    "digits": {**_FAMILY, "primal": Candidate("primal", {"low_rank": 16, "rows": 16})},
    "spectrum": {"softmax": _FAMILY["softmax"], "primal": Candidate("primal", {"low_rank": 16, "rows": 64})},
}


class Classifier(nn.Module):
    """Encode nodes and their place, let them attend in a few layers, and read the class of each graph."""

    def __init__(self, task: Task, in_channels: int, candidate: Candidate, setting: Setting) -> None:
        super().__init__()
        channels, heads = setting.channels, setting.heads
        self.readout, self.max_nodes, self.dropout = task.readout, task.max_nodes, setting.dropout
        self.encoder = nn.Linear(in_channels, channels)
        self.register_buffer("places", SinusoidalEncoding(channels)(torch.arange(task.max_nodes)))
        layers = []
        for number in range(setting.num_layers):
            conv, attention = None, None
            if candidate.attention is None:
                conv = AttentionConv(channels, channels // heads, heads, root_weight=False)
            elif candidate.last_only and number < setting.num_layers - 1:
                attention = make_attention("softmax", channels, heads)
            else:
                attention = make_attention(candidate.attention, channels, heads, **candidate.options)
            options: dict[str, Any] = {"norm": setting.norm, "dropout": setting.dropout, "act": "gelu"}
            layers.append(GraphTransformerLayer(channels, conv, attention, **options))
        self.layers = nn.ModuleList(layers)
        self.lin = nn.Linear(channels * (task.max_nodes if task.readout == "flatten" else 1), task.num_classes)

    def forward(self, graphs: Batch) -> tuple[Tensor, Tensor]:
        """Return logits, and the mean loss of the attentions that have one."""
        batch = graphs.batch
        place = torch.arange(batch.numel()) - graphs.ptr[batch]
        x = F.dropout(self.encoder(graphs.x) + self.places[place], self.dropout, self.training)
        losses = []
        for layer in self.layers:
            if layer.attention is None:
                x = layer(x, graphs.edge_index, batch=batch)
            elif isinstance(layer.attention, PrimalAttention):
                x, loss = layer(x, batch=batch, return_loss=True)
                losses.append(loss)
            else:
                x = layer(x, batch=batch)
        if self.readout == "root":
            x = x[graphs.ptr[:-1]]
        elif self.readout == "mean":
            x = global_mean_pool(x, batch)
        else:
            x = to_dense_batch(F.gelu(x), batch, max_num_nodes=self.max_nodes)[0].flatten(1)
        logits = self.lin(F.dropout(x, self.dropout, self.training))
        return logits, torch.stack(losses).mean() if losses else logits.new_zeros(())


def fit(task: Task, candidate: Candidate, setting: Setting, seed: int) -> tuple[Classifier, dict[str, Any]]:
    """Train a network, keep the last epoch whatever the test says, and report its accuracy there."""
    graphs = task.graphs(task.train, candidate.pattern)
    with seeded(seed):
        network = Classifier(task, graphs[0].num_features, candidate, setting)

    def losses(rows: Tensor) -> dict[str, Tensor]:
        batch = Batch.from_data_list([graphs[row] for row in rows.tolist()])
        logits, penalty = network(batch)
        error = F.cross_entropy(logits, batch.y)
        return {"loss": error + penalty, "cross_entropy": error.detach()}

    log = train(network, len(graphs), losses, replace(setting.recipe, seed=seed))
    return network, {
        "accuracy": accuracy(network, task.graphs(task.test, candidate.pattern)),
        "cross_entropy": log.epochs[-1]["cross_entropy"],
        "epochs": len(log.epochs),
        "seconds": sum(log.seconds),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


@torch.no_grad()
def accuracy(network: nn.Module, graphs: list[Data]) -> float:
    """Return the part of graphs that get their class."""
    right = 0
    for first in range(0, len(graphs), 256):
        batch = Batch.from_data_list(graphs[first : first + 256])
        right += int((network(batch)[0].argmax(1) == batch.y).sum())
    return right / len(graphs)
