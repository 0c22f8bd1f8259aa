"""The rank-one form of infinite self-attention: one distribution over the nodes of a graph, given to all of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphattn.nn.global_attention.decayed import EPS, DecayedAttention
from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.hops import check_hops
from graphattn.ops.inputs import widen, without_autocast


class LinearInfSA(DecayedAttention):
    r"""Pool a graph by one distribution over its nodes, that of an affinity of rank one, in linear time.

    .. math::
        \bar{\mathbf{q}} = \sum_i w_i \mathbf{q}_i, \quad w_i \propto \lVert\mathbf{q}_i\rVert, \qquad
        a_j \propto \operatorname{relu}(\bar{\mathbf{q}}^\top \mathbf{k}_j / d), \qquad
        \mathbf{o}_i = \rho \sum_j a_j \mathbf{v}_j

    Both are divided by their sum over the graph plus :math:`10^{-6}`.
    Every node of a graph gets the same vector: this is a global pooling, given to all. :math:`\mathbf{a}` is one step
    of a power iteration that starts at :math:`\mathbf{w}`; more ``steps`` take :math:`\mathbf{a}` in place of
    :math:`\mathbf{w}` and go on.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        steps: Number of steps of the iteration.
        decay: What the output is multiplied by at first, :math:`\rho` in (0, 1).
        learn_decay: Whether :math:`\rho` is learned, one for each head, from ``decay`` on.
        dropout: Probability of dropping an output channel in training.
        bias: Whether the projections have biases.
        compat: ``"infsa"`` for what the released code computes: one step, no gradient of the decay, and an error where
            it ignores a mask or fails. ``None`` for the above.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown, out of range, or does not go with another.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)  # with others both heads may see nothing, and give zeros
        >>> attend = LinearInfSA(8, heads=2)
        >>> out = attend(torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1]))
        >>> torch.equal(out[0], out[2]), torch.equal(out[0], out[1])
        (True, False)

    Reference:
        Roffo et al., "Infinite Self-Attention", arXiv 2603.00175, 2026.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        steps: int = 1,
        decay: float = 0.95,
        learn_decay: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        compat: str | None = None,
    ) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"steps is {steps!r}; expected an integer of at least 1")
        check_hops(1, decay)
        options = {"head_channels": head_channels, "dropout": dropout, "bias": bias}
        super().__init__(channels, heads, decay=decay, learn_decay=learn_decay, compat=compat, **options)
        if compat is not None and steps != 1:
            raise ValueError(f"compat is {compat!r}, whose code takes one step, but steps is {steps}; pass one of them")
        self.steps = steps
        self.reset_parameters()

    def places(self, x: Tensor, batch: Tensor | None = None, **graphs: Any) -> tuple[Padding, Padding]:
        """Find the places of targets and sources, which have to be the same for more than one step."""
        if graphs.get("context") is not None and (self.steps != 1 or self.compat is not None):
            raise ValueError(
                f"context is given, but steps is {self.steps} and compat is {self.compat!r}; other sources than x take "
                "steps=1 and compat=None"
            )
        return super().places(x, batch, **graphs)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Pool values by one distribution, and give the result to every query."""
        self.refuse_masks(query_mask, key_mask)
        (q, k, v), dtype = widen(q, k, v)
        with without_autocast(q.device):
            weights = _distribution(q.norm(dim=-1), query_mask)
            for _ in range(self.steps):
                query = (weights.unsqueeze(-2) @ q).transpose(-2, -1)
                weights = _distribution((k @ query / q.size(-1)).squeeze(-1).relu(), key_mask)
            pooled = self.decay_of_heads(q).view(-1, 1, 1) * (weights.unsqueeze(-2) @ v)
        return pooled.to(dtype).expand(-1, -1, q.size(-2), -1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, steps={self.steps}"


def _distribution(values: Tensor, mask: Tensor | None) -> Tensor:
    """Divide non-negative values ``[B, H, N]`` by their sum over the nodes that are there."""
    if mask is not None:
        values = values.masked_fill(~mask[:, None, :], 0.0)
    return values / (values.sum(-1, keepdim=True) + EPS)
