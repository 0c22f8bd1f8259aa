"""Learned nodes that hear of, and speak to, all nodes of their graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphattn.affinity import Affinity, EdgeType, SparseAffinity
from graphattn.affinity.checks import check_weights


class VirtualNode(nn.Module):
    r"""Give every graph a few learned nodes joined both ways to all of its nodes, and take them away again.

    Over them any two nodes of a graph are two hops apart. Virtual nodes are not joined to one another. They are nodes
    like others between :meth:`forward` and :meth:`split`: every layer changes them, and they may serve as a readout.

    Args:
        channels: Width of the nodes :math:`C`.
        num_virtual: Virtual nodes of each graph :math:`V`.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``edge_index`` :math:`(2, E)`, ``batch`` :math:`(N,)`
        - **output:** nodes :math:`(N + B V, C)`, an affinity with :math:`E + 2 N V` edges, their graphs
          :math:`(N + B V,)`

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> from graphattn.nn import AttentionConv
        >>> virtual_node, conv = VirtualNode(8), AttentionConv(8, 8)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 0, 0, 1, 1])
        >>> h, A, graph = virtual_node(x, torch.tensor([[0, 1], [1, 0]]), batch)
        >>> A, graph.tolist()
        (SparseAffinity(7 x 7, edges=12, heads=1, dtype=torch.float32), [0, 0, 0, 1, 1, 0, 1])
        >>> nodes, readout = virtual_node.split(conv(h, A), num_nodes=5)
        >>> nodes.shape, readout.shape
        (torch.Size([5, 8]), torch.Size([2, 1, 8]))

    Reference:
        Gilmer et al., "Neural Message Passing for Quantum Chemistry", ICML 2017; Shirzad et al., "Exphormer: Sparse
        Transformers for Graphs", ICML 2023.
    """

    def __init__(self, channels: int, num_virtual: int = 1) -> None:
        super().__init__()
        if channels < 1 or num_virtual < 1:
            raise ValueError(f"channels is {channels} and num_virtual is {num_virtual}; expected at least 1 each")
        self.channels = channels
        self.num_virtual = num_virtual
        self.embedding = nn.Parameter(torch.empty(num_virtual, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the features of the virtual nodes anew."""
        nn.init.normal_(self.embedding)

    def forward(
        self, x: Tensor, edge_index: Any, batch: Tensor | None = None, *, num_graphs: int | None = None
    ) -> tuple[Tensor, SparseAffinity, Tensor]:
        """Append the virtual nodes, graph by graph, and their edges.

        Args:
            x: Nodes.
            edge_index: Edges, source row first, or an :class:`~graphattn.Affinity`. They come first among the edges of
                the result, with their weights and types; those of virtual nodes have weight 1.
            batch: Graph of each node, in any order; by default all belong to one.
            num_graphs: Number of graphs; the largest in ``batch`` plus one by default, which is read on the host.

        Returns:
            Nodes, edges with an ``edge_type`` of :class:`~graphattn.affinity.EdgeType`, and the graph of each node.

        Raises:
            ValueError: If shapes do not fit.
            TypeError: If ``x`` or the edges are of another type.
        """
        check_weights("x", x)
        if x.dim() != 2 or x.size(1) != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [nodes, {self.channels}]")
        n = x.size(0)
        edges = edge_index if isinstance(edge_index, Affinity) else Affinity.from_edge_index(edge_index, num_nodes=n)
        given = edges.to_sparse()
        if given.shape != (n, n):
            raise ValueError(f"edge_index is an affinity of shape {given.shape}; expected {(n, n)}, as x has {n} nodes")
        batch, num_graphs = self._graphs(x, batch, num_graphs)

        virtual = n + torch.arange(num_graphs * self.num_virtual, device=x.device).view(num_graphs, self.num_virtual)
        own = virtual.index_select(0, batch).flatten()
        node = torch.arange(n, device=x.device).repeat_interleave(self.num_virtual)
        types = given.edge_type
        if types is None:
            types = torch.full_like(given.edge_index[0], int(EdgeType.GIVEN), dtype=torch.long)
        new = [types.new_full(node.shape, kind) for kind in (EdgeType.TO_VIRTUAL, EdgeType.FROM_VIRTUAL)]
        weight = given.weight
        if weight is not None:
            weight = torch.cat([weight, weight.new_ones(2 * node.numel(), *weight.shape[1:])])
        joined = SparseAffinity(
            torch.cat([given.edge_index.long(), torch.stack([node, own]), torch.stack([own, node])], dim=1),
            weight,
            (n + virtual.numel(), n + virtual.numel()),
            symmetric=given.symmetric,
            edge_type=torch.cat([types, *new]),
        )
        nodes = torch.cat([x, self.embedding.to(x.dtype).repeat(num_graphs, 1)])
        graph = torch.arange(num_graphs, device=x.device).repeat_interleave(self.num_virtual)
        return nodes, joined, torch.cat([batch, graph])

    def split(self, x: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
        """Part the nodes there were from the virtual ones.

        Args:
            x: Nodes that a layer made of those of :meth:`forward`.
            num_nodes: Number of nodes without the virtual ones.

        Returns:
            The nodes ``[N, ...]``, and the virtual nodes of each graph ``[B, V, ...]``.

        Raises:
            ValueError: If what is left is not so many virtual nodes for each graph.
        """
        rest = x.size(0) - num_nodes
        if num_nodes < 0 or rest < 0 or rest % self.num_virtual:
            raise ValueError(
                f"num_nodes is {num_nodes} and x has {x.size(0)} nodes; expected {self.num_virtual} more per graph"
            )
        return x[:num_nodes], x[num_nodes:].unflatten(0, (rest // self.num_virtual, self.num_virtual))

    def extra_repr(self) -> str:
        return f"{self.channels}, num_virtual={self.num_virtual}"

    def _graphs(self, x: Tensor, batch: Tensor | None, num_graphs: int | None) -> tuple[Tensor, int]:
        if batch is None:
            if num_graphs is not None:
                raise ValueError(f"num_graphs is {num_graphs}, but there is no batch; pass it")
            return torch.zeros(x.size(0), dtype=torch.long, device=x.device), 1
        if batch.dtype not in (torch.int64, torch.int32) or batch.shape != x.shape[:1]:
            found = f"shape {tuple(batch.shape)} and dtype {batch.dtype}"
            raise ValueError(f"batch has {found}; expected ({x.size(0)},) integers: the graph of each node")
        if num_graphs is None:
            num_graphs = int(batch.max()) + 1 if batch.numel() else 0
        if batch.device.type == "cpu" and not torch.compiler.is_compiling() and batch.numel():
            low, high = int(batch.min()), int(batch.max())
            if low < 0 or high >= num_graphs:
                raise ValueError(f"batch contains {low if low < 0 else high}; expected graphs in [0, {num_graphs})")
        return batch.long(), num_graphs
