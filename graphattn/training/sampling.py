"""Mini-batches of a large graph: some nodes, a few of their neighbours, a few of theirs, and the edges between them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch_geometric.data import Data

from graphattn.ops.layout import csr_layout


class NeighborSampler:
    r"""Cut the surroundings of some nodes out of a graph, with at most so many neighbours of each node.

    For :math:`l = 1, \dots, L` each node that has come up in the hop before draws :math:`k_l` of its incoming edges,
    uniformly and without replacement, or all of them if there are no more. The sources of these edges are the nodes of
    the next hop, those that were there before left out. The time of a hop does not depend on the degrees where
    :math:`k_l` is smaller than they are. It needs torch alone, where PyG's ``NeighborLoader`` needs pyg-lib; features
    that are mapped from a file (``torch.from_file``, or ``numpy.load(path, mmap_mode="r+")``) are read row by row.

    Args:
        data: The graph. What it holds for each node and edge is cut along.
        num_neighbors: Edges :math:`k_l` that each node draws in each hop; -1 for all.

    Raises:
        ValueError: If there is no hop, a number is below -1, or an edge ends at a node that is not there.

    Example:
        >>> path = Data(x=torch.eye(4), edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
        >>> batch = NeighborSampler(path, [-1, -1]).sample(torch.tensor([3]))
        >>> batch.n_id.tolist(), batch.edge_index.tolist()
        ([3, 2, 1], [[1, 2], [0, 1]])

    Reference:
        Hamilton et al., "Inductive Representation Learning on Large Graphs", 2017.
    """

    def __init__(self, data: Data, num_neighbors: Sequence[int]) -> None:
        if data.edge_index is None:
            raise ValueError("data has no edge_index; expected a graph with edges")
        self.data = data
        self.num_neighbors = check_num_neighbors(num_neighbors)
        self.num_nodes = int(data.num_nodes or 0)
        rowptr, self._col, self._edge = csr_layout(data.edge_index, self.num_nodes, self.num_nodes)
        self._rowptr = rowptr.long()

    def with_num_neighbors(self, num_neighbors: Sequence[int]) -> NeighborSampler:
        """Return a sampler of the same graph, whose sorted edges are shared, that draws other numbers of edges.

        Args:
            num_neighbors: Edges that each node draws in each hop; -1 for all.

        Raises:
            ValueError: If there is no hop, or a number is below -1.

        Example:
            >>> path = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4)
            >>> NeighborSampler(path, [1]).with_num_neighbors([-1, -1]).sample(torch.tensor([3])).n_id.tolist()
            [3, 2, 1]
        """
        other = copy.copy(self)
        other.num_neighbors = check_num_neighbors(num_neighbors)
        return other

    def sample(self, nodes: Tensor, *, generator: torch.Generator | None = None) -> Data:
        """Return the surroundings of some nodes, which come first in it.

        Args:
            nodes: Ids of the nodes, each once.
            generator: Source of randomness, on the device of the graph; torch's own by default.

        Shapes:
            - **input:** :math:`(B,)`

        Returns:
            A graph with the fields of PyG's ``NeighborLoader``: ``edge_index`` between the nodes of the batch, ``n_id``
            and ``e_id`` with the ids of its nodes and edges in the whole graph, ``batch_size`` :math:`B`,
            ``num_sampled_nodes`` and ``num_sampled_edges`` of each hop, and rows of ``x``, ``y``, ``edge_attr`` and
            whatever else the graph has for its nodes and edges.

        Raises:
            ValueError: If a node is not there or comes twice.
        """
        self._check(nodes)
        n_id, frontier = nodes, torch.arange(len(nodes), device=nodes.device)
        targets, sources, edges = [], [], []
        num_sampled_nodes, num_sampled_edges = [len(nodes)], []
        for count in self.num_neighbors:
            row, slot = self._draw(n_id[frontier], count, generator)
            neighbor = self._col[slot].long()
            before = len(n_id)
            n_id, source = append_new(n_id, neighbor)
            targets.append(frontier[row])
            sources.append(source)
            edges.append(self._edge[slot])
            frontier = torch.arange(before, len(n_id), device=nodes.device)
            num_sampled_nodes.append(len(frontier))
            num_sampled_edges.append(len(slot))
        batch = self._cut(n_id, torch.cat(edges))
        batch.edge_index = torch.stack([torch.cat(sources), torch.cat(targets)])
        batch.batch_size = len(nodes)
        batch.num_sampled_nodes, batch.num_sampled_edges = num_sampled_nodes, num_sampled_edges
        return batch

    def batches(
        self, nodes: Tensor, batch_size: int, *, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[Data]:
        """Yield the surroundings of all of some nodes, ``batch_size`` of them at a time.

        Args:
            nodes: Ids of the nodes, each once.
            batch_size: Nodes of a batch; the last one may have fewer.
            shuffle: Whether they come in random order.
            generator: Source of randomness, on the device of the graph; torch's own by default.

        Yields:
            What :meth:`sample` returns, and ``input_id``: where its first nodes stand in ``nodes``.

        Raises:
            ValueError: If a node is not there or comes twice, or the batch size is below 1.

        Example:
            >>> ring = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]]), num_nodes=3)
            >>> [batch.input_id.tolist() for batch in NeighborSampler(ring, [1]).batches(torch.arange(3), 2)]
            [[0, 1], [2]]
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self._check(nodes)
        if shuffle:
            order = torch.randperm(len(nodes), generator=generator, device=nodes.device)
        else:
            order = torch.arange(len(nodes), device=nodes.device)
        for input_id in order.split(batch_size):
            batch = self.sample(nodes[input_id], generator=generator)
            batch.input_id = input_id
            yield batch

    def _check(self, nodes: Tensor) -> None:
        if nodes.dim() != 1 or nodes.is_floating_point() or nodes.dtype == torch.bool:
            raise ValueError(f"nodes has shape {tuple(nodes.shape)} and dtype {nodes.dtype}; expected ids [B]")
        if len(nodes) and (int(nodes.min()) < 0 or int(nodes.max()) >= self.num_nodes):
            raise ValueError(
                f"nodes has ids from {int(nodes.min())} to {int(nodes.max())}, but there are {self.num_nodes} nodes"
            )
        values, counts = nodes.unique(return_counts=True)
        if len(values) < len(nodes):
            raise ValueError(f"nodes names node {int(values[counts > 1][0])} more than once; expected each once")

    def _draw(self, nodes: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return for each edge drawn the position of its target among ``nodes``, and its slot in the CSR arrays."""
        first, degree = self._rowptr[nodes], self._rowptr[nodes + 1] - self._rowptr[nodes]
        many = degree > count if count >= 0 else torch.zeros_like(degree, dtype=torch.bool)
        taken = torch.where(many, count, degree)
        row = torch.arange(len(nodes), device=nodes.device).repeat_interleave(taken)
        # Position of each drawn edge among those of its row, which is also its offset where all are taken.
        offset = torch.arange(len(row), device=nodes.device) - (taken.cumsum(0) - taken)[row]
        offset[many[row]] = draw_subsets(degree[many], count, generator).flatten()
        return row, first[row] + offset

    def _cut(self, n_id: Tensor, e_id: Tensor) -> Data:
        batch = Data(n_id=n_id, e_id=e_id)
        for name, value in self.data:
            if name == "edge_index":
                continue
            if self.data.is_node_attr(name):
                batch[name] = _rows(value, n_id)
            elif self.data.is_edge_attr(name):
                batch[name] = value[e_id]
            else:
                batch[name] = value
        batch.num_nodes = len(n_id)
        return batch


def _rows(values: Tensor, ids: Tensor) -> Tensor:
    """Return some rows, of sparse features as well."""
    if values.layout != torch.sparse_csr:
        return values[ids]
    first, count = values.crow_indices()[ids], values.crow_indices().diff()[ids]
    crow = torch.cat([count.new_zeros(1), count.cumsum(0)])
    slots = (first - crow[:-1]).repeat_interleave(count) + torch.arange(int(crow[-1]), device=ids.device)
    columns, entries = values.col_indices()[slots], values.values()[slots]
    return torch.sparse_csr_tensor(crow, columns, entries, (len(ids), values.size(1)))


def check_num_neighbors(num_neighbors: Sequence[int]) -> list[int]:
    if not num_neighbors or any(count < -1 for count in num_neighbors):
        raise ValueError(f"num_neighbors is {list(num_neighbors)}; expected a number for each hop, -1 for all")
    return list(num_neighbors)


def draw_subsets(sizes: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` of the numbers below each size, without replacement: Floyd's algorithm, on all rows at once."""
    chosen = sizes.new_empty(len(sizes), max(count, 0))
    for step in range(count):
        last = sizes - count + step
        draw = torch.rand(len(sizes), dtype=torch.float64, device=sizes.device, generator=generator)
        number = (draw * (last + 1)).long()
        again = (chosen[:, :step] == number.unsqueeze(1)).any(dim=1)
        chosen[:, step] = torch.where(again, last, number)
    return chosen


def append_new(known: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Append to distinct nodes those of ``nodes`` that are not among them; return all, and where ``nodes`` stand."""
    values, inverse = torch.unique(torch.cat([known, nodes]), return_inverse=True)
    place = torch.full_like(values, -1)
    place[inverse[: len(known)]] = torch.arange(len(known), device=known.device)
    new = (place < 0).nonzero().squeeze(1)
    place[new] = torch.arange(len(known), len(values), device=known.device)
    return torch.cat([known, values[new]]), place[inverse[len(known) :]]
