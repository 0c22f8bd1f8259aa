"""Graphs side by side: how many nodes each has, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.affinity.sparse import SparseAffinity

Sizes = int | Sequence[int] | None


class Graphs:
    """Where every node stands, nodes being listed graph after graph.

    ``place`` is a node's number within its graph, ``first`` the first node of that graph and ``size`` its length: one
    entry per node. ``sizes`` has one per graph.
    """

    def __init__(self, num_nodes: Sizes, batch: Tensor | None, ptr: Tensor | None) -> None:
        given = [n for n, v in (("num_nodes", num_nodes), ("batch", batch), ("ptr", ptr)) if v is not None]
        if len(given) != 1:
            names = " and ".join(given) or "nothing"
            raise ValueError(f"{names} is given; expected one of num_nodes, batch and ptr")
        self._node: Tensor | None = None
        if batch is not None:
            _check_integers("batch", batch)
            if batch.numel() and int(batch.min()) < 0:
                raise ValueError(f"batch contains {int(batch.min())}; expected graphs of at least 0")
            self.sizes = torch.bincount(batch)
            if bool((batch[1:] < batch[:-1]).any()):
                self._node = batch.argsort(stable=True)
        elif ptr is not None:
            _check_integers("ptr", ptr)
            self.sizes = ptr.long().diff()
            if ptr.numel() == 0 or int(ptr[0]) != 0 or bool((self.sizes < 0).any()):
                raise ValueError(f"ptr is {ptr.tolist()}; expected bounds of graphs, rising from 0")
        else:
            sizes = [num_nodes] if isinstance(num_nodes, int) else num_nodes
            if not isinstance(sizes, Sequence):
                raise TypeError(f"num_nodes is a {type(num_nodes).__name__}; expected an integer, or one per graph")
            for size in sizes:
                check_integer("num_nodes", size, 0)
            self.sizes = torch.tensor(list(sizes), dtype=torch.long)
        self.graph = torch.repeat_interleave(self.sizes)
        self.first = (self.sizes.cumsum(0) - self.sizes)[self.graph]
        self.size = self.sizes[self.graph]
        self.place = torch.arange(self.graph.numel(), device=self.device) - self.first

    @property
    def num_nodes(self) -> int:
        return self.graph.numel()

    @property
    def device(self) -> torch.device:
        return self.sizes.device

    def affinity(self, target: Tensor, source: Tensor, edge_type: int, *, symmetric: bool) -> SparseAffinity:
        """Join nodes by edges of one type, which come in the order of (target, source)."""
        if self._node is not None:
            target, source = self._node[target], self._node[source]
            order = (target * self.num_nodes + source).argsort(stable=True)
            target, source = target[order], source[order]
        types = torch.full_like(target, edge_type)
        shape = (self.num_nodes, self.num_nodes)
        return SparseAffinity(torch.stack([source, target]), None, shape, symmetric=symmetric, edge_type=types)


def ranges(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """List ``count[k]`` numbers from ``start[k]`` on for every k: k, and the number."""
    row = torch.repeat_interleave(count)
    end = count.cumsum(0)
    return row, torch.arange(row.numel(), device=row.device) + (start - end + count)[row]


def check_integer(name: str, value: object, least: int) -> None:
    """Raise if a number is no integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")


def _check_integers(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32) or value.dim() != 1:
        what = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {what}; expected integers of one dimension")
