"""What every attention between all nodes of a graph has: projections, heads, many graphs of unequal size at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.dropout import drop
from graphattn.nn.global_attention.padding import Padding, places_of
from graphattn.ops.inputs import check_float


class GlobalAttention(nn.Module, ABC):
    r"""Let every node attend to all nodes of its graph; what distinguishes the methods is :meth:`attend`.

    .. math::
        \mathbf{O} = \operatorname{attend}(\mathbf{X}\mathbf{W}_Q + \mathbf{b}_Q,
        \mathbf{C}\mathbf{W}_K + \mathbf{b}_K, \mathbf{C}\mathbf{W}_V + \mathbf{b}_V)\,\mathbf{W}_O + \mathbf{b}_O

    Sources are the nodes themselves, :math:`\mathbf{C} = \mathbf{X}`, or others. Graphs are padded to the largest of a
    call; no padding is ever a source, so that a graph comes out as it would alone. A node without sources gets
    :math:`\mathbf{b}_O`. The weights are laid out as in ``torch.nn.MultiheadAttention``.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        dropout: Probability of dropping an output channel in training.
        bias: Whether the projections have biases.
        causal: Whether a node attends only to itself and the nodes of its graph before it.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from graphattn.nn.global_attention import LinearAttention
        >>> attend = LinearAttention(8, heads=2)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("heads", heads), ("head_channels", head_channels)):
            if size is not None and size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if head_channels is None and channels % heads:
            raise ValueError(f"heads is {heads}, which does not divide channels={channels}; or pass head_channels")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1]")
        self.channels = channels
        self.heads = heads
        self.head_channels = channels // heads if head_channels is None else head_channels
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(channels, 3 * heads * self.head_channels, bias=bias)
        self.proj = nn.Linear(heads * self.head_channels, channels, bias=bias)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.xavier_uniform_(self.qkv.weight)
        self.proj.reset_parameters()
        for bias in (self.qkv.bias, self.proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        *,
        ptr: Tensor | None = None,
        context: Tensor | None = None,
        context_batch: Tensor | None = None,
        context_ptr: Tensor | None = None,
        num_graphs: int | None = None,
        max_nodes: int | None = None,
        context_max_nodes: int | None = None,
    ) -> Tensor:
        """Attend within each graph.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            ptr: In place of ``batch``, for nodes sorted by graph: the first of each and, last, their number.
            context: Sources, if they are others than ``x``.
            context_batch: Graph of each source.
            context_ptr: In place of ``context_batch``, as ``ptr``.
            num_graphs: Number of graphs, found by default. Where it and ``max_nodes`` are given nothing is read back
                from the device, and a call compiles as one graph.
            max_nodes: A number of nodes that no graph exceeds.
            context_max_nodes: A number of sources that no graph exceeds.

        Returns:
            What the nodes gather, in their order.

        Raises:
            ValueError: If shapes, devices or graphs do not fit.
            TypeError: If a dtype does not fit.
        """
        targets, sources = self.places(
            x,
            batch,
            ptr=ptr,
            context=context,
            context_batch=context_batch,
            context_ptr=context_ptr,
            num_graphs=num_graphs,
            max_nodes=max_nodes,
            context_max_nodes=context_max_nodes,
        )
        q, k, v = self.project(x, context, targets, sources)
        out = self.combine(self.attend(q, k, v, targets.mask, sources.mask), targets)
        return drop(out, self.dropout, self.training)

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Gather values by queries and keys, for a padded batch of graphs.

        Args:
            q: Queries ``[B, H, N, d]``.
            k: Keys ``[B, H, M, d]``.
            v: Values ``[B, H, M, d]``.
            query_mask: Which queries there are, ``[B, N]``; ``None`` means all.
            key_mask: Which keys and values there are, ``[B, M]``; ``None`` means all. The others must be finite.

        Returns:
            Gathered values ``[B, H, N, d]``; 0 for a query without keys, anything where there is no query.
        """

    def places(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        *,
        ptr: Tensor | None = None,
        context: Tensor | None = None,
        context_batch: Tensor | None = None,
        context_ptr: Tensor | None = None,
        num_graphs: int | None = None,
        max_nodes: int | None = None,
        context_max_nodes: int | None = None,
    ) -> tuple[Padding, Padding]:
        """Check the inputs of :meth:`forward` and find the places of targets and of sources in the padded batch."""
        self._check("x", x)
        if context is None:
            for name, given in (("batch", context_batch), ("ptr", context_ptr), ("max_nodes", context_max_nodes)):
                if given is not None:
                    raise ValueError(f"context_{name} is given without context; pass both or neither")
            targets = places_of(x, batch=batch, ptr=ptr, num_graphs=num_graphs, max_nodes=max_nodes)
            return targets, targets
        self._check("context", context)
        if self.causal:
            raise ValueError("context is given, but causal is True: the order of other nodes says nothing; pass one")
        if (batch is None and ptr is None) != (context_batch is None and context_ptr is None):
            raise ValueError("the graphs of either x or context alone are given; pass a batch or ptr for both")
        if num_graphs is None:
            num_graphs = _count_graphs((batch, context_batch), (ptr, context_ptr))
        targets = places_of(x, batch=batch, ptr=ptr, num_graphs=num_graphs, max_nodes=max_nodes)
        sources = places_of(
            context,
            batch=context_batch,
            ptr=context_ptr,
            num_graphs=num_graphs,
            max_nodes=context_max_nodes,
            prefix="context_",
        )
        return targets, sources

    def project(
        self, x: Tensor, context: Tensor | None, targets: Padding, sources: Padding
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make queries ``[B, H, N, d]``, keys and values ``[B, H, M, d]``."""
        if context is None:
            q, k, v = targets.pad(self.qkv(x).unflatten(-1, (3, self.heads, -1))).permute(2, 0, 3, 1, 4)
            return q, k, v
        width = self.heads * self.head_channels
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x, weight[:width], None if bias is None else bias[:width])
        kv = F.linear(context, weight[width:], None if bias is None else bias[width:])
        k, v = sources.pad(kv.unflatten(-1, (2, self.heads, -1))).permute(2, 0, 3, 1, 4)
        return targets.pad(q.unflatten(-1, (self.heads, -1))).transpose(1, 2), k, v

    def combine(self, out: Tensor, targets: Padding) -> Tensor:
        """Join the heads of gathered values ``[B, H, N, d]`` and return the nodes to their order, ``[N, C]``."""
        return self.proj(targets.unpad(out.transpose(1, 2)).flatten(1))

    def extra_repr(self) -> str:
        return f"{self.channels}, heads={self.heads}" + (", causal=True" if self.causal else "")

    def _check(self, name: str, x: Tensor) -> None:
        check_float(name, x)
        if x.dim() != 2 or x.size(1) != self.channels:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [nodes, {self.channels}]")


def _count_graphs(batches: tuple[Tensor | None, ...], ptrs: tuple[Tensor | None, ...]) -> int | None:
    """Number the graphs that targets and sources name; ``None`` for one graph without numbers."""
    for ptr in ptrs:
        if ptr is not None:
            return ptr.size(0) - 1
    known = [int(batch.max()) + 1 for batch in batches if batch is not None and batch.numel()]
    return max(known, default=0) if any(batch is not None for batch in batches) else None
