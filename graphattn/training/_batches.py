"""How a network sees nodes and graphs: the loss of some training samples, and predictions for a part of the split."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphattn.datasets import GraphTask, NodeTask
from graphattn.models import consistency_loss, mask_labels
from graphattn.training._caller import Caller
from graphattn.training._surroundings import Surroundings
from graphattn.training.consistency import Consistency

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


def num_known(target: Tensor) -> int:
    """Return of how many targets the loss is a mean."""
    return int((~torch.isnan(target)).sum()) if target.is_floating_point() else target.numel()


class WholeGraph:
    """The nodes of a task, all of whose graph the network sees at once.

    Args:
        task: The task.
        model: The network; the names of what it takes are those of its ``forward``.
        device: Where it is.
        consistency: What several runs of the network are to agree on, ``None`` for a single run in a step.
    """

    def __init__(
        self, task: NodeTask, model: nn.Module, device: torch.device, consistency: Consistency | None = None
    ) -> None:
        self.task, self.device, self.consistency = task, device, consistency
        self.loss = make_loss(task)
        self.call = Caller(task, model)
        self.ids = {part: ids.to(device) for part, ids in task.split.items()}

    @cached_property
    def data(self) -> Data:
        """The whole graph, which is moved once it is needed."""
        return self.call.keep(copy.copy(self.task.data).to(self.device))

    @property
    def num_samples(self) -> int:
        """Number of training nodes."""
        return len(self.ids["train"])

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of some training nodes, numbered in the order of the split."""
        return self._losses(self.ids["train"][rows.to(self.device)])

    def weight(self, rows: Tensor) -> int:
        """Return of how many targets the losses of some training nodes are means."""
        return num_known(self.task.data.y[self.task.split["train"][rows]])

    def predict(self, part: str) -> Tensor:
        """Return the output for the nodes of a part."""
        return self.call(self.data)[self.ids[part]]

    def validation_loss(self, prediction: Tensor) -> float:
        """Return the loss of what was predicted for the validation nodes."""
        return self.loss(prediction, self.task.target("val").to(self.device)).item()

    def _losses(self, ids: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the loss of the output for some nodes, and how consistent that for all nodes is."""
        target = self.data.y[ids]
        if self.consistency is None:
            return {"loss": self.loss(self.call(self.data, **inputs)[ids], target)}
        outputs = [self.call(self.data, **inputs) for _ in range(self.consistency.runs)]
        supervised = torch.stack([self.loss(out[ids], target) for out in outputs]).mean()
        inconsistency = consistency_loss(outputs, self.consistency.temperature)
        loss = supervised + self.consistency.weight * inconsistency
        return {"loss": loss, "supervised": supervised, "consistency": inconsistency}


class KnownLabels(WholeGraph):
    """The nodes of a task, seen at once by a network that takes the labels that are known."""

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Show half of the labels of some training nodes, drawn at random, and return the losses of the others."""
        ids, y = self.ids["train"][rows.to(self.device)], self.data.y
        shown, hidden = mask_labels(y, ids)
        if not len(hidden):
            shown, hidden = mask_labels(y, ids, 1.0)
        return self._losses(hidden, labels=shown)

    def predict(self, part: str) -> Tensor:
        """Return the output for the nodes of a part, given all training labels."""
        shown = mask_labels(self.data.y, self.ids["train"], 0.0)[0]
        return self.call(self.data, labels=shown)[self.ids[part]]


class SampledNodes(WholeGraph):
    """The nodes of a task, of a few of which the network sees sampled surroundings.

    Args:
        task: The task.
        model: The network.
        device: Where it is.
        surroundings: What it sees.
    """

    def __init__(self, task: NodeTask, model: nn.Module, device: torch.device, surroundings: Surroundings) -> None:
        super().__init__(task, model, device)
        self.surroundings = surroundings

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of some training nodes, numbered in the order of the split."""
        batch = self.surroundings.train_sampler.sample(self.task.split["train"][rows]).to(self.device)
        return {"loss": self.loss(self.call(batch)[: batch.batch_size], batch.y[: batch.batch_size])}

    def predict(self, part: str) -> Tensor:
        """Return the output for the nodes of a part."""
        sampler = self.surroundings.eval_sampler
        if sampler is None:
            return super().predict(part)
        batches = sampler.batches(self.task.split[part], self.surroundings.batch_size)
        return torch.cat([self.call(batch.to(self.device))[: batch.batch_size] for batch in batches])


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
        self.call = Caller(task, model)

    @property
    def num_samples(self) -> int:
        """Number of training graphs."""
        return len(self.task.split["train"])

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the loss of some training graphs, numbered in the order of the split."""
        batch = self._batch(self.task.split["train"][rows])
        return {"loss": self.loss(self.call(batch), batch.y)}

    def weight(self, rows: Tensor) -> int:
        """Return of how many targets the losses of some training graphs are means."""
        return sum(num_known(self.task.graphs[i].y) for i in self.task.split["train"][rows].tolist())

    def predict(self, part: str) -> Tensor:
        """Return the output for the graphs of a part."""
        batches = map(self._batch, self.task.split[part].split(self.batch_size))
        return torch.cat([self.call(batch) for batch in batches])

    def validation_loss(self, prediction: Tensor) -> float:
        """Return the loss of what was predicted for the validation graphs."""
        return self.loss(prediction, self.task.target("val").to(self.device)).item()

    def _batch(self, ids: Tensor) -> Batch:
        return Batch.from_data_list([self.task.graphs[i] for i in ids.tolist()]).to(self.device)
