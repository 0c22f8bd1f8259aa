"""What networks over events are shown of what was before: pairs with times, the last events of nodes, or a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data, TemporalData
from torch_geometric.nn.models.tgn import LastNeighborLoader
from torch_geometric.utils import coalesce

from graphattn.training.temporal_sampling import TemporalSampler


class Pairs:
    """Pairs of a node and a time, with some events before that time.

    Args:
        stream: The events.
        num_nodes: Number of nodes.
        num_neighbors: Events of a pair in each hop.
    """

    def __init__(self, stream: TemporalData, num_nodes: int, num_neighbors: Sequence[int]) -> None:
        self.sampler = TemporalSampler(stream, num_neighbors, num_nodes=num_nodes)

    def sample(self, nodes: Tensor, time: Tensor) -> Data:
        """Return what was before; ``input_row`` is the row of each pair asked for."""
        return self.sampler.sample(nodes, time)

    def advance(self, events: Tensor) -> None:
        """Take events as past; the times of the pairs tell which are."""

    def rewind(self, events: int) -> None:
        """Take only the first events as past."""


class LastEvents:
    """Nodes, each with its last events before the current batch, as in PyG's example of TGN.

    Args:
        stream: The events.
        num_nodes: Number of nodes.
        size: Events of a node.
        batch_size: Events that become past at a time.
    """

    def __init__(self, stream: TemporalData, num_nodes: int, size: int, batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.loader = LastNeighborLoader(num_nodes, size)

    def sample(self, nodes: Tensor, time: Tensor) -> Data:
        """Return what was before; ``input_row`` is the row of each node asked for, whatever its time."""
        n_id, edge_index, e_id = self.loader(nodes.unique())
        past = Data(n_id=n_id, edge_index=edge_index, e_id=e_id, num_nodes=len(n_id))
        past.edge_t, past.msg = self.stream.t[e_id], self.stream.msg[e_id]
        past.input_row = torch.searchsorted(n_id, nodes)
        return past

    def advance(self, events: Tensor) -> None:
        """Take events as past, which follow those before."""
        self.loader.insert(self.stream.src[events], self.stream.dst[events])

    def rewind(self, events: int) -> None:
        """Take only the first events as past."""
        self.loader.reset_state()
        for batch in torch.arange(events).split(self.batch_size):
            self.advance(batch)


class Graph:
    """All nodes, joined where they have met in training.

    Args:
        stream: The events of the training.
        num_nodes: Number of nodes.
    """

    def __init__(self, stream: TemporalData, num_nodes: int) -> None:
        ends = torch.stack([stream.src, stream.dst])
        self.edge_index = coalesce(torch.cat([ends, ends.flip(0)], dim=1), num_nodes=num_nodes)
        self.n_id = torch.arange(num_nodes)

    def sample(self, nodes: Tensor, time: Tensor) -> Data:
        """Return the graph; ``input_row`` is the row of each node asked for."""
        return Data(n_id=self.n_id, edge_index=self.edge_index, num_nodes=len(self.n_id), input_row=nodes)

    def advance(self, events: Tensor) -> None:
        """Leave the graph as it is."""

    def rewind(self, events: int) -> None:
        """Leave the graph as it is."""


Past = Pairs | LastEvents | Graph
