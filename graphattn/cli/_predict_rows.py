"""What ``graphattn predict`` writes: a row for each node, graph or pair, and a short summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphattn.cli._predict_read import Source
from graphattn.datasets.metrics import LOWER_IS_BETTER

_BLOCK = 1 << 14


@dataclass(frozen=True)
class Rows:
    """A table and what is said of it.

    Args:
        what: What the rows are.
        header: Names of the columns.
        cells: The rows, made as they are written.
        summary: Lines for the reader of the terminal.
    """

    what: str
    header: list[str]
    cells: Iterable[list[Any]]
    summary: list[str]


def of_nodes_or_graphs(out: Tensor, source: Source, config: Mapping[str, Any]) -> Rows:
    """Make the table of classes or values.

    Args:
        out: Output of the network, a row for each node or graph.
        source: What was predicted.
        config: Config of the checkpoint, which tells what the columns of the output are.
    """
    what, ids = _names(out, source)
    if config["classes"] is not None:
        classes = list(config["classes"])
        probabilities = out.softmax(dim=1)
        label = probabilities.argmax(dim=1)
        header = ["id", "prediction", *(f"probability_{name}" for name in classes)]
        counts = label.bincount(minlength=len(classes)).tolist()
        cells = _cells(ids, [classes[number] for number in label.tolist()], probabilities)
        return Rows(what, header, cells, _listed(zip(classes, counts, strict=True)))
    if config["metric"] in LOWER_IS_BETTER:
        header = ["id", *_columns("value", out.size(1))]
        summary = [
            f"{name}: {column.min():.4g} to {column.max():.4g}, on average {column.mean():.4g}"
            for name, column in zip(header[1:], out.unbind(1), strict=True)
        ]
        return Rows(what, header, _cells(ids, None, out), summary)
    probabilities = out.sigmoid()
    header = ["id", *_columns("probability", out.size(1))]
    counts = (probabilities > 0.5).sum(dim=0).tolist()
    summary = [f"{name} above 0.5: {count}" for name, count in zip(header[1:], counts, strict=True)]
    return Rows(what, header, _cells(ids, None, probabilities), summary)


def of_pairs(out: Tensor, source: Source, pairs: Tensor) -> Rows:
    """Make the table of scores of pairs.

    Args:
        out: Score of each pair.
        source: The graph.
        pairs: Numbers of the nodes of each pair.
    """
    ids: Sequence[Any] = source.ids or range(int(source.graphs[0].num_nodes or 0))
    probabilities = out.sigmoid()
    cells = (
        [ids[i], ids[j], f"{score:.6g}", f"{probability:.6g}"]
        for (i, j), score, probability in zip(pairs.t().tolist(), out.tolist(), probabilities.tolist(), strict=True)
    )
    above = int((probabilities > 0.5).sum())
    return Rows("pairs", ["source", "target", "score", "probability"], cells, [f"probability above 0.5: {above}"])


def _names(out: Tensor, source: Source) -> tuple[str, Iterable[Any]]:
    """Say what the rows of an output are and name each."""
    if not source.many:
        return "nodes", source.ids or range(len(out))
    if len(out) == len(source.graphs):
        return "graphs", range(len(out))
    sizes = [int(graph.num_nodes or 0) for graph in source.graphs]
    return "nodes of graphs", (f"{graph}:{node}" for graph, size in enumerate(sizes) for node in range(size))


def _columns(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{number}" for number in range(count)]


def _cells(ids: Iterable[Any], labels: Sequence[str] | None, numbers: Tensor) -> Iterator[list[Any]]:
    rows = (row for block in numbers.split(_BLOCK) for row in block.tolist())
    for place, (name, row) in enumerate(zip(ids, rows, strict=True)):
        yield [name, *([] if labels is None else [labels[place]]), *(f"{number:.6g}" for number in row)]


def _listed(counts: Iterable[tuple[str, int]]) -> list[str]:
    """Line up classes and how often each was predicted."""
    pairs = list(counts)
    width = max(len(name) for name, _ in pairs)
    return [f"{name:<{width}}  {count:>8}" for name, count in pairs]
