"""Where the nodes of many graphs of unequal size stand in one padded batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    r"""Places of the nodes of :math:`B` graphs in a batch padded to :math:`n` nodes a graph.

    Nodes keep their order within their graph and stand at its start; what is behind them is 0.

    Args:
        num_graphs: Number of graphs :math:`B`.
        max_nodes: Places for each graph :math:`n`.
        slot: Place of each node in the flattened batch; ``None`` for a single graph without padding.
        mask: Which places are taken; ``None`` means all.

    Shapes:
        - **input:** ``slot`` :math:`(N,)`, ``mask`` :math:`(B, n)`

    Example:
        >>> places = places_of(torch.rand(3, 2), batch=torch.tensor([1, 0, 1]))
        >>> places.pad(torch.tensor([5.0, 6.0, 7.0])).tolist()
        [[6.0, 0.0], [5.0, 7.0]]
    """

    num_graphs: int
    max_nodes: int
    slot: Tensor | None = None
    mask: Tensor | None = None

    def pad(self, x: Tensor) -> Tensor:
        """Put nodes ``[N, ...]`` at their places, ``[B, n, ...]``."""
        if self.slot is None:
            return x.unsqueeze(0)
        flat = x.new_zeros(self.num_graphs * self.max_nodes, *x.shape[1:]).index_copy(0, self.slot, x)
        return flat.unflatten(0, (self.num_graphs, self.max_nodes))

    def unpad(self, x: Tensor) -> Tensor:
        """Take nodes ``[N, ...]`` from their places, ``[B, n, ...]``."""
        return x.squeeze(0) if self.slot is None else x.flatten(0, 1).index_select(0, self.slot)

    def graph_and_place(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Tell the graph of some nodes and their place in it."""
        if self.slot is None:
            return torch.zeros_like(node), node
        slot = self.slot.index_select(0, node)
        return slot // self.max_nodes, slot % self.max_nodes


def places_of(
    x: Tensor,
    *,
    batch: Tensor | None = None,
    ptr: Tensor | None = None,
    num_graphs: int | None = None,
    max_nodes: int | None = None,
    prefix: str = "",
) -> Padding:
    """Find the place of every node in the padded batch.

    Args:
        x: Nodes of all graphs ``[N, ...]``.
        batch: Graph of each node, in any order; without it and ``ptr`` all are of one graph.
        ptr: First node of each graph and, last, the number of nodes.
        num_graphs: Number of graphs; found from ``batch`` by default.
        max_nodes: A number of nodes that no graph exceeds; found by default. Where both are known nothing is waited
            for on the device, and nothing depends on values.
        prefix: What stands before the names of the arguments in messages.

    Returns:
        The places.

    Raises:
        ValueError: If arguments do not fit one another.
        TypeError: If the graphs are not numbered by integers.

    Example:
        >>> places_of(torch.rand(3, 2), ptr=torch.tensor([0, 1, 1, 3])).mask.tolist()
        [[True, False], [False, False], [True, True]]
    """
    for name, size in (("num_graphs", num_graphs), (f"{prefix}max_nodes", max_nodes)):
        if size is not None and size < 0:
            raise ValueError(f"{name} is {size}; expected a number of at least 0")
    if batch is None and ptr is None:
        for name, size in (("num_graphs", num_graphs), (f"{prefix}max_nodes", max_nodes)):
            if size is not None:
                raise ValueError(
                    f"{name} is {size}, but there is neither {prefix}batch nor {prefix}ptr; pass one of them"
                )
        return Padding(1, x.size(0))
    if batch is not None and ptr is not None:
        raise ValueError(f"{prefix}batch and {prefix}ptr are both given; pass one of them")
    if ptr is not None:
        return _from_ptr(x, ptr, num_graphs, max_nodes, prefix)
    assert batch is not None
    return _from_batch(x, batch, num_graphs, max_nodes, prefix)


def _from_ptr(x: Tensor, ptr: Tensor, num_graphs: int | None, max_nodes: int | None, prefix: str) -> Padding:
    ptr = _checked(f"{prefix}ptr", ptr, x)
    if ptr.dim() != 1 or ptr.size(0) < 1:
        raise ValueError(f"{prefix}ptr has shape {tuple(ptr.shape)}; expected [graphs + 1]")
    if num_graphs is not None and num_graphs != ptr.size(0) - 1:
        raise ValueError(f"num_graphs is {num_graphs}, but {prefix}ptr is that of {ptr.size(0) - 1}")
    counts = ptr.diff()
    if readable(ptr) and (int(ptr[0]) != 0 or int(ptr[-1]) != x.size(0) or bool((counts < 0).any())):
        raise ValueError(f"{prefix}ptr does not rise from 0 to {x.size(0)}, the number of nodes")
    node = torch.arange(x.size(0), device=x.device)
    graph = torch.searchsorted(ptr[1:].contiguous(), node, right=True)
    return _places(graph, node - ptr.index_select(0, graph), counts, max_nodes, prefix)


def _from_batch(x: Tensor, batch: Tensor, num_graphs: int | None, max_nodes: int | None, prefix: str) -> Padding:
    batch = _checked(f"{prefix}batch", batch, x)
    if batch.shape != x.shape[:1]:
        raise ValueError(f"{prefix}batch has shape {tuple(batch.shape)}; expected [{x.size(0)}], a graph for each node")
    if num_graphs is None:
        num_graphs = int(batch.max()) + 1 if batch.size(0) else 0
    if readable(batch) and batch.size(0) and (int(batch.min()) < 0 or int(batch.max()) >= num_graphs):
        raise ValueError(
            f"{prefix}batch has values from {int(batch.min())} to {int(batch.max())}; expected 0 to {num_graphs - 1}, "
            "one less than num_graphs"
        )
    counts = batch.new_zeros(num_graphs).index_add(0, batch, torch.ones_like(batch))
    order = batch.argsort(stable=True)
    rank = torch.empty_like(batch).index_copy(0, order, torch.arange(batch.size(0), device=batch.device))
    first = counts.cumsum(0) - counts
    return _places(batch, rank - first.index_select(0, batch), counts, max_nodes, prefix)


def _places(graph: Tensor, place: Tensor, counts: Tensor, max_nodes: int | None, prefix: str) -> Padding:
    full = False
    if max_nodes is None:
        fewest, max_nodes = torch.stack(counts.aminmax()).tolist() if counts.size(0) else (0, 0)
        full = fewest == max_nodes  # no mask, so that the fastest kernels apply
    elif readable(counts) and bool((counts > max_nodes).any()):
        raise ValueError(f"{prefix}max_nodes is {max_nodes}, but a graph has {int(counts.max())} nodes")
    num_graphs = counts.size(0)
    # A node that does not fit must not land in the next graph: outside of the batch the device refuses it.
    slot = torch.where(place < max_nodes, graph * max_nodes + place, num_graphs * max_nodes)
    mask = None if full else torch.arange(max_nodes, device=counts.device) < counts.unsqueeze(1)
    return Padding(num_graphs, max_nodes, slot, mask)


def _checked(name: str, index: Tensor, x: Tensor) -> Tensor:
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {index.dtype}; expected integers")
    if index.device != x.device:
        raise ValueError(f"{name} is on {index.device}, but the nodes are on {x.device}; move one of them")
    return index.long()


def readable(x: Tensor) -> bool:
    """Whether values may be looked at: on CPU and not while compiling."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
