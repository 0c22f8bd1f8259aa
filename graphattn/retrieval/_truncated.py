"""The neighbourhood graph of a gallery for diffusion, whole and restricted to the surroundings of some points."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.affinity import SparseAffinity
from graphattn.affinity.gallery import GalleryGraph


class MutualLists:
    """The normalized affinity of mutual neighbours in a gallery, as lists ``[N, k]`` that are filled up by -1.

    Args:
        graph: Neighbours of all items.
        gamma: Exponent of the similarities.
    """

    def __init__(self, graph: GalleryGraph, gamma: float) -> None:
        similarity = graph.to_affinity(mutual=True)
        positive = similarity.weights().double().clamp(min=0.0)
        A = similarity.with_weight(positive**gamma, symmetric=True).normalize("symmetric")
        source, target = A.edge_index
        # Edges come sorted by target.
        slot = torch.arange(target.numel(), device=target.device) - torch.searchsorted(target, target)
        self.ids = torch.full_like(graph.ids, -1)
        self.weight = torch.zeros_like(graph.ids, dtype=torch.float64)
        self.ids[target, slot] = source
        self.weight[target, slot] = A.weights()

    def restrict(self, items: Tensor) -> SparseAffinity:
        """Keep the rows and columns of some items: a block for each row of ``items [B, m]``, ascending, N fills up."""
        num_lists, size = items.shape
        there = (items < self.ids.size(0)).unsqueeze(2)
        rows = items.clamp(max=self.ids.size(0) - 1)
        place, hit = find(items, self.ids[rows].flatten(1))
        which, target, slot = (hit.view(num_lists, size, -1) & there).nonzero(as_tuple=True)
        source = place.view(num_lists, size, -1)[which, target, slot]
        weight = self.weight[rows[which, target], slot]
        edges = torch.stack([source, target]) + which * size
        return SparseAffinity(edges, weight, (num_lists * size, num_lists * size), symmetric=True)


def find(items: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return where ids ``wanted [B, n]`` stand in ascending rows ``items [B, m]``, and whether they do."""
    place = torch.searchsorted(items, wanted.contiguous()).clamp(max=items.size(1) - 1)
    return place, items.gather(1, place) == wanted
