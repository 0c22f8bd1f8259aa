"""The transformer encoder of contextual similarity aggregation: nodes attend to one another by their affinities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ContextualEncoder(nn.Module):
    r"""Encode the nodes of a list, each given by its similarities to the same anchors.

    .. math::
        \mathbf{X}_0 = \mathbf{F} \mathbf{W} + \mathbf{b}, \quad
        \mathbf{X}' = \mathbf{X}_l + \operatorname{attention}(\operatorname{norm}(\mathbf{X}_l)), \quad
        \mathbf{X}_{l+1} = \mathbf{X}' + \operatorname{mlp}(\operatorname{norm}(\mathbf{X}'))

    There are no positions, so that nodes may come in any order; the last block is followed by no normalization. The
    attention is fused: time is quadratic in the number of nodes, memory is linear.

    Args:
        num_anchors: Columns :math:`L` of the affinities.
        width: Channels of a node, a multiple of ``heads``.
        depth: Blocks; none leaves the linear map.
        heads: Attention heads.
        dropout: Part of the affinities, activations and attention weights that training drops. Whole branches are
            dropped at a rate that grows from 0 in the first block to this in the last.

    Raises:
        ValueError: If a size is out of range.

    Example:
        >>> encoder = ContextualEncoder(num_anchors=5, width=8, depth=1, heads=2).eval()
        >>> encoder(torch.rand(3, 7, 5), torch.ones(3, 7, dtype=torch.bool)).shape
        torch.Size([3, 7, 8])

    Reference:
        Ouyang et al., "Contextual Similarity Aggregation with Self-attention for Visual Re-ranking", 2021.
    """

    def __init__(
        self, num_anchors: int = 512, width: int = 768, depth: int = 2, heads: int = 12, dropout: float = 0.1
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("num_anchors", num_anchors, 1),
            ("width", width, 1),
            ("depth", depth, 0),
            ("heads", heads, 1),
        ):
            if not isinstance(size, int) or isinstance(size, bool) or size < least:
                raise ValueError(f"{name} is {size!r}; expected an integer, at least {least}")
        if width % heads:
            raise ValueError(f"width is {width} and heads is {heads}; expected a width that the heads divide")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected a number in [0, 1)")
        self.embed = nn.Linear(num_anchors, width)
        rates = [dropout * block / max(1, depth - 1) for block in range(depth)]
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, rate) for rate in rates)
        # Used by the training loss alone.
        self.align = nn.Linear(width, num_anchors)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, affinity: Tensor, mask: Tensor) -> Tensor:
        """Return the codes of all nodes.

        Args:
            affinity: Similarities of the nodes to the anchors; 0 for an anchor that is not there.
            mask: Which nodes are there; nobody attends to the others. Each list has at least one.

        Shapes:
            - **input:** ``affinity`` :math:`(B, n, L)`, ``mask`` :math:`(B, n)`
            - **output:** :math:`(B, n, width)`
        """
        x = self.dropout(self.embed(self.dropout(affinity)))
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Block(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each with a residual branch."""

    def __init__(self, width: int, heads: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self._branch(self.dropout(self.proj(self._attention(self.norm1(x), mask))))
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))
        return x + self._branch(self.dropout(self.fc2(hidden)))

    def _attention(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :], dropout)
        return y.transpose(1, 2).flatten(2)

    def _branch(self, x: Tensor) -> Tensor:
        """Drop the branch of whole lists in training."""
        if not self.training or self.drop_path == 0:
            return x
        kept = torch.rand(x.size(0), 1, 1, dtype=x.dtype, device=x.device) >= self.drop_path
        return x * kept / (1 - self.drop_path)
