"""A network of event sequences: causal self-attention over what happened and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.models.event_block import EventBlock
from graphattn.models.event_embedding import EventEmbedding
from graphattn.models.event_losses import median_gap
from graphattn.models.network import Network, reset
from graphattn.nn.dropout import drop
from graphattn.nn.encodings.time.base import check_times, elapsed
from graphattn.nn.feed_forward import check_options
from graphattn.nn.global_attention.padding import Padding, readable

HEADS = ("class", "ranking")
REFERENCES = ("first", "absolute")
_NARROWEST = 1e-3  # standard deviation of the logarithm of a time


class EventSequenceModel(Network):
    r"""Predict the next event of sequences, its type and the time until then, from all events so far.

    .. math::
        \mathbf{h}_i = \operatorname{LN}(\operatorname{blocks}(\mathbf{z}_1, \dots, \mathbf{z}_i)_i), \quad
        \mathbf{z}_i = [\sqrt{C}\,\mathbf{T}_{k_i} ; \Phi(t_i)]

    .. math::
        k_{i+1} \sim \operatorname{softmax}(\mathbf{h}_i \mathbf{W} + \mathbf{b}), \qquad
        \log(1 + t_{i+1} - t_i) \sim \mathcal{N}(\mu(\mathbf{h}_i), \sigma(\mathbf{h}_i)^2)

    Every event attends to itself and to those before it in its sequence
    (:class:`~graphattn.nn.global_attention.SoftmaxAttention`). What fills sequences up is never attended to: any amount
    of it, on either side or in between, leaves all outputs as they are. Time is quadratic in the length of the longest
    sequence; memory is linear, but for ``fusion="kernel"``.

    Args:
        num_types: Number of types :math:`K`; they are numbered from 1, and 0 fills up.
        dim: Width :math:`C` of what stands for a type, and of the output.
        num_layers: Blocks of attention and perceptron.
        heads: Heads of the attention; they divide the width of the blocks.
        dropout: Probability of dropping an input, an attention weight or an activation in training.
        time: What encodes times, ``"bochner"``, ``"mercer"`` or another name that
            :func:`~graphattn.nn.encodings.time.catalog.make_time_encoding` knows. ``"sinusoidal"`` and ``"learned"``
            encode the place of an event in its sequence and nothing of its time, ``None`` not even that.
        fusion: How the encodings come in: ``"concat"`` beside the types, after which a linear map brings the last block
            back to ``dim``; ``"add"``; or ``"kernel"``, which adds :math:`\alpha_h \langle \Phi(t_i), \Phi(t_j)
            \rangle` to the scores of every block, with :math:`\alpha_h` learned and 0 at first.
        time_dim: Width of the encodings; by default the nearest one to ``dim`` that suits encoding and heads.
        time_options: What the encoding has of its own, such as ``{"harmonics": 10}``.
        time_reference: What times are counted from: ``"first"``, the first event of the sequence, so that a shift of
            all its times changes nothing; or ``"absolute"``, as they are given.
        head: ``"class"``, or ``"ranking"`` for scores :math:`\mathbf{h}_i^\top \mathbf{T}_k` of the table itself.
        max_length: Longest sequence with ``time="learned"``.
        compat: ``"xu2019"`` for the block of the released code, see :class:`~graphattn.models.event_block.EventBlock`;
            its last perceptron does the map back to ``dim``. The released runs on StackOverflow see every prefix by
            itself, with times before its last event: pass such prefixes with ``time_reference="absolute"``.

    Shapes:
        - **input:** ``event_type``, ``t`` and ``mask`` :math:`(B, L)`
        - **output:** :math:`(B, L, C)`

    Raises:
        ValueError: If an option is unknown, out of range or contradicts another.

    Example:
        >>> model = EventSequenceModel(num_types=5, dim=8, num_layers=1).eval()
        >>> event_type = torch.tensor([[0, 0, 3, 1], [2, 5, 5, 4]])
        >>> t = torch.tensor([[0, 0, 60, 61], [7, 9, 30, 31]])
        >>> x = model(event_type, t)
        >>> alone = model(event_type[:1, 2:], t[:1, 2:])
        >>> torch.equal(x[0, :2], torch.zeros(2, 8)), torch.allclose(x[0, 2:], alone[0], atol=1e-6)
        (True, True)
        >>> model.type_scores(x).shape, model.median_gap(x).shape
        (torch.Size([2, 4, 5]), torch.Size([2, 4]))

    Reference:
        Xu et al., "Self-attention with Functional Time Representation Learning", 2019.
    """

    takes_affinity = False

    def __init__(
        self,
        num_types: int,
        dim: int = 32,
        num_layers: int = 1,
        heads: int = 1,
        dropout: float = 0.1,
        *,
        time: str | None = "bochner",
        fusion: str = "concat",
        time_dim: int | None = None,
        time_options: Mapping[str, Any] | None = None,
        time_reference: str = "first",
        head: str = "class",
        max_length: int = 512,
        compat: str | None = None,
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        for name, size in (("dim", dim), ("num_layers", num_layers), ("heads", heads)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        for name, value, known in (("time_reference", time_reference, REFERENCES), ("head", head, HEADS)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}")
        if time_dim is None and time is not None:
            time_dim = _fitting_width(time, fusion, dim, heads, time_options)
        self.num_types = num_types
        self.time_reference = time_reference
        self.dropout = dropout
        self.embedding = EventEmbedding(
            num_types, dim, time, fusion, time_channels=time_dim, max_length=max_length, options=time_options
        )
        width = self.embedding.channels
        if width % heads:
            raise ValueError(
                f"heads is {heads}, which does not divide the {width} channels of the blocks; set time_dim"
            )
        released = compat == "xu2019"
        self.blocks = nn.ModuleList(
            EventBlock(
                width,
                heads,
                dropout,
                by_kernel=fusion == "kernel",
                compat=compat,
                out_channels=dim if released and layer == num_layers - 1 else None,
            )
            for layer in range(num_layers)
        )
        self.lin = None if width == dim or released else nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim, 1e-5 if compat is None else 1e-8)
        self.lin_type = nn.Linear(dim, num_types) if head == "class" else None
        self.lin_gap = nn.Linear(dim, 2)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        reset(self.embedding, *self.blocks, self.lin, self.norm, self.lin_type, self.lin_gap)

    def forward(self, event_type: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what is known after each event; 0 where there is none.

        Args:
            event_type: Types of the events of each sequence, in order.
            t: Their times, int64 or float64, never decreasing.
            mask: Which events there are; by default those whose type is not 0.

        Returns:
            A vector for each event, from which :meth:`type_scores` and :meth:`median_gap` predict the next one.

        Raises:
            ValueError: If shapes or devices do not fit, or, on the CPU, a type is unknown or times decrease.
            TypeError: If a dtype does not fit.
        """
        mask = _check(event_type, t, mask)
        # Events to the front: what fills up then stands behind them, where none of them looks.
        order = mask.logical_not().long().argsort(dim=1, stable=True)
        there, kind, time = (
            values.gather(1, order) for values in (mask, torch.where(mask, event_type - 1, 0), torch.where(mask, t, 0))
        )
        _check_events(kind, time, there, self.num_types)
        time = torch.where(there, time, time[:, :1])
        time = elapsed(time, time[:, :1]) if self.time_reference == "first" else time
        rank = torch.where(there, torch.arange(there.size(1), device=there.device), 0)
        x, encoded = self.embedding(kind.flatten(), time.flatten(), rank.flatten())
        x = drop(x, self.dropout, self.training)
        places = _Grid(*mask.shape)
        kernel = None
        if encoded is not None and self.embedding.fusion == "kernel":
            kernel = places.pad(encoded) @ places.pad(encoded).transpose(1, 2)
        for block in self.blocks:
            x = block(x, places, kernel)
        x = places.pad(self.norm(x if self.lin is None else self.lin(x)))
        x = x.masked_fill(~there.unsqueeze(2), 0)
        return torch.zeros_like(x).scatter(1, order.unsqueeze(2).expand_as(x), x)

    def type_scores(self, x: Tensor) -> Tensor:
        """Return a score for each type of the next event: that of type 1 first.

        Args:
            x: Outputs of :meth:`forward`, ``[..., dim]``.
        """
        return F.linear(x, self.embedding.types.weight) if self.lin_type is None else self.lin_type(x)

    def gap_distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the logarithm of 1 + the time until the next event.

        Args:
            x: Outputs of :meth:`forward`, ``[..., dim]``.
        """
        mean, std = self.lin_gap(x).unbind(dim=-1)
        return mean, F.softplus(std) + _NARROWEST

    def median_gap(self, x: Tensor) -> Tensor:
        """Return the median of the time until the next event, in float64: the guess of least expected error.

        Args:
            x: Outputs of :meth:`forward`, ``[..., dim]``.
        """
        mean, _ = self.gap_distribution(x)
        return median_gap(mean)

    def center_gaps(self, gap: Tensor) -> None:
        """Let the predicted times start from what they are on average, so that their unit does not matter.

        Args:
            gap: Times between events, such as those of a training set; at least one.

        Raises:
            ValueError: If there are none.
        """
        if gap.numel() == 0:
            raise ValueError("gap has no times; expected at least one")
        logs = gap.detach().double().log1p()
        spread = logs.std(correction=0).clamp(min=2 * _NARROWEST) - _NARROWEST
        with torch.no_grad():
            self.lin_gap.bias.copy_(torch.stack([logs.mean(), spread.expm1().log()]))


class _Grid(Padding):
    """Places of sequences that are filled up to one length already."""

    def pad(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.num_graphs, self.max_nodes))

    def unpad(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


def _fitting_width(time: str, fusion: str, dim: int, heads: int, options: Mapping[str, Any] | None) -> int:
    """Width of an encoding nearest to ``dim`` that its form allows and the heads divide."""
    step = 1
    if time == "mercer":
        step = 2 * int((options or {}).get("harmonics", 5)) + 1
    elif time == "sinusoidal" or time.startswith("bochner"):
        step = 2
    if fusion == "add" or step < 1:
        return dim
    widths = range(step, dim + step * heads + 1, step)
    fitting = [width for width in widths if fusion == "kernel" or (dim + width) % heads == 0]
    return min(fitting, key=lambda width: abs(width - dim), default=step)


def _check(event_type: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask, or raise unless shapes, dtypes and devices fit."""
    if not isinstance(event_type, Tensor) or event_type.dtype not in (torch.int64, torch.int32):
        found = (
            f"has dtype {event_type.dtype}" if isinstance(event_type, Tensor) else f"is a {type(event_type).__name__}"
        )
        raise TypeError(f"event_type {found}; expected a Tensor of int64, types from 1 and 0 to fill up")
    if not isinstance(t, Tensor):
        raise TypeError(f"t is a {type(t).__name__}; expected a Tensor of times, int64 or float64")
    if event_type.dim() != 2:
        raise ValueError(f"event_type has shape {tuple(event_type.shape)}; expected (sequences, events)")
    if mask is not None and (not isinstance(mask, Tensor) or mask.dtype != torch.bool):
        found = f"has dtype {mask.dtype}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise TypeError(f"mask {found}; expected a Tensor of bool")
    for name, given in (("t", t), ("mask", mask)):
        if given is None:
            continue
        if given.shape != event_type.shape:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; expected {tuple(event_type.shape)}, as event_type"
            )
        if given.device != event_type.device:
            raise ValueError(f"{name} is on {given.device} but event_type is on {event_type.device}; move one of them")
    return event_type != 0 if mask is None else mask


def _check_events(kind: Tensor, time: Tensor, there: Tensor, num_types: int) -> None:
    """Raise if a type is unknown or times decrease within a sequence; nothing is read back from a device."""
    check_times("t", time)
    if not readable(kind) or kind.numel() == 0:
        return
    low, high = kind.aminmax()
    if low < 0 or high >= num_types:
        raise ValueError(f"event_type has values from {int(low) + 1} to {int(high) + 1}; expected 1 to {num_types}")
    if bool(((time.diff(dim=1) < 0) & there[:, 1:]).any()):
        raise ValueError("t decreases within a sequence; sort the events of each sequence by time")
