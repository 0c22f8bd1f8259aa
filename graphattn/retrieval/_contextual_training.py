"""How the learned re-ranker is trained: features of lists, losses, and the mean precision that picks an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.models import ContextualEncoder
from graphattn.retrieval._anchors import anchor_similarity
from graphattn.retrieval._contextual_data import KnownLists

_CHUNK = 32


def list_features(nodes: Tensor, mask: Tensor, num_anchors: int, *, standardize: bool) -> Tensor:
    """Return similarities ``[B, n, L]`` of all nodes to the first ``L`` that are there; missing ones give 0.

    Args:
        nodes: Vectors ``[B, n, D]``, zero where a node is not there.
        mask: Which nodes are there ``[B, n]``.
        num_anchors: Columns.
        standardize: Whether the similarities of each list are shifted and scaled to mean 0 and deviation 1.
    """
    affinity, anchor = anchor_similarity(nodes, mask, num_anchors)
    if standardize:
        there = mask.unsqueeze(2) & mask.gather(1, anchor).unsqueeze(1)
        count = there.sum((1, 2), keepdim=True).clamp(min=1)
        mean = affinity.sum((1, 2), keepdim=True) / count
        scale = (affinity.square().sum((1, 2), keepdim=True) / count).sqrt()
        affinity = (affinity - mean) * there
        deviation = (affinity.square().sum((1, 2), keepdim=True) / count).sqrt()
        # Similarities that differ by little more than their rounding are not blown up.
        info = torch.finfo(affinity.dtype)
        affinity = affinity / deviation.maximum(info.eps**0.5 * scale).clamp(min=info.tiny)
    return F.pad(affinity, (0, num_anchors - affinity.size(2)))


def cosines(codes: Tensor) -> Tensor:
    """Return the cosines ``[B, n]`` of all codes ``[B, n, C]`` with the first of their list."""
    z = F.normalize(codes, dim=2)
    return torch.linalg.vecdot(z, z[:, :1])


def contrastive_loss(cosine: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Return minus the logarithm of the part that positives have in the softmax over a list, averaged over lists."""
    logits = cosine / temperature
    hits = logits.masked_fill(~positive, -torch.inf)
    return (logits.logsumexp(1) - hits.logsumexp(1)).mean()


def reconstruction_loss(affinity: Tensor, aligned: Tensor) -> Tensor:
    """Return the mean distance of affinities ``[B, n, L]`` from what was made of their codes, at unit length each."""
    difference = F.normalize(affinity, dim=2) - F.normalize(aligned, dim=2)
    return difference.square().sum(2).clamp(1e-4, 1e4).sqrt().mean()


@dataclass(frozen=True, eq=False)
class ContextualTask:
    """The samples of one training run, which number the queries of all lists one after the other, and their losses.

    Args:
        encoder: The network.
        lists: One set of lists for each kind of descriptors; all of one length.
        temperature: Of the contrastive loss.
        reconstruction: Weight of the reconstruction loss.
        standardize: As in :func:`list_features`.
    """

    encoder: ContextualEncoder
    lists: Sequence[KnownLists]
    temperature: float
    reconstruction: float
    standardize: bool

    def __len__(self) -> int:
        return sum(map(len, self.lists))

    @property
    def can_be_evaluated(self) -> bool:
        """Whether any query has something to find."""
        return any(bool(known.num_relevant.any()) for known in self.lists)

    def losses(self, samples: Tensor) -> dict[str, Tensor]:
        """Return the losses of some samples."""
        affinity, positive = self._shuffled(*self._features(samples))
        affinity = _with_fewer_anchors(affinity)
        codes = self.encoder(affinity, torch.ones_like(positive))
        contrast = contrastive_loss(cosines(codes), positive, self.temperature)
        rebuilt = reconstruction_loss(affinity, self.encoder.align(codes))
        return {"loss": contrast + self.reconstruction * rebuilt, "contrast": contrast, "reconstruction": rebuilt}

    def mean_average_precision(self) -> float:
        """Return the mean average precision of the re-ranked lists, over all queries that have something to find."""
        return torch.cat([self._precisions(known) for known in self.lists]).mean().item()

    def _features(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return affinities ``[B, 1 + K, L]`` and positives ``[B, K]``, of descriptors of whatever widths."""
        features, positives, start = [], [], 0
        for known in self.lists:
            rows = samples[(samples >= start) & (samples < start + len(known))] - start
            start += len(known)
            features.append(self._affinity(known.nodes(rows)))
            positives.append(known.positive[rows])
        return torch.cat(features), torch.cat(positives)

    def _shuffled(self, affinity: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        """Permute the candidates; the query stays first, and is a positive. The anchors keep their ranks."""
        order = torch.rand(positive.shape, device=positive.device).argsort(dim=1)
        rows = F.pad(order + 1, (1, 0)).unsqueeze(2)
        return affinity.gather(1, rows.expand_as(affinity)), F.pad(positive.gather(1, order), (1, 0), value=True)

    def _affinity(self, nodes: Tensor) -> Tensor:
        mask = torch.ones(nodes.shape[:2], dtype=torch.bool, device=nodes.device)
        return list_features(nodes, mask, self.encoder.embed.in_features, standardize=self.standardize)

    def _precisions(self, known: KnownLists) -> Tensor:
        precisions = [torch.zeros(0, dtype=torch.float64, device=known.ids.device)]
        for rows in known.num_relevant.nonzero().squeeze(1).split(_CHUNK):
            affinity = self._affinity(known.nodes(rows))
            mask = torch.ones(affinity.shape[:2], dtype=torch.bool, device=affinity.device)
            score = cosines(self.encoder(affinity, mask))[:, 1:]
            hit = known.positive[rows].gather(1, score.sort(dim=1, descending=True, stable=True).indices).double()
            rank = torch.arange(1, hit.size(1) + 1, device=hit.device)
            precisions.append((hit * hit.cumsum(1) / rank).sum(1) / known.num_relevant[rows])
        return torch.cat(precisions)


def _with_fewer_anchors(affinity: Tensor) -> Tensor:
    """Take the last anchors, as many as chance has it, from half of the lists: the encoder learns to do with fewer."""
    num_lists, num_nodes, num_anchors = affinity.shape
    device = affinity.device
    kept = torch.randint(1, min(num_anchors, num_nodes) + 1, (num_lists, 1, 1), device=device)
    whole = torch.rand(num_lists, 1, 1, device=device) < 0.5
    return affinity * (whole | (torch.arange(num_anchors, device=device) < kept))
