"""Handwritten digits: read by attention and from few selected pixels, searched for and re-ranked.

Nothing is downloaded: scikit-learn ships the 1,797 images. First an attention network, an MLP without a graph and
label propagation without features get the same 20 labels a class. Then Infinite Feature Selection and simpler
rankings choose pixels, and a linear SVM reads the digits from those alone. Last, the images most like some of them are
re-ranked by what they have in common. Results are written after every seed, so an interrupted run keeps the seeds it
has finished.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import sklearn
import torch
import torch.nn.functional as F
import torch_geometric
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch import Tensor, nn
from torch_geometric.nn import LabelPropagation
from tqdm import tqdm

from graphattn import Affinity, AttentionConv, __version__
from graphattn.cli import _demo_features as features
from graphattn.cli import _demo_rerank as reranking
from graphattn.cli._checks import UserError, usable_device
from graphattn.cli._files import make_folder, whole, write_text

NEIGHBORS = 10
LABELS_PER_CLASS = 20
EPOCHS = 150
METHODS = ("attention", "MLP", "label propagation")


@dataclass(frozen=True)
class Digits:
    """The images as vectors in [0, 1], their classes, and the affinity between them."""

    x: Tensor  # [N, 64]
    y: Tensor  # [N]
    affinity: Affinity

    @classmethod
    def load(cls, device: torch.device) -> Digits:
        digits = load_digits()
        x = digits.data / 16.0
        neighbors = kneighbors_graph(x, NEIGHBORS, metric="cosine")
        row, col = neighbors.maximum(neighbors.T).nonzero()
        edges = torch.from_numpy(np.stack([col, row]).astype(np.int64)).to(device)
        affinity = Affinity.from_edge_index(edges, num_nodes=len(x), symmetric=True)
        return cls(torch.from_numpy(x).float().to(device), torch.from_numpy(digits.target).to(device), affinity)

    def labelled(self, seed: int) -> Tensor:
        """Choose the labelled images: a mask with 20 of each class."""
        generator = torch.Generator().manual_seed(seed)
        mask = torch.zeros(len(self.y), dtype=torch.bool)
        for c in range(10):
            members = (self.y.cpu() == c).nonzero().flatten()
            mask[members[torch.randperm(len(members), generator=generator)[:LABELS_PER_CLASS]]] = True
        return mask.to(self.y.device)


class AttentionNet(nn.Module):
    """Two attention layers: what an image is depends on the images it resembles, and on how much."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = AttentionConv(64, 16, heads=4, dropout=0.2, root_weight=False, add_self_loops=True)
        self.conv2 = AttentionConv(64, 10, dropout=0.2, root_weight=False, add_self_loops=True)

    def forward(self, x: Tensor, affinity: Affinity) -> Tensor:
        x = F.dropout(x, 0.2, self.training)
        x = F.elu(self.conv1(x, affinity))
        return self.conv2(F.dropout(x, 0.5, self.training), affinity)


class MLP(nn.Module):
    """The same width without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 64), nn.ELU(), nn.Dropout(0.5), nn.Linear(64, 10))

    def forward(self, x: Tensor, affinity: Affinity) -> Tensor:
        return self.layers(x)


def train(model: nn.Module, data: Digits, mask: Tensor, advance: Callable[[], object]) -> Tensor:
    """Fit a network to the labelled images and return its logits for all of them, in evaluation mode."""
    model.to(data.x.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        F.cross_entropy(model(data.x, data.affinity)[mask], data.y[mask]).backward()
        optimizer.step()
        advance()
    model.eval()
    with torch.no_grad():
        return model(data.x, data.affinity)


def run_seed(seed: int, data: Digits, advance: Callable[[], object]) -> tuple[dict[str, float], AttentionNet, Tensor]:
    """Train every method on the labels of one seed; returns test accuracies, the attention net and its predictions."""
    torch.manual_seed(seed)
    mask = data.labelled(seed)
    network = AttentionNet()
    propagation = LabelPropagation(num_layers=50, alpha=0.9)
    predictions = {
        "attention": train(network, data, mask, advance).argmax(dim=1),
        "MLP": train(MLP(), data, mask, advance).argmax(dim=1),
        "label propagation": propagation(data.y, data.affinity.to_edge_index()[0], mask).argmax(dim=1),
    }
    accuracy = {name: (guess == data.y)[~mask].float().mean().item() for name, guess in predictions.items()}
    return accuracy, network, predictions["attention"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``graphattn demo``."""
    parser.add_argument("--out", type=Path, default=Path("graphattn-demo"), help="folder for results (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (%(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the demo and return the exit status: 0, or 130 if it was interrupted."""
    device = usable_device(args.device)
    if args.seeds < 1:
        raise UserError(f"--seeds is {args.seeds}; expected at least 1")
    make_folder(args.out)
    results = Results(args)
    seeds = range(args.seed, args.seed + args.seeds)
    return 0 if all(part(results, device, seeds) for part in (_attend, _select, _rerank)) else 130


class Results:
    """What the demo has found so far; the file is written anew after every seed."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.out: Path = args.out
        self.started = time.perf_counter()
        self.parts: dict[str, Any] = {}
        self.device = args.device

    def write(self, **parts: Any) -> None:
        self.parts |= parts
        results = {
            **self.parts,
            "seconds": round(time.perf_counter() - self.started, 1),
            "device": self.device,
            "versions": {
                "graphattn": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torch_geometric": torch_geometric.__version__,
                "scikit-learn": sklearn.__version__,
            },
        }
        write_text(self.out / "results.json", json.dumps(results, indent=2) + "\n")

    def announce(self, figure: Path) -> None:
        """Say where the results are and how long it took to get there."""
        print(f"wrote {self.out / 'results.json'} and {figure} in {time.perf_counter() - self.started:.0f} s")


def _attend(results: Results, device: torch.device, seeds: range) -> bool:
    """Run the first part; returns whether it ran to its end."""
    data = Digits.load(device)
    edges = data.affinity.to_edge_index()[0].size(1)
    print(f"{len(data.y)} images, a k-NN affinity of {edges} edges, {LABELS_PER_CLASS} labels a class, on {device}")
    accuracies: list[dict[str, float]] = []
    finished = False
    try:
        for seed in seeds:
            with tqdm(total=2 * EPOCHS, desc=f"seed {seed}", unit="epoch") as bar:
                accuracy, network, predicted = run_seed(seed, data, bar.update)
                bar.set_postfix_str(", ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
            accuracies.append({"seed": seed, **accuracy})
            results.write(
                task=f"{LABELS_PER_CLASS} labelled digits a class, k-NN affinity with k = {NEIGHBORS}, {EPOCHS} epochs",
                seeds=accuracies,
                mean={name: float(np.mean([accuracy[name] for accuracy in accuracies])) for name in METHODS},
                std={name: float(np.std([accuracy[name] for accuracy in accuracies])) for name in METHODS},
            )
        finished = True
    except KeyboardInterrupt:
        print(f"interrupted: {len(accuracies)} of {len(seeds)} seeds are finished and kept", file=sys.stderr)
    if "seeds" in results.parts:
        from graphattn.cli._demo_figure import draw  # matplotlib takes a second to import; only the pictures need it

        with whole(results.out / "demo.png") as part:
            draw(part, METHODS, accuracies, data, network, predicted)
        for name in METHODS:
            mean, std = results.parts["mean"][name], results.parts["std"][name]
            print(f"{name:>18}: {mean:.3f} ± {std:.3f} test accuracy over {len(accuracies)} seeds")
        results.announce(results.out / "demo.png")
    return finished


def _select(results: Results, device: torch.device, seeds: range) -> bool:
    """Run the second part; returns whether it ran to its end."""
    print(f"the same images from few of their {features.PIXELS} pixels, chosen on half of the images")
    finished = _run_seeds(results, features, "features", device, seeds)
    if "features" in results.parts:
        from graphattn.cli._demo_features_figure import draw  # as above

        summary = results.parts["features"]
        with whole(results.out / "features.png") as part:
            draw(part, summary)
        column = features.SIZES.index(features.KEPT)
        for name in features.METHODS:
            mean, std = summary["mean"][name][column], summary["std"][name][column]
            print(f"{name:>18}: {mean:.3f} ± {std:.3f} test accuracy from {features.KEPT} pixels")
        results.announce(results.out / "features.png")
    return finished


def _rerank(results: Results, device: torch.device, seeds: range) -> bool:
    """Run the third part; returns whether it ran to its end."""
    print(f"the {reranking.LENGTH} images most like each of {reranking.QUERIES}, re-ranked without training")
    finished = _run_seeds(results, reranking, "reranking", device, seeds)
    if "reranking" in results.parts:
        from graphattn.cli._demo_rerank_figure import draw  # as above

        summary = results.parts["reranking"]
        with whole(results.out / "reranking.png") as part:
            draw(part, summary)
        for name in reranking.METHODS:
            print(f"{name:>18}: {summary['mean'][name]:.3f} ± {summary['std'][name]:.3f} mean average precision")
        print(f"{'Auto':>18}: {summary['better']} queries better, {summary['worse']} worse, {summary['same']} the same")
        results.announce(results.out / "reranking.png")
    return finished


def _run_seeds(results: Results, part: ModuleType, name: str, device: torch.device, seeds: range) -> bool:
    """Run every seed of a part and keep its summary; returns whether all of them were finished."""
    runs: list[dict[str, Any]] = []
    try:
        for seed in tqdm(seeds, desc=name, unit="seed"):
            runs.append(part.run_seed(seed, device))
            results.write(**{name: part.summary(runs)})
    except KeyboardInterrupt:
        print(f"interrupted: {len(runs)} of {len(seeds)} seeds are finished and kept", file=sys.stderr)
        return False
    return True
