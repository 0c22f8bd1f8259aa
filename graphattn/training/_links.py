"""How a network sees links: the loss of some of them beside random pairs, and the scores of a part of the split."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from graphattn.datasets import LinkTask
from graphattn.training._caller import Caller
from graphattn.training._surroundings import Surroundings
from graphattn.training.sampling import NeighborSampler


class Links:
    """The links of a task, each beside a random pair of nodes; the network sees the whole graph.

    Args:
        task: The task.
        model: The network, which takes ``pairs``.
        device: Where it is.
    """

    def __init__(self, task: LinkTask, model: nn.Module, device: torch.device) -> None:
        self.task, self.device = task, device
        self.call = Caller(task, model)

    @cached_property
    def data(self) -> Data:
        """The whole graph, which is moved once it is needed."""
        return self.call.keep(copy.copy(self.task.data).to(self.device))

    @property
    def num_samples(self) -> int:
        """Number of training links."""
        return self.task.split["train"].size(1)

    def losses(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the mean loss of some training links plus that of as many random pairs."""
        links = self.task.split["train"][:, rows].to(self.device)
        random = torch.randint(0, int(self.task.data.num_nodes or 0), links.shape, device=self.device)
        scores = self._train_scores(torch.cat([links, random], dim=1))
        return {"loss": _loss(scores[: len(rows)], scores[len(rows) :])}

    def weight(self, rows: Tensor) -> int:
        """Return of how many links the losses are means."""
        return len(rows)

    def predict(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the scores of the links of a part, and of its negatives."""
        links, negatives = self.task.split[part], self.task.negatives[part]
        scores = self._scores(torch.cat([links, negatives.flatten(1)], dim=1).to(self.device))
        return scores[: links.size(1)], scores[links.size(1) :].reshape(negatives.shape[1:])

    def validation_loss(self, prediction: tuple[Tensor, Tensor]) -> float:
        """Return the loss of what was predicted for the validation links and their negatives."""
        return _loss(*prediction).item()

    def _train_scores(self, pairs: Tensor) -> Tensor:
        return self._scores(pairs)

    def _scores(self, pairs: Tensor) -> Tensor:
        return self.call(self.data, pairs=pairs)


class SampledLinks(Links):
    """The links of a task, of which the network sees the sampled surroundings of their ends.

    Args:
        task: The task.
        model: The network, which takes ``pairs``.
        device: Where it is.
        surroundings: What it sees.
    """

    def __init__(self, task: LinkTask, model: nn.Module, device: torch.device, surroundings: Surroundings) -> None:
        super().__init__(task, model, device)
        self.surroundings = surroundings

    def _train_scores(self, pairs: Tensor) -> Tensor:
        return self._sampled(self.surroundings.train_sampler, pairs)

    def _scores(self, pairs: Tensor) -> Tensor:
        sampler = self.surroundings.eval_sampler
        if sampler is None:
            return super()._scores(pairs)
        blocks = pairs.split(self.surroundings.batch_size, dim=1)
        return torch.cat([self._sampled(sampler, block) for block in blocks])

    def _sampled(self, sampler: NeighborSampler, pairs: Tensor) -> Tensor:
        """Return the scores of pairs that the network gives them among the surroundings of their nodes."""
        nodes, place = pairs.cpu().unique(return_inverse=True)
        return self.call(sampler.sample(nodes).to(self.device), pairs=place.to(self.device))


def _loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean cross entropy of pairs that are linked plus that of pairs that are not."""
    return F.softplus(-positive).mean() + F.softplus(negative).mean()
