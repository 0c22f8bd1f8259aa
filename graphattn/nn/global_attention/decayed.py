"""What the forms of infinite self-attention share: a decay for each head, and the code of its authors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import constant

from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.nn.hops import fraction, logit

EPS = 1e-6  # added to norms and sums


class DecayedAttention(GlobalAttention):
    """Attend with a decay that may be learned.

    Args:
        channels: Width of the nodes.
        heads: Number of heads.
        decay: The decay at first, in (0, 1).
        learn_decay: Whether it is learned, one for each head.
        compat: ``"infsa"`` for what the released code computes: no gradient of the decay, no masks.
        **options: Those of :class:`GlobalAttention`.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    def __init__(
        self, channels: int, heads: int, *, decay: float, learn_decay: bool, compat: str | None, **options: Any
    ) -> None:
        if compat not in (None, "infsa"):
            raise ValueError(f"compat is {compat!r}; expected None or 'infsa'")
        super().__init__(channels, heads, **options)
        self.compat = compat
        self._decay = decay
        self.decay_logit = nn.Parameter(torch.empty(heads)) if learn_decay else None

    @property
    def decay(self) -> float | Tensor:
        """What a hop is multiplied by: a number, or one for each head if it is learned, kept off 1."""
        if self.decay_logit is None:
            return self._decay
        learned = fraction(self.decay_logit).clamp_max(1 - 1e-6)
        return learned if self.compat is None else learned.detach()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        constant(self.decay_logit, logit(self._decay))

    def decay_of_heads(self, like: Tensor) -> Tensor:
        """Return the decay of each head ``[H]`` in the type and on the device of a tensor."""
        return torch.as_tensor(self.decay, dtype=like.dtype, device=like.device).expand(self.heads)

    def refuse_masks(self, query_mask: Tensor | None, key_mask: Tensor | None) -> None:
        """Raise where the released code would ignore a mask."""
        if self.compat is not None and (query_mask is not None or key_mask is not None):
            raise ValueError(
                f"compat is {self.compat!r}, whose code ignores padding, but the batch is padded; pass graphs of one "
                "size without max_nodes, or compat=None"
            )
