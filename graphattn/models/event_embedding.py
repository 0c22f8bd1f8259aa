"""Vectors of events: what happened, and when or in what place of its sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.encodings import LearnedEncoding, SinusoidalEncoding
from graphattn.nn.encodings.time import TimeEncoding
from graphattn.nn.encodings.time.catalog import make_time_encoding
from graphattn.nn.times import FUSIONS

ORDERS = ("sinusoidal", "learned")


class EventEmbedding(nn.Module):
    r"""Look the types of events up, and join what encodes their times.

    .. math::
        \text{concat:} \quad [\sqrt{C}\,\mathbf{T}_k ; \Phi(t)], \qquad
        \text{add:} \quad \sqrt{C}\,\mathbf{T}_k + \Phi(t), \qquad
        \text{kernel:} \quad \sqrt{C}\,\mathbf{T}_k

    Args:
        num_types: Rows of the table :math:`\mathbf{T}`.
        channels: Its columns :math:`C`.
        time: Name of a time encoding, as :func:`~graphattn.nn.encodings.time.catalog.make_time_encoding` knows them;
            ``"sinusoidal"`` or ``"learned"`` to encode the place of an event in its sequence, 0 for the first, and
            nothing of its time; ``None`` for neither.
        fusion: ``"concat"``, ``"add"``, which needs equal widths, or ``"kernel"``, which leaves the products of the
            encodings to the attention.
        time_channels: Width of the encoding.
        max_length: Places that ``"learned"`` has.
        options: What the encoding has of its own, such as ``{"harmonics": 10}``.

    Shapes:
        - **input:** ``event_type``, ``t`` and ``rank`` :math:`(N,)`
        - **output:** :math:`(N, C)`, with ``"concat"`` :math:`(N, C + C_t)`; encodings :math:`(N, C_t)`

    Raises:
        ValueError: If an option is unknown, out of range or contradicts another.

    Example:
        >>> embed = EventEmbedding(3, 4, "bochner", time_channels=6)
        >>> x, encoded = embed(torch.tensor([2, 0]), torch.tensor([0, 9]), torch.tensor([0, 1]))
        >>> x.shape, torch.equal(x[:, 4:], encoded)
        (torch.Size([2, 10]), True)

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    def __init__(
        self,
        num_types: int,
        channels: int,
        time: str | None = "bochner",
        fusion: str = "concat",
        *,
        time_channels: int | None = None,
        max_length: int = 512,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("num_types", num_types), ("channels", channels), ("max_length", max_length)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is {fusion!r}; expected one of {', '.join(map(repr, FUSIONS))}")
        self.fusion = fusion
        self.types = nn.Embedding(num_types, channels)
        self.encoding = _make_encoding(time, channels if time_channels is None else time_channels, max_length, options)
        if self.encoding is None and (fusion != "concat" or time_channels is not None):
            raise ValueError(f"time is None, but fusion is {fusion!r} and its width {time_channels}; name an encoding")
        if fusion == "add" and self.encoding.channels != channels:
            raise ValueError(
                f"fusion is 'add', which needs equal widths; those of the events and their times are {channels} and "
                f"{self.encoding.channels}"
            )
        self.channels = channels
        if self.encoding is not None and fusion == "concat":
            self.channels += self.encoding.channels
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.normal_(self.types.weight, std=self.types.embedding_dim**-0.5)
        if isinstance(self.encoding, (TimeEncoding, LearnedEncoding)):
            self.encoding.reset_parameters()

    def forward(self, event_type: Tensor, t: Tensor, rank: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the vectors of events, and what encodes their times.

        Args:
            event_type: Types, from 0.
            t: Times, int64 or float64.
            rank: Places in their sequences, from 0.
        """
        x = F.embedding(event_type, self.types.weight) * self.types.embedding_dim**0.5
        if self.encoding is None:
            return x, None
        if isinstance(self.encoding, SinusoidalEncoding):
            encoded = self.encoding(rank.double()).to(x.dtype)
        else:
            encoded = self.encoding(t if isinstance(self.encoding, TimeEncoding) else rank)
        if self.fusion == "concat":
            x = torch.cat([x, encoded], dim=1)
        elif self.fusion == "add":
            x = x + encoded
        return x, encoded


def _make_encoding(time: str | None, channels: int, max_length: int, options: Mapping[str, Any] | None) -> Any:
    if time is None or time in ORDERS:
        if time is None and options:
            raise ValueError(f"options of the encoding are {dict(options)}, but time is None; name an encoding")
        if time is None:
            return None
        if time == "sinusoidal":
            return SinusoidalEncoding(channels, **(options or {}))
        return LearnedEncoding(max_length, channels, **(options or {}))
    return make_time_encoding(time, channels, **(options or {}))
