"""Cora: does a network whose layers take all hops beat the same network with one hop?

    python benchmarks/hops.py --data FOLDER --out benchmarks/results

``--data`` is a folder of Planetoid's raw files (``ind.cora.*``). The network is two ``AttentionConv`` layers with their
defaults, on the edges as they are, and once more in the form of GAT: its score, and a loop at every node. With all hops
every head learns its decay. PyG's GAT and APPNP run in the same harness. Every model is tuned over the same
configurations on the validation nodes of seed 0 and then trained with the chosen one under all seeds; the epoch is
chosen by validation too. Results are written after each training run: a run that was stopped goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _diffusion_data import load_planetoid, random_graph
from _hops_report import write_report
from _results import HERE, environment, load_results, save, start
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import APPNP, GATConv
from torch_geometric.utils import add_self_loops
from tqdm import tqdm

from graphattn import Affinity, AttentionConv

EPOCHS = 300
PATIENCE = 100
HEADS, WIDTH = 8, 8
FIRST_DECAY = 0.5  # where the decay of each head starts; it is learned
Config = dict[str, float]
# The same configurations for every model.
GRID: list[Config] = [
    {"lr": lr, "weight_decay": weight_decay, "dropout": dropout}
    for lr, weight_decay, dropout in itertools.product((0.005, 0.01), (5e-4, 2e-3), (0.6,))
]


def drop_entries(x: Tensor, dropout: float, training: bool) -> Tensor:
    """Drop entries of a sparse bag of words; dropping one of its zeros would change nothing."""
    if not training:
        return x
    values = F.dropout(x.values(), dropout)
    return torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False)


class Attention(nn.Module):
    """Two attention layers in the shape of GAT's network for Cora: 8 heads of 8 channels, then one head a class."""

    def __init__(self, conv: Callable[..., nn.Module], features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.first = conv(features, WIDTH, heads=HEADS, dropout=dropout)
        self.second = conv(HEADS * WIDTH, classes, heads=1, dropout=dropout)
        self.dropout = dropout

    def forward(self, x: Tensor, edges: Any) -> Tensor:
        """Return one logit a class for every node."""
        x = F.elu(self.first(drop_entries(x, self.dropout, self.training), edges))
        return self.second(F.dropout(x, self.dropout, self.training), edges)


class PredictThenPropagate(nn.Module):
    """The network of APPNP's paper: a perceptron of 64 units, then 10 hops of personalized PageRank."""

    def __init__(self, features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, classes)
        self.propagate = APPNP(K=10, alpha=0.1)
        self.dropout = dropout

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return one logit a class for every node."""
        x = F.relu(self.first(drop_entries(x, self.dropout, self.training)))
        return self.propagate(self.second(F.dropout(x, self.dropout, self.training)), edges)


PAIRS = {"hops=inf": "hops=1", "GAT's form, hops=inf": "GAT's form, hops=1"}
MODELS = (*(model for pair in PAIRS.items() for model in pair), "GAT", "APPNP")


def build(model: str, config: Config, features: int, classes: int) -> nn.Module:
    """Make an untrained network."""
    dropout = config["dropout"]
    if model == "APPNP":
        return PredictThenPropagate(features, classes, dropout)
    if model == "GAT":
        # The edges have their loops already.
        return Attention(partial(GATConv, add_self_loops=False), features, classes, dropout)
    options: dict[str, Any] = {"score": "gat"} if model.startswith("GAT") else {}
    if model in PAIRS:
        options |= {"hops": math.inf, "decay": FIRST_DECAY, "learn_decay": True}
    return Attention(partial(AttentionConv, **options), features, classes, dropout)


class Graph:
    """A data set with features and edges in the form that the models read fastest."""

    def __init__(self, data: Data) -> None:
        self.data = data
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self.x = data.x.to_sparse_csr()
        self.looped, _ = add_self_loops(data.edge_index, num_nodes=data.num_nodes)
        self.affinity = Affinity.from_edge_index(data.edge_index, num_nodes=data.num_nodes)
        self.looped_affinity = Affinity.from_edge_index(self.looped, num_nodes=data.num_nodes)

    def edges(self, model: str) -> Any:
        """Return the edges, with a loop at every node for GAT and its form; APPNP adds them itself."""
        if model in ("GAT", "APPNP"):
            return self.looped if model == "GAT" else self.data.edge_index
        return self.looped_affinity if model.startswith("GAT") else self.affinity


def train(graph: Graph, model: str, config: Config, seed: int, epochs: int) -> dict[str, Any]:
    """Train one network; keep the epoch of the best validation accuracy, among equals that of the smallest loss."""
    torch.manual_seed(seed)
    data, edges = graph.data, graph.edges(model)
    network = build(model, config, data.x.size(1), int(data.y.max()) + 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    start = time.perf_counter()
    best, kept, waited = (-math.inf, -math.inf), {}, 0
    for epoch in range(epochs):
        network.train()
        optimizer.zero_grad()
        F.cross_entropy(network(graph.x, edges)[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        accuracy, loss = evaluate(network, graph, edges)
        waited += 1
        if (accuracy["val"], -loss) > best:
            best, waited = (accuracy["val"], -loss), 0
            kept = {
                "val_accuracy": accuracy["val"],
                "val_loss": loss,
                "test_accuracy": accuracy["test"],
                "epoch": epoch,
            }
        if waited >= PATIENCE:
            break
    parameters = sum(p.numel() for p in network.parameters())
    record = {**kept, "epochs": epoch + 1, "seconds": time.perf_counter() - start, "parameters": parameters}
    if model in PAIRS:
        record["decay"] = [conv.decay.tolist() for conv in (network.first, network.second)]
    return record


@torch.no_grad()
def evaluate(network: nn.Module, graph: Graph, edges: Any) -> tuple[dict[str, float], float]:
    """Return accuracy on the validation and the test nodes, and the validation loss."""
    data = graph.data
    network.eval()
    logits = network(graph.x, edges)
    correct = logits.argmax(dim=1) == data.y
    accuracy = {name: correct[data[f"{name}_mask"]].float().mean().item() for name in ("val", "test")}
    return accuracy, F.cross_entropy(logits[data.val_mask], data.y[data.val_mask]).item()


def tune(graph: Graph, model: str, runs: dict[str, Any], keep: Callable[[], None], args: argparse.Namespace) -> Config:
    """Train every configuration under seed 0 and return the best on the validation nodes."""
    configs = GRID[:2] if args.quick else GRID
    for config in tqdm(configs, desc=f"tuning {model}", leave=False):
        if name_of(config) not in runs:
            runs[name_of(config)] = {"config": config, **train(graph, model, config, 0, args.epochs)}
            keep()
    best = max((runs[name_of(config)] for config in configs), key=lambda run: (run["val_accuracy"], -run["val_loss"]))
    return best["config"]


def name_of(config: Config) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in config.items())


def paired(results: dict[str, Any], many: str, one: str) -> dict[str, Any]:
    """Compare all hops with one hop, seed by seed."""
    ours, theirs = (results["models"][model]["seeds"] for model in (many, one))
    differences = [ours[seed]["test_accuracy"] - theirs[seed]["test_accuracy"] for seed in ours if seed in theirs]
    return {
        "differences": differences,
        "mean": statistics.mean(differences),
        "std": statistics.stdev(differences) if len(differences) > 1 else None,
        "wins": sum(difference > 0 for difference in differences),
        "losses": sum(difference < 0 for difference in differences),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Tune and train every model and write ``hops.json``, ``.md`` and ``.png``."""
    torch.set_num_threads(args.threads)
    path = args.out / "hops.json"
    settings = {"threads": args.threads, "epochs": args.epochs, "patience": PATIENCE, "quick": args.quick}
    results = environment(settings)
    results = load_results(path, results) if args.resume and path.exists() else results | {"models": {}}
    data = random_graph() if args.quick else load_planetoid("Cora", args.data)
    # As PyG's NormalizeFeatures: rows of the bag of words sum to 1.
    data.x = data.x if args.quick else data.x / data.x.sum(dim=1, keepdim=True).clamp_min(1)
    graph = Graph(data)

    def keep() -> None:
        save(path, results)

    for model in tqdm(MODELS, desc="models"):
        entry = results["models"].setdefault(model, {"tuning": {}, "seeds": {}})
        entry["config"] = tune(graph, model, entry["tuning"], keep, args)
        for seed in tqdm(range(args.seeds), desc=f"{model}, seeds", leave=False):
            if str(seed) not in entry["seeds"]:
                entry["seeds"][str(seed)] = train(graph, model, entry["config"], seed, args.epochs)
                keep()
    results["paired"] = {many: paired(results, many, one) for many, one in PAIRS.items()}
    keep()
    print(write_report(results, args.out))
    return results


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of Planetoid's raw files")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, from 0 (default 10)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"epochs at most (default {EPOCHS})")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--quick", action="store_true", help="a tiny graph, two configurations each")
    parser.add_argument("--resume", action="store_true", help="keep what the results in --out already hold")
    args = parser.parse_args(argv)
    if min(args.seeds, args.epochs, args.threads) < 1:
        parser.error("--seeds, --epochs and --threads must be at least 1")
    if not (args.data or args.quick):
        parser.error("--data is missing; it is the folder of Planetoid's raw files (ind.cora.*)")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    start(parse(argv), run)


if __name__ == "__main__":
    main()
