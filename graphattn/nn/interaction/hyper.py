"""Attention to pairs: the weight of two sources depends on both, in time linear in the nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.interaction.base import Interaction

_PAIRS = ("all", "ordered")


class HyperAttention(Interaction):
    r"""Let every node attend to the pairs of nodes of its graph.

    .. math::
        \mathbf{y}_i = \sum_{j, l} A_{ijl}\,\mathbf{V}_{jl}, \quad
        A_{ijl} = \sum_{r=1}^{R} (\mathbf{x}_i^\top \mathbf{a}_r)(\mathbf{x}_j^\top \mathbf{b}_r)
        (\mathbf{x}_l^\top \mathbf{c}_r), \quad
        \mathbf{V}_{jl} = \sum_{s=1}^{S} (\mathbf{x}_j^\top \mathbf{u}_s)(\mathbf{x}_l^\top \mathbf{w}_s)\,\mathbf{t}_s

    These are tensors of three indices and low rank, whose sums part, so that no pair is ever listed:

    .. math::
        \mathbf{y}_i = \sum_{r, s} (\mathbf{x}_i^\top \mathbf{a}_r)\, P_{rs} P'_{rs}\, \mathbf{t}_s, \quad
        P_{rs} = \sum_j (\mathbf{x}_j^\top \mathbf{b}_r)(\mathbf{x}_j^\top \mathbf{u}_s), \quad
        P'_{rs} = \sum_l (\mathbf{x}_l^\top \mathbf{c}_r)(\mathbf{x}_l^\top \mathbf{w}_s)

    Pairs with :math:`j \le l`, and causal attention, take prefix sums in their place. There is neither bias nor scale:
    an output is homogeneous of degree 5 in the nodes. Time is :math:`O(N R S)`, and memory too for prefix sums.

    Args:
        in_channels: Width of the nodes.
        out_channels: Width of the output :math:`C`.
        rank: Rank of the weights :math:`R`.
        value_rank: Rank of the values :math:`S`; as ``rank`` by default.
        pairs: ``"all"``, or ``"ordered"``: those whose first node is not behind the second, in the order of the graph.
        causal: Whether a node attends only to pairs of itself and the nodes of its graph before it.

    Shapes:
        - **input:** ``x`` :math:`(N, D)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> attend = HyperAttention(6, 4, rank=8)
        >>> x, batch = torch.rand(5, 6), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True

    Reference:
        Ustaomeroglu and Qu, "A Theoretical Study of (Hyper) Self-Attention through the Lens of Interactions:
        Representation, Training, Generalization", ICML 2025.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rank: int,
        value_rank: int | None = None,
        *,
        pairs: str = "all",
        causal: bool = False,
    ) -> None:
        super().__init__(in_channels)
        value_rank = rank if value_rank is None else value_rank
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "rank": rank, "value_rank": value_rank}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if pairs not in _PAIRS:
            raise ValueError(f"pairs is {pairs!r}; expected one of {', '.join(map(repr, _PAIRS))}")
        self.out_channels = out_channels
        self.rank = rank
        self.value_rank = value_rank
        self.pairs = pairs
        self.causal = causal
        self.query = nn.Parameter(torch.empty(in_channels, rank))
        self.key = nn.Parameter(torch.empty(2, in_channels, rank))
        self.value = nn.Parameter(torch.empty(2, in_channels, value_rank))
        self.proj = nn.Parameter(torch.empty(value_rank, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for matrix in (self.query, *self.key, *self.value, self.proj):
            nn.init.xavier_uniform_(matrix)

    def attend(self, x: Tensor, places: Padding) -> Tensor:
        # Without biases the places that are padding have keys and values of 0: they add nothing to a sum.
        keys = [x @ key for key in self.key]
        values = [x @ value for value in self.value]
        sums = self._sums(keys, values)
        out = torch.einsum("bnr,bmrs->bns" if sums.size(1) == 1 else "bnr,bnrs->bns", x @ self.query, sums)
        return out @ self.proj

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, rank={self.rank}, value_rank={self.value_rank}"

    def _sums(self, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Sums over the pairs of each graph, [B, 1, R, S], or over those up to each node, [B, n, R, S]."""
        if self.pairs == "all" and not self.causal:
            first, second = (k.transpose(1, 2) @ v for k, v in zip(keys, values, strict=True))
            return (first * second).unsqueeze(1)
        first, second = (k.unsqueeze(3) * v.unsqueeze(2) for k, v in zip(keys, values, strict=True))
        wide = torch.promote_types(first.dtype, torch.float32)
        if self.pairs == "all":
            sums = first.cumsum(1, dtype=wide) * second.cumsum(1, dtype=wide)
        else:
            up_to_second = first.cumsum(1, dtype=wide) * second
            sums = up_to_second.cumsum(1) if self.causal else up_to_second.sum(1, keepdim=True)
        return sums.to(first.dtype)
