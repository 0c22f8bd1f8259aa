"""The first part of the demo: digits read from few labels, by attention along their affinity and without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import LabelPropagation

from graphattn.datasets import NodeTask, load
from graphattn.models import AttentionNet
from graphattn.training import Recipe, fit

NAME = "attention"
PICTURE = "demo.png"
EPOCHS = 100
METHODS = ("attention", "MLP", "label propagation")
_NEIGHBORS = range(9, 14)  # of the digit that is drawn


class MLP(nn.Module):
    """A network of the same width without a graph."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(in_channels, hidden_channels)
        self.lin2 = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the logits of every node; the edges play no part."""
        h = F.elu(self.lin1(F.dropout(x, 0.2, self.training)))
        return self.lin2(F.dropout(h, 0.5, self.training))


def heading() -> str:
    """Say what this part does."""
    return "digits from 20 labels a class, along the affinity of their pixels"


def run_seed(seed: int, device: torch.device) -> dict[str, Any]:
    """Read the digits from the labels of one seed; returns accuracies, and whom one of the digits attends to."""
    task = cast(NodeTask, load("digits-knn", split=f"random-20:{seed}"))
    recipe = Recipe(EPOCHS, batch_size=None, lr=0.01, optimizer="adamw", weight_decay=0.01, warmup=0.0)
    network = AttentionNet(task.num_features, 64, task.out_channels, heads=4, score="dot", act="elu", dropout=0.3)
    networks = {"attention": network, "MLP": MLP(task.num_features, 64, task.out_channels)}
    accuracy = {
        name: fit(model, task, recipe, seed=seed, device=str(device), progress=False).test
        for name, model in networks.items()
    }
    accuracy["label propagation"] = task.evaluate(_propagate(task), "test")
    return {"seed": seed, "accuracy": accuracy, **_neighborhood(task, network.cpu())}


def _propagate(task: NodeTask) -> Tensor:
    known = torch.zeros(len(task.data.y), dtype=torch.bool)
    known[task.split["train"]] = True
    return LabelPropagation(num_layers=50, alpha=0.9)(task.data.y, task.data.edge_index, known)[task.split["test"]]


def _neighborhood(task: NodeTask, network: AttentionNet) -> dict[str, Any]:
    """Choose a test digit that is read correctly although many of its neighbours are others; tell what it draws on."""
    x, y, edge_index = task.data.x, task.data.y, task.data.edge_index
    assert network.encoder is not None, "the demo builds its network with one"
    with torch.no_grad():
        right = network(x, edge_index).argmax(dim=1) == y
        h = F.elu(network.encoder(x))
        _, (edges, alpha) = network.convs[0](h, edge_index, return_attention_weights=True)
    (source, target), weight = edges, alpha.mean(dim=1)
    neighbors = torch.bincount(edge_index[1], minlength=len(y))
    disagree = torch.zeros(len(y)).index_add(0, edge_index[1], (y[edge_index[0]] != y[edge_index[1]]).float())
    readable = right & (neighbors >= _NEIGHBORS.start) & (neighbors < _NEIGHBORS.stop)
    readable &= torch.zeros_like(right).index_fill(0, task.split["test"], True)
    digit = int((disagree / neighbors * readable).argmax())
    into = (target == digit) & (source != digit)
    return {"digit": digit, "neighbors": source[into].tolist(), "weights": weight[into].tolist()}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather the seeds for the results file."""
    table = {name: np.array([run["accuracy"][name] for run in runs]) for name in METHODS}
    return {
        "task": f"digits-knn: 20 labels a class, the best of {EPOCHS} epochs on 500 others, tested on 1,000",
        "seeds": runs,
        "mean": {name: float(values.mean()) for name, values in table.items()},
        "std": {name: float(values.std()) for name, values in table.items()},
    }


def findings(summary: dict[str, Any]) -> dict[str, str]:
    """Say what each method came to."""
    mean, std = summary["mean"], summary["std"]
    return {name: f"{mean[name]:.3f} ± {std[name]:.3f} test accuracy" for name in METHODS}


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Draw the accuracies and the neighbours of a digit."""
    from graphattn.cli import _demo_figure  # matplotlib takes a second to import; only the pictures need it

    _demo_figure.draw(path, summary)
