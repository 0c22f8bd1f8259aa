"""A block of causal self-attention over the events of many sequences, ours or that of a released network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.models.network import reset
from graphattn.nn.dropout import drop
from graphattn.nn.global_attention import SoftmaxAttention
from graphattn.nn.global_attention.padding import Padding

COMPAT = (None, "xu2019")


class EventBlock(nn.Module):
    r"""Let every event attend to itself and the events before it, then map each by a perceptron.

    .. math::
        \mathbf{Y} = \mathbf{X} + \operatorname{attend}(\operatorname{LN}(\mathbf{X})), \quad
        \mathbf{X}' = \mathbf{Y} + \operatorname{mlp}(\operatorname{LN}(\mathbf{Y}))

    Args:
        channels: Width :math:`C` of an event.
        heads: Attention heads.
        dropout: Probability of dropping an attention weight or an activation of the perceptron in training.
        by_kernel: Whether a kernel of the times is added to the scores, by a factor for each head that is learned and
            0 at first.
        compat: ``"xu2019"`` for the block of the released code,
            :math:`\mathbf{Y} = \operatorname{LN}(\mathbf{X}) + \operatorname{attend}(\operatorname{LN}(\mathbf{X}),
            \mathbf{X})` and :math:`\mathbf{X}' = \operatorname{LN}(\mathbf{Y}) +
            \operatorname{mlp}(\operatorname{LN}(\mathbf{Y}))`: queries alone are normalized, what is added is
            normalized, and no linear map joins the heads.
        out_channels: Width of the output, ``channels`` by default; where they differ nothing is added to the
            perceptron.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``kernel`` :math:`(B, n, n)`
        - **output:** :math:`(N, C')`

    Raises:
        ValueError: If an option is out of range or unknown.

    Example:
        >>> from graphattn.nn.global_attention.padding import places_of
        >>> x, block = torch.randn(5, 8), EventBlock(8, heads=2)
        >>> both = block(x, places_of(x, ptr=torch.tensor([0, 2, 5])))
        >>> alone = block(x[:1], places_of(x[:1]))  # the first event of a sequence sees nothing else
        >>> torch.allclose(both[:1], alone, atol=1e-6)
        True

    Reference:
        Kang and McAuley, "Self-Attentive Sequential Recommendation", 2018; Xu et al., "Self-attention with Functional
        Time Representation Learning", 2019 (compat).
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        dropout: float = 0.0,
        *,
        by_kernel: bool = False,
        compat: str | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        if compat not in COMPAT:
            raise ValueError(f"compat is {compat!r}; expected None or 'xu2019'")
        self.compat = compat
        eps = 1e-5 if compat is None else 1e-8
        attention = SoftmaxAttention if compat is None else _Unmapped
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps), nn.LayerNorm(channels, eps)
        self.attention = attention(channels, heads, dropout=dropout, causal=True)
        self.time_weight = nn.Parameter(torch.empty(heads)) if by_kernel else None
        self.lin1 = nn.Linear(channels, channels)
        self.lin2 = nn.Linear(channels, channels if out_channels is None else out_channels)
        self.dropout = dropout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew; the factors of the kernel are 0."""
        reset(self.norm1, self.attention, self.norm2, self.lin1, self.lin2)
        if self.time_weight is not None:
            nn.init.zeros_(self.time_weight)

    def forward(self, x: Tensor, places: Padding, kernel: Tensor | None = None) -> Tensor:
        """Map the events of some sequences.

        Args:
            x: Events, sequence by sequence and in order.
            places: Where they stand in the padded batch of sequences.
            kernel: Values of the kernel of all pairs of the padded batch, target first, if the block takes them.

        Raises:
            ValueError: If the kernel is missing or unexpected.
        """
        by_kernel = self.time_weight is not None
        if by_kernel != (kernel is not None):
            state = "missing" if kernel is None else "given"
            raise ValueError(f"kernel is {state}, but by_kernel is {by_kernel}; pass both or neither")
        released = self.compat == "xu2019"
        h = self.norm1(x)
        q, k, v = self.attention.project(h, x if released else None, places, places)
        bias = None
        if self.time_weight is not None and kernel is not None:
            bias = self.time_weight.view(1, -1, 1, 1) * kernel.unsqueeze(1)
        # Padding stands behind the events of a sequence, where none of them looks.
        found = self.attention.combine(self.attention.attend(q, k, v, places.mask, None, bias), places)
        x = (h if released else x) + found
        h = self.norm2(x)
        found = self._drop(self.lin2(self._drop(F.relu(self.lin1(h)))))
        if found.size(1) != x.size(1):
            return found
        return (h if released else x) + found

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)


class _Unmapped(SoftmaxAttention):
    """Softmax attention whose heads are laid side by side without a linear map."""

    proj: nn.Module  # type: ignore[assignment]

    def __init__(self, channels: int, heads: int, *, dropout: float, causal: bool) -> None:
        super().__init__(channels, heads, dropout=dropout, causal=causal)
        self.proj = nn.Identity()

    def reset_parameters(self) -> None:
        """Draw the projections anew."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
