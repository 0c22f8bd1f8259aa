"""Tasks: data together with its split, its metric and what may be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.datasets._checks import (
    check_edges,
    check_graph,
    check_labels,
    check_links,
    check_parts,
    check_split,
)
from graphattn.datasets.metrics import LOWER_IS_BETTER, METRICS, links

Evaluator = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Task:
    """What tasks of every kind have."""

    name: str
    split: Mapping[str, Tensor]
    split_name: str
    metric: str
    licence: str
    evaluator: Evaluator | None = field(default=None, repr=False)
    transform: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of the metric is better."""
        return self.metric not in LOWER_IS_BETTER

    def _check_metric(self, metrics: Iterable[str] = METRICS) -> None:
        if self.evaluator is None and self.metric not in metrics:
            known = ", ".join(metrics)
            raise ValueError(f"metric of {self.name} is {self.metric!r}; expected one of {known}, or an evaluator")

    def _check_part(self, which: str) -> Tensor:
        if which not in self.split:
            raise ValueError(f"which is {which!r}; expected one of {', '.join(map(repr, self.split))}")
        return self.split[which]

    def _rows(self, prediction: Tensor | np.ndarray, rows: int, which: str, how: str) -> Tensor:
        """Return a prediction on the CPU, once it has the rows of a part and no NaN."""
        scores = torch.as_tensor(prediction).detach().cpu()
        if scores.dim() == 0 or len(scores) != rows:
            raise ValueError(
                f"prediction has shape {tuple(scores.shape)}, but {which!r} of {self.name} has {rows} rows; {how}"
            )
        if not scores.is_floating_point():
            return scores
        if bool(torch.isnan(scores).any()):
            raise ValueError(f"prediction for {which!r} of {self.name} holds NaN; expected numbers")
        return scores if scores.dtype == torch.float64 else scores.float()


@dataclass(frozen=True, eq=False, kw_only=True)
class _Labelled(_Task):
    """What tasks with a target per row share."""

    num_classes: int | None = None
    classes: tuple[str, ...] | None = None

    def _check_classes(self) -> None:
        """Let classes without a name have their number as one."""
        single = self.num_classes is not None and self.target("train").dim() == 1
        if self.classes is None and single:
            object.__setattr__(self, "classes", tuple(map(str, range(self.num_classes or 0))))
        elif self.classes is not None and (not single or len(self.classes) != self.num_classes):
            expected = f"{self.num_classes} names" if single else "None where rows are in no class"
            raise ValueError(f"classes of {self.name} are {self.classes!r}; expected {expected}")

    def target(self, which: str = "test") -> Tensor:
        """Return the targets of a part of the split, in its order.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
        """
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        """Width of the output that a network needs: a score per class, or one per target."""
        target = self.target("train")
        if self.num_classes is not None and target.dim() == 1:
            return self.num_classes
        return target.size(1) if target.dim() == 2 else 1

    def evaluate(self, prediction: Tensor | np.ndarray, which: str = "test") -> float:
        """Score predictions by the metric of the task.

        Args:
            prediction: One row for each target of the part, in its order: scores ``[n, out_channels]``, or labels
                ``[n]`` where the metric compares classes.
            which: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The value of the metric.

        Raises:
            ValueError: If the rows do not match or a score is NaN.
            ImportError: If the metric is OGB's and ogb is not installed.
        """
        target = self.target(which)
        how = f"pass the rows of task.split[{which!r}], in its order"
        scores = self._rows(prediction, len(target), which, how)
        return (self.evaluator or METRICS[self.metric])(scores, target.cpu())


@dataclass(frozen=True, eq=False, kw_only=True)
class NodeTask(_Labelled):
    """Predict a property of the nodes of one graph.

    Args:
        name: Name of the set.
        data: The graph, with a label or targets for each node in ``y``.
        split: Ids, or masks, of the nodes of ``"train"``, ``"val"`` and ``"test"``; kept as ids.
        split_name: Which split of the set this is; it belongs beside every number that is reported.
        metric: Name of the metric.
        licence: What the source states about its use.
        num_classes: Number of classes; ``None`` in a regression.
        classes: Names of the classes, by default their numbers; ``None`` where a row has several targets, or in a
            regression.
        evaluator: Computes the metric of ``(prediction, target)``; the metric of that name by default.
        transform: What the graphs went through since they were loaded, as :func:`~graphattn.datasets.transform`
            records it: arguments by name of the transform.

    Raises:
        ValueError: If the split is empty, leaks or names nodes that are not there, a label of the split is no class,
            or a feature is not finite.

    Example:
        >>> ring = Data(x=torch.eye(4), y=torch.tensor([0, 1, 0, 1]),
        ...             edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))
        >>> split = {"train": torch.tensor([0, 1]), "val": torch.tensor([2]), "test": torch.tensor([3])}
        >>> task = NodeTask(name="ring", data=ring, split=split, split_name="own", metric="accuracy",
        ...                 licence="public domain", num_classes=2)
        >>> task.evaluate(torch.tensor([[0.2, 0.8]]), "test")
        1.0
    """

    data: Data

    def __post_init__(self) -> None:
        self._check_metric()
        count = int(self.data.num_nodes or 0)
        object.__setattr__(self, "split", check_split(self.name, self.split, count, "node"))
        y = self.data.y
        if not isinstance(y, Tensor) or len(y) != count:
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"y of {self.name} is {found}, but there are {count} nodes; expected a label for each")
        check_graph(self.name, self.data)
        check_labels(self.name, y[torch.cat(list(self.split.values()))], self.num_classes)
        self._check_classes()

    @property
    def num_features(self) -> int:
        """Width of ``data.x``; 0 without features."""
        return self.data.num_node_features

    def target(self, which: str = "test") -> Tensor:
        """Return the targets of a part of the split, in its order.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
        """
        ids = self._check_part(which)
        return self.data.y[ids]


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphTask(_Labelled):
    """Predict a property of graphs, or of the nodes of many graphs.

    Args:
        name: Name of the set.
        graphs: The graphs. Their ``y`` has one row for each graph, or one for each node.
        split: Ids, or masks, of the graphs of ``"train"``, ``"val"`` and ``"test"``; kept as ids.
        split_name: Which split of the set this is; it belongs beside every number that is reported.
        metric: Name of the metric.
        licence: What the source states about its use.
        num_classes: Number of classes; ``None`` in a regression.
        classes: Names of the classes, by default their numbers; ``None`` where a row has several targets, or in a
            regression.
        evaluator: Computes the metric of ``(prediction, target)``; the metric of that name by default.
        transform: What the graphs went through since they were loaded, as :func:`~graphattn.datasets.transform`
            records it: arguments by name of the transform.

    Raises:
        ValueError: If the split is empty, leaks or names graphs that are not there, a label of the split is no class,
            or a feature is not finite.

    Example:
        >>> graphs = [Data(x=torch.ones(2, 3), y=torch.tensor([k % 2])) for k in range(4)]
        >>> split = {"train": torch.tensor([0, 1]), "val": torch.tensor([2]), "test": torch.tensor([3])}
        >>> task = GraphTask(name="pairs", graphs=graphs, split=split, split_name="own", metric="accuracy",
        ...                  licence="public domain", num_classes=2)
        >>> task.evaluate(torch.tensor([1]), "test")
        1.0
    """

    graphs: Sequence[Data]

    def __post_init__(self) -> None:
        self._check_metric()
        object.__setattr__(self, "split", check_split(self.name, self.split, len(self.graphs), "graph"))
        for number, graph in enumerate(self.graphs):
            if not isinstance(graph.y, Tensor):
                raise ValueError(f"graph {number} of {self.name} has no y; expected its target")
            check_graph(self.name, graph, number)
        for part in self.split:
            check_labels(self.name, self.target(part), self.num_classes)
        self._check_classes()

    @property
    def num_features(self) -> int:
        """Width of ``x`` of the graphs; 0 without features."""
        return self.graphs[0].num_node_features

    def target(self, which: str = "test") -> Tensor:
        """Return the targets of the graphs of a part of the split, in its order, one below the other.

        Args:
            which: ``"train"``, ``"val"`` or ``"test"``.
        """
        ids = self._check_part(which)
        return torch.cat([torch.atleast_1d(self.graphs[i].y) for i in ids.tolist()])


@dataclass(frozen=True, eq=False, kw_only=True)
class LinkTask(_Task):
    """Predict which pairs of nodes of a graph are linked.

    Args:
        name: Name of the set.
        data: The graph that a model sees.
        split: True links ``[2, E]`` of ``"train"``, ``"val"`` and ``"test"``.
        negatives: Pairs that are not linked, of ``"val"`` and ``"test"`` at least: ``[2, M]``, the same for all true
            links; or ``[2, E, M]``, others for each.
        split_name: Which split of the set this is; it belongs beside every number that is reported.
        metric: ``"roc_auc"`` or ``"average_precision"``, or what ``evaluator`` computes.
        licence: What the source states about its use.
        repeats: Whether a pair may come back, as in sets that are split by time, instead of being a leak.
        evaluator: Computes the metric of ``(positive, negative)`` scores; by default the metric of that name.
        transform: What the graphs went through since they were loaded, as :func:`~graphattn.datasets.transform`
            records it: arguments by name of the transform.

    Raises:
        ValueError: If a part is empty, a node is not there, a link of ``"val"`` or ``"test"`` is in another part or in
            the graph, or a feature is not finite.

    Example:
        >>> path = Data(x=torch.eye(4), edge_index=torch.tensor([[0, 1], [1, 0]]))
        >>> split = {"train": torch.tensor([[0], [1]]), "val": torch.tensor([[1], [2]]),
        ...          "test": torch.tensor([[2], [3]])}
        >>> negatives = {"val": torch.tensor([[0], [2]]), "test": torch.tensor([[0, 1], [3, 3]])}
        >>> task = LinkTask(name="path", data=path, split=split, negatives=negatives, split_name="own",
        ...                 metric="roc_auc", licence="public domain")
        >>> task.evaluate((torch.tensor([0.9]), torch.tensor([0.1, 0.2])), "test")
        1.0
    """

    data: Data
    negatives: Mapping[str, Tensor]
    repeats: bool = False

    def __post_init__(self) -> None:
        self._check_metric(("roc_auc", "average_precision"))
        check_parts(self.name, self.split)
        count = int(self.data.num_nodes or 0)
        check_graph(self.name, self.data)
        for part, edges in self.split.items():
            if edges.dim() != 2 or len(edges) != 2:
                raise ValueError(f"split {part!r} of {self.name} has shape {tuple(edges.shape)}; expected (2, E)")
            if not edges.size(1):
                raise ValueError(f"split {part!r} of {self.name} is empty; expected at least one link")
            check_edges(self.name, edges, count, f"split {part!r}")
        for part in ("val", "test"):
            if part not in self.negatives or not self.negatives[part].numel():
                raise ValueError(f"negatives of {self.name} have no {part!r}; expected pairs that are not linked")
            check_edges(self.name, self.negatives[part], count, f"negatives of {part!r}")
        if not self.repeats:
            check_links(self.name, self.split, self.data.edge_index, count)

    @property
    def num_features(self) -> int:
        """Width of ``data.x``; 0 without features."""
        return self.data.num_node_features

    def evaluate(self, prediction: tuple[Tensor | np.ndarray, Tensor | np.ndarray], which: str = "test") -> float:
        """Score predictions by the metric of the task.

        Args:
            prediction: Scores of the true links of the part, ``[E]``, and of its negatives, ``[M]`` or ``[E, M]``.
            which: ``"val"`` or ``"test"``, or ``"train"`` if it has negatives.

        Returns:
            The value of the metric.

        Raises:
            ValueError: If the scores do not match the links or one is NaN.
            ImportError: If the metric is OGB's and ogb is not installed.
        """
        edges = self._check_part(which)
        if which not in self.negatives:
            raise ValueError(f"which is {which!r}, but negatives has only {', '.join(map(repr, self.negatives))}")
        if not isinstance(prediction, tuple) or len(prediction) != 2:
            raise TypeError(f"prediction is {type(prediction).__name__}; expected (scores of links, of negatives)")
        how = f"pass the scores of task.split[{which!r}] and of task.negatives[{which!r}]"
        positive = self._rows(prediction[0], edges.size(1), which, how)
        expected = self.negatives[which].shape[1:]
        negative = self._rows(prediction[1], expected[0], which, how)
        if negative.shape != expected:
            raise ValueError(f"prediction has scores {tuple(negative.shape)}, negatives are {tuple(expected)}; {how}")
        return (self.evaluator or links(self.metric))(positive, negative)


Task = NodeTask | GraphTask | LinkTask
