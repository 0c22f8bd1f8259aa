"""How a network sees a task: the loss of some training samples, and predictions for a part of the split."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphattn.affinity import Affinity
from graphattn.datasets import GraphTask, LinkTask, NodeTask
from graphattn.datasets.tasks import Task
from graphattn.models import mask_labels
from graphattn.models.network import Network
from graphattn.training.sampling import NeighborSampler

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(task: NodeTask | GraphTask) -> Loss:
    """Return the loss of ``(output, target)`` that goes with a task.

    It is the cross entropy of classes; that of each target by itself where a row has several, of which NaN is left out;
    and in a regression the absolute error if that is the metric, the squared error otherwise.
    """
    if task.num_classes is None:
        distance = F.l1_loss if task.metric == "mae" else F.mse_loss
        return lambda out, target: distance(out, target.to(out.dtype).reshape(out.shape))
    if task.target("train").dim() == 1:
        return lambda out, target: F.cross_entropy(out, target.long())
    return _binary


def _binary(out: Tensor, target: Tensor) -> Tensor:
    target = target.to(out.dtype)
    known = ~torch.isnan(target)
    total = F.binary_cross_entropy_with_logits(out[known], target[known], reduction="sum")
    return total / known.sum().clamp(min=1)


class WholeGraph:
    """The nodes of a task, all of whose graph the network sees at once.

    Args:
        task: The task.
        model: The network; the names of what it takes are those of its ``forward``.
        device: Where it is.
    """

    def __init__(self, task: NodeTask, model: nn.Module, device: torch.device) -> None:
        self.task, self.device = task, device
        self.loss = make_loss(task)
        self.call = _caller(task, model)
        self.data = copy.copy(task.data).to(device)
        self.edges = _edges(self.data)
        self.ids = {part: ids.to(device) for part, ids in task.split.items()}

    @property
    def num_samples(self) -> int:
        """Number of training nodes."""
        return len(self.ids["train"])

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of some training nodes, numbered in the order of the split."""
        ids = self.ids["train"][rows.to(self.device)]
        return {"loss": self.loss(self.call(self.data, self.edges)[ids], self.data.y[ids])}

    def predict(self, part: str) -> Tensor:
        """Return the output for the nodes of a part."""
        return self.call(self.data, self.edges)[self.ids[part]]


class KnownLabels(WholeGraph):
    """The nodes of a task, seen at once by a network that takes the labels that are known."""

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Show half of the labels of some training nodes, drawn at random, and return the loss of the others."""
        ids, y = self.ids["train"][rows.to(self.device)], self.data.y
        shown, hidden = mask_labels(y, ids)
        if not len(hidden):
            shown, hidden = mask_labels(y, ids, 1.0)
        return {"loss": self.loss(self.call(self.data, self.edges, labels=shown)[hidden], y[hidden])}

    def predict(self, part: str) -> Tensor:
        """Return the output for the nodes of a part, given all training labels."""
        shown = mask_labels(self.data.y, self.ids["train"], 0.0)[0]
        return self.call(self.data, self.edges, labels=shown)[self.ids[part]]


class SampledNodes(WholeGraph):
    """The nodes of a task; in training the network sees sampled surroundings of a few, otherwise the whole graph."""

    def __init__(self, task: NodeTask, model: nn.Module, device: torch.device, num_neighbors: Sequence[int]) -> None:
        super().__init__(task, model, device)
        self.sampler = NeighborSampler(task.data, num_neighbors)

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of some training nodes, numbered in the order of the split."""
        batch = self.sampler.sample(self.task.split["train"][rows]).to(self.device)
        return {"loss": self.loss(self.call(batch, _edges(batch))[: batch.batch_size], batch.y[: batch.batch_size])}


class GraphBatches:
    """The graphs of a task, several side by side as one.

    Args:
        task: The task.
        model: The network.
        device: Where it is.
        batch_size: Graphs that are predicted at a time.
    """

    def __init__(self, task: GraphTask, model: nn.Module, device: torch.device, batch_size: int) -> None:
        self.task, self.device, self.batch_size = task, device, batch_size
        self.loss = make_loss(task)
        self.call = _caller(task, model)

    @property
    def num_samples(self) -> int:
        """Number of training graphs."""
        return len(self.task.split["train"])

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of some training graphs, numbered in the order of the split."""
        batch = self._batch(self.task.split["train"][rows])
        return {"loss": self.loss(self.call(batch, _edges(batch)), batch.y)}

    def predict(self, part: str) -> Tensor:
        """Return the output for the graphs of a part."""
        batches = map(self._batch, self.task.split[part].split(self.batch_size))
        return torch.cat([self.call(batch, _edges(batch)) for batch in batches])

    def _batch(self, ids: Tensor) -> Batch:
        return Batch.from_data_list([self.task.graphs[i] for i in ids.tolist()]).to(self.device)


class Links:
    """The links of a task, each beside a random pair of nodes; the network sees the whole graph.

    Args:
        task: The task.
        model: The network, which takes ``pairs``.
        device: Where it is.
    """

    def __init__(self, task: LinkTask, model: nn.Module, device: torch.device) -> None:
        self.task, self.device = task, device
        self.call = _caller(task, model)
        self.data = copy.copy(task.data).to(device)
        self.edges = _edges(self.data)
        self.links = task.split["train"].to(device)

    @property
    def num_samples(self) -> int:
        """Number of training links."""
        return self.links.size(1)

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the mean loss of some training links plus that of as many random pairs."""
        links = self.links[:, rows.to(self.device)]
        random = torch.randint(0, int(self.data.num_nodes or 0), links.shape, device=self.device)
        scores = self.call(self.data, self.edges, pairs=torch.cat([links, random], dim=1))
        target = torch.cat([torch.ones_like(scores[: len(rows)]), torch.zeros_like(scores[len(rows) :])])
        return {"loss": 2 * F.binary_cross_entropy_with_logits(scores, target)}

    def predict(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the scores of the links of a part, and of its negatives."""
        links, negatives = self.task.split[part].to(self.device), self.task.negatives[part].to(self.device)
        scores = self.call(self.data, self.edges, pairs=torch.cat([links, negatives.flatten(1)], dim=1))
        return scores[: links.size(1)], scores[links.size(1) :].reshape(negatives.shape[1:])


def takes_labels(model: nn.Module) -> bool:
    """Whether known labels are an input of a network."""
    model = getattr(model, "module", model)
    return isinstance(model, Network) and bool(model.config.get("label_input"))


def _edges(data: Data) -> Any:
    """Return the edges of a graph as a network takes them: with their weights, if they have some."""
    if data.get("edge_weight") is None:
        return data.edge_index
    return Affinity.from_edge_index(data.edge_index, data.edge_weight, data.num_nodes)


def _caller(task: Task, model: nn.Module) -> Callable[..., Tensor]:
    """Return what gives a network the graph, and checks that a score comes back for every output of the task."""
    # A Fabric hides the signature of the network that it wraps.
    takes = inspect.signature(getattr(model, "module", model).forward).parameters
    if isinstance(task, LinkTask) and "pairs" not in takes:
        raise TypeError(f"model takes no pairs, which {task.name} is about; pass a LinkHead over it")
    columns = () if isinstance(task, LinkTask) else (task.out_channels,)

    def call(data: Data, edges: Any, **more: Tensor) -> Tensor:
        if data.x is None:
            raise ValueError(f"the graphs of {task.name} have no x; add features, such as the degrees of the nodes")
        inputs = {name: data[name] for name in ("edge_attr", "pe", "batch") if data.get(name) is not None}
        if "num_graphs" in takes and isinstance(data, Batch):
            inputs["num_graphs"] = data.num_graphs
        out: Tensor = model(x=data.x, edge_index=edges, **inputs, **more)
        if out.shape[1:] != columns:
            shape, needed = tuple(out.shape), ", ".join(["rows", *map(str, columns)])
            raise ValueError(f"model returns {shape}, but {task.name} needs [{needed}]; set out_channels")
        return out

    return call
