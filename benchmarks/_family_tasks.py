"""What ``attention_family.py`` classifies: a match far away in a tree, spoken vowels, and digits cut into patches."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch_geometric.data import Batch, Data

from graphattn.affinity import SparseAffinity, expander, grid, union, window
from graphattn.transforms.patches import patches_to_graph
from graphattn.transforms.tokens import tokens_to_graph

DEPTH, QUICK_DEPTH = 3, 2
TREES, QUICK_TREES = (4_000, 1_000), (64, 32)  # to train on, to test on
PATCH = 2  # pixels, of the 8 x 8 of a digit
QUICK_DIGITS = 200

Pattern = Callable[..., SparseAffinity]


@dataclass(frozen=True)
class Split:
    """Samples, as a list of node features or a tensor of images, and their classes."""

    inputs: Any
    labels: Tensor

    def take(self, rows: Tensor) -> Split:
        """Return some of the samples."""
        inputs = self.inputs[rows] if isinstance(self.inputs, Tensor) else [self.inputs[row] for row in rows.tolist()]
        return Split(inputs, self.labels[rows])


@dataclass(frozen=True)
class Task:
    """Graphs to classify.

    Args:
        train: Samples to train on.
        test: Samples to test on.
        to_graphs: Makes a batch of graphs from inputs and the pattern that says which nodes attend to which.
        patterns: The patterns that the task is tried with, by name.
        num_classes: Number of classes.
        max_nodes: Nodes of the largest graph.
        readout: What the class is read from: ``"root"``, the first node; ``"mean"``; or ``"flatten"``, all nodes side
            by side.
    """

    train: Split
    test: Split
    to_graphs: Callable[[Any, Pattern], Batch]
    patterns: Mapping[str, Pattern]
    num_classes: int
    max_nodes: int
    readout: str

    def graphs(self, split: Split, pattern: str | None) -> list[Data]:
        """Make the graphs of samples; without a pattern every node has a loop and no other edge."""
        graphs = self.to_graphs(split.inputs, _loops if pattern is None else self.patterns[pattern]).to_data_list()
        for graph, label in zip(graphs, split.labels, strict=True):
            graph.y = label
        return graphs


def _loops(*size: int) -> SparseAffinity:
    return window(math.prod(size), 0)


def make_long_range(quick: bool) -> Task:
    """Draw the trees of Alon and Yahav ("On the Bottleneck of Graph Neural Networks", 2021).

    Every leaf of a complete binary tree has a key and a value, the root the key of one leaf: its class is the value
    there.
    """
    depth = QUICK_DEPTH if quick else DEPTH
    train, test = (draw_trees(count, depth, seed) for seed, count in enumerate(QUICK_TREES if quick else TREES))
    patterns = {
        "edges": tree,
        "window": functools.partial(window, width=2),
        "expander": lambda n: union(tree(n), expand(n)),
    }
    return Task(train, test, tokens_to_graph, patterns, 2**depth, 2 ** (depth + 1) - 1, "root")


def draw_trees(count: int, depth: int, seed: int) -> Split:
    """Draw the features (key, value) of trees whose node i has the children 2i + 1 and 2i + 2, and their classes."""
    leaves, generator = 2**depth, torch.Generator().manual_seed(seed)
    key, value = (torch.rand(count, leaves, generator=generator).argsort(dim=1) for _ in range(2))
    asked = torch.randint(leaves, (count, 1), generator=generator)
    tree_of = torch.arange(count).unsqueeze(1)
    leaf = torch.arange(leaves - 1, 2 * leaves - 1)
    x = torch.zeros(count, 2 * leaves - 1, 3 * leaves)
    x[tree_of, leaf, key] = 1.0
    x[tree_of, leaf, leaves + value] = 1.0
    x[tree_of, 0, 2 * leaves + key.gather(1, asked)] = 1.0
    return Split(list(x), value.gather(1, asked).squeeze(1))


@functools.cache
def tree(num_nodes: int) -> SparseAffinity:
    """Join every node of a complete binary tree with its parent, both ways, and with itself."""
    child = torch.arange(1, num_nodes)
    edge_index = torch.stack([child, (child - 1) // 2])
    both = SparseAffinity(torch.cat([edge_index, edge_index.flip(0)], dim=1), None, (num_nodes, num_nodes))
    return union(window(num_nodes, 0), both)


@functools.cache
def expand(num_nodes: int) -> SparseAffinity:
    """Join every node with itself and at random with about six others, the same in every graph of a size."""
    return union(window(num_nodes, 0), expander(num_nodes, 3, generator=torch.Generator().manual_seed(num_nodes)))


def make_vowels(quick: bool) -> Task:
    """Read JapaneseVowels: 12 coefficients of the speech of 9 men in 7 to 29 steps, 270 to train on and 370 to test."""
    if quick:
        parts = [_draw_sequences(count, seed) for seed, count in enumerate((45, 18))]
    else:
        parts = [read_ts(vowels_folder() / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST")]
    steps = torch.cat(parts[0].inputs)
    mean, std = steps.mean(0), steps.std(0)
    train, test = (Split([(x - mean) / std for x in part.inputs], part.labels) for part in parts)
    patterns = {"window": functools.partial(window, width=4), "expander": expand}
    longest = max(len(x) for x in (*train.inputs, *test.inputs))
    return Task(train, test, tokens_to_graph, patterns, int(train.labels.max()) + 1, longest, "flatten")


def vowels_folder() -> Path:
    """Find the files inside the package ``aeon``, which is not imported."""
    package = importlib.util.find_spec("aeon")
    if package is None or package.origin is None:
        raise SystemExit("JapaneseVowels comes with the package aeon, which is missing; pip install --no-deps aeon")
    return Path(package.origin).parent / "datasets" / "data" / "JapaneseVowels"


def read_ts(path: Path) -> Split:
    """Read series of unequal length: a line each, channels separated by colons, the class last."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    header = next(line.split() for line in lines if line.startswith("@classLabel"))
    classes = header[2:]
    inputs, labels = [], []
    for line in filter(None, lines[lines.index("@data") + 1 :]):
        *channels, label = line.split(":")
        inputs.append(torch.tensor([[float(value) for value in channel.split(",")] for channel in channels]).t())
        labels.append(classes.index(label))
    return Split([x.contiguous() for x in inputs], torch.tensor(labels))


def _draw_sequences(count: int, seed: int) -> Split:
    """Draw noise around the level of its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 9
    level = torch.eye(12)[labels]
    lengths = torch.randint(4, 9, (count,), generator=generator).tolist()
    noisy = [row + 0.1 * torch.randn(n, 12, generator=generator) for row, n in zip(level, lengths, strict=True)]
    return Split(noisy, labels)


def make_digits(quick: bool, patch_size: int = PATCH) -> Task:
    """Cut the digits of scikit-learn into patches; a quarter of them is tested on."""
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(data.target)
    chosen = torch.arange(QUICK_DIGITS if quick else len(labels))
    train, test = train_test_split(chosen, test_size=0.25, stratify=labels[chosen], random_state=0)
    whole = Split(images, labels)
    patterns = {"window": functools.partial(grid, diagonal=True), "expander": lambda rows, cols: expand(rows * cols)}
    nodes = images[0].numel() // patch_size**2

    def cut(chosen: Tensor, pattern: Pattern) -> Batch:
        return patches_to_graph(chosen, patch_size, pattern)

    return Task(whole.take(train), whole.take(test), cut, patterns, 10, nodes, "mean")


TASKS: Mapping[str, Callable[[bool], Task]] = {
    "long_range": make_long_range,
    "vowels": make_vowels,
    "digits": make_digits,
}
