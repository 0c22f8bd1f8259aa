"""How a network sees a stream of events: batch after batch in the order of time, each predicted before it is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import TemporalData

from graphattn.datasets import EventTask
from graphattn.models import EventNetwork
from graphattn.training._caller import inner
from graphattn.training._pasts import Graph, LastEvents, Pairs, Past


class Events:
    """The events of a task, each beside the same source at the same time with another destination.

    Times count from the first event. Negatives of the training are drawn anew in each epoch, among the nodes that it
    has seen; those of validation and test are the task's.

    Args:
        task: The task.
        model: The network, or what a ``Fabric`` has made of it.
        device: Where it is.
        num_neighbors: Events of a node in each hop.
        batch_size: Events of a batch, in training and in predictions.
    """

    def __init__(
        self,
        task: EventTask,
        model: nn.Module,
        device: torch.device,
        num_neighbors: Sequence[int],
        batch_size: int,
    ) -> None:
        network = inner(model)
        if not isinstance(network, EventNetwork):
            raise TypeError(f"model is a {type(network).__name__}; {task.name} needs an EventNetwork")
        self.task, self.model, self.network, self.device = task, model, network, device
        self.batch_size = batch_size
        everything = torch.arange(task.data.num_events)
        self.train, self.stream = self._take(task.split["train"]), self._take(everything)
        self.targets = {part: task.data.y[ids] for part, ids in task.split.items()} if task.kind == "node" else {}
        met = self.train.dst if task.bipartite else torch.cat([self.train.src, self.train.dst])
        self.choices = met.unique()
        self.seen = self._make_past(self.train, num_neighbors)
        self.past = self.seen if isinstance(self.seen, Graph) else self._make_past(self.stream, num_neighbors)

    @property
    def num_samples(self) -> int:
        """Number of training events."""
        return self.train.num_events

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of some training events, which come in their order, and let them be known from then on."""
        if int(rows[0]) == 0:
            self.network.reset_state()
            self.seen.rewind(0)
        if self.targets:
            loss = self._label_loss(self._labels(self.seen, self.train, rows), self.targets["train"][rows])
        else:
            negatives = self.choices[torch.randint(len(self.choices), rows.shape)]
            loss = _link_loss(*self._links(self.seen, self.train, rows, negatives))
        self._advance(self.seen, self.train, rows)
        return {"loss": loss}

    def weight(self, rows: Tensor) -> int:
        """Return of how many events the losses are means."""
        return len(rows)

    def evaluate(self, part: str) -> dict[str, float]:
        """Predict the events of a part that follows on the one before, and score that.

        Returns:
            The ``"score"``; that of ``"inductive"`` events, if the task tells links and has such; and of ``"val"`` the
            ``"val_loss"``.
        """
        task = self.task
        if self.targets:
            prediction = self._predict_labels(part)
            found = {"score": task.evaluate(prediction, None, part)}
            loss = self._label_loss(prediction, self.targets[part])
        else:
            positive, negative = self._predict_links(part)
            found = {"score": task.evaluate(positive, negative, part)}
            if bool(task.inductive(part).any()):
                found["inductive"] = task.evaluate(positive, negative, part, inductive=True)
            loss = _link_loss(positive, negative[task.negatives(part) >= 0])
        return found | {"val_loss": loss.item()} if part == "val" else found

    def _predict_links(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the scores of the events of a part, and of their negatives."""
        scores = []
        negatives = self.task.negatives(part).clamp(min=0)
        for rows, at in self._batches(part):
            scores.append(self._links(self.past, self.stream, rows, negatives[at]))
        positive, negative = (torch.cat(each).cpu() for each in zip(*scores, strict=True))
        return self._finite(positive, part), self._finite(negative, part)

    def _predict_labels(self, part: str) -> Tensor:
        """Return the output for the events of a part."""
        outputs = []
        for rows, _ in self._batches(part):
            outputs.append(self._labels(self.past, self.stream, rows))
        return self._finite(torch.cat(outputs).cpu(), part)

    def _batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a part, as events and as places in the part, each once all before it is known."""
        ids = self.task.split[part]
        known = int(ids[0])
        self.past.rewind(known)
        for at in torch.arange(len(ids)).split(self.batch_size):
            yield ids[at], at
            end = int(ids[at[-1]]) + 1
            self._advance(self.past, self.stream, torch.arange(known, end))
            known = end

    def _links(self, past: Past, stream: TemporalData, rows: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of some events, and of as many or more negatives for each."""
        src, dst, t = stream.src[rows], stream.dst[rows], stream.t[rows]
        each = negatives.numel() // len(rows)
        nodes = torch.cat([src, dst, negatives.flatten()])
        sample = past.sample(nodes, torch.cat([t, t, t.repeat_interleave(each)])).to(self.device)
        source, destination, negative = sample.input_row.split([len(rows), len(rows), each * len(rows)])
        pairs = torch.cat([source, source.repeat_interleave(each)]), torch.cat([destination, negative])
        scores = self.model(sample, *pairs)
        return scores[: len(rows)], scores[len(rows) :].view(negatives.shape)

    def _labels(self, past: Past, stream: TemporalData, rows: Tensor) -> Tensor:
        """Return the output for the sources of some events."""
        sample = past.sample(stream.src[rows], stream.t[rows]).to(self.device)
        out: Tensor = self.model(sample, sample.input_row)
        if out.size(1) != self.task.out_channels:
            raise ValueError(
                f"model returns {tuple(out.shape)}, but {self.task.name} needs [rows, {self.task.out_channels}]; set "
                "out_channels"
            )
        return out

    def _label_loss(self, out: Tensor, target: Tensor) -> Tensor:
        target = target.to(out.device)
        if out.size(1) > 1:
            return F.cross_entropy(out, target.long())
        if self.task.num_classes is None:
            return F.mse_loss(out.squeeze(1), target.to(out.dtype))
        return F.binary_cross_entropy_with_logits(out.squeeze(1), target.to(out.dtype))

    def _advance(self, past: Past, stream: TemporalData, rows: Tensor) -> None:
        """Let events be known."""
        happened = (each[rows].to(self.device) for each in (stream.src, stream.dst, stream.t, stream.msg))
        self.network.update_state(*happened)
        past.advance(rows)

    def _make_past(self, stream: TemporalData, num_neighbors: Sequence[int]) -> Past:
        num_nodes = self.task.num_nodes
        if self.network.past == "pairs":
            return Pairs(stream, num_nodes, num_neighbors)
        if self.network.past == "last":
            return LastEvents(stream, num_nodes, num_neighbors[0], self.batch_size)
        return Graph(stream, num_nodes)

    def _take(self, ids: Tensor) -> TemporalData:
        data = self.task.data
        return TemporalData(src=data.src[ids], dst=data.dst[ids], t=data.t[ids] - data.t[0], msg=data.msg[ids])

    def _finite(self, out: Tensor, part: str) -> Tensor:
        if not bool(out.isfinite().all()):
            raise FloatingPointError(f"the output for {part!r} of {self.task.name} is not finite; lower lr")
        return out


def _link_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean cross entropy of events plus that of what did not happen."""
    return F.softplus(-positive).mean() + F.softplus(negative).mean()
