"""Softmax attention between all nodes of a graph, for many graphs of unequal size at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.models.inputs import split_width


class GlobalAttention(nn.Module):
    r"""Let every node attend to all nodes of its graph.

    .. math::
        \mathbf{O} = \operatorname{softmax}(\mathbf{Q} \mathbf{K}^\top / \sqrt{d})\,\mathbf{V}\,\mathbf{W} + \mathbf{b}

    The weights are those of ``torch.nn.MultiheadAttention``. Graphs are padded to the largest of a call; nobody attends
    to padding, so that a graph comes out as it would alone. Time is quadratic in the nodes of the largest graph.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Heads; they divide ``channels``.
        dropout: Probability of dropping an attention weight in training.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If the heads do not divide the channels.

    Example:
        >>> attend = GlobalAttention(8, heads=2)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True
    """

    def __init__(self, channels: int, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        split_width(channels, heads)
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        self.proj.reset_parameters()
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Attend within each graph.

        Args:
            x: Nodes.
            batch: Graph of each node, in any order; by default all belong to one.
        """
        qkv = self.qkv(x)
        dropout = self.dropout if self.training else 0.0
        if batch is None or len(x) == 0:
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3).unsqueeze(1)
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
            return self.proj(out.squeeze(0).transpose(0, 1).flatten(1))
        graph, place, mask = _places(batch)
        padded = qkv.new_zeros(*mask.shape, qkv.size(1)).index_put((graph, place), qkv)
        q, k, v = padded.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :], dropout)
        return self.proj(out.transpose(1, 2)[graph, place].flatten(1))


def _places(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number the graphs that have nodes, and the nodes within each; tell which places of the padded batch are taken."""
    graph, counts = torch.unique(batch, return_inverse=True, return_counts=True)[1:]
    order = graph.argsort(stable=True)
    first = (counts.cumsum(0) - counts).index_select(0, graph)
    place = torch.empty_like(graph).index_copy(0, order, torch.arange(len(graph), device=graph.device)) - first
    mask = torch.arange(int(counts.max()), device=graph.device) < counts.unsqueeze(1)
    return graph, place, mask
