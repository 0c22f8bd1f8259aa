"""What a network sees of a graph that is not given to it whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch_geometric.data import Data

from graphattn.training.sampling import NeighborSampler


class Surroundings:
    """The sampled surroundings of nodes, in training and in predictions.

    Args:
        data: The graph.
        num_neighbors: Neighbours that a node draws in each hop in training.
        eval_neighbors: The same for predictions; ``None`` for those of the whole graph.
        batch_size: Nodes, or pairs of nodes, that are predicted at a time from their surroundings.
    """

    def __init__(
        self, data: Data, num_neighbors: Sequence[int], eval_neighbors: Sequence[int] | None, batch_size: int
    ) -> None:
        self.train_sampler = NeighborSampler(data, num_neighbors)
        self.eval_sampler = None if eval_neighbors is None else self.train_sampler.with_num_neighbors(eval_neighbors)
        self.batch_size = batch_size
