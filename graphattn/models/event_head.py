"""The head over networks of events: which pairs of nodes meet, or what class an event has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data

from graphattn.models.event_network import EventNetwork
from graphattn.models.network import reset
from graphattn.nn.dropout import drop
from graphattn.nn.feed_forward import check_options


class EventHead(EventNetwork):
    r"""Score pairs of embedded nodes, or classify the sources of events.

    .. math::
        s_{ij} = \mathbf{w}^{\top} \operatorname{relu}(\mathbf{W} [\mathbf{h}_i ; \mathbf{h}_j] + \mathbf{b}) + b',
        \qquad \mathbf{y}_i = \mathbf{W}' \operatorname{relu}(\mathbf{W} \mathbf{h}_i + \mathbf{b}) + \mathbf{b}'

    Args:
        backbone: Network that embeds the nodes.
        channels: Width of its output.
        out_channels: Classes of an event; ``None`` to score pairs.
        dropout: Probability of dropping an activation between the two maps in training.

    Shapes:
        - **input:** a sample of the kind that the backbone takes, ``src`` :math:`(P,)`, ``dst`` :math:`(P,)`
        - **output:** :math:`(P,)`, logits of pairs; or :math:`(P, C)`

    Raises:
        ValueError: If ``out_channels`` is below 1.

    Example:
        >>> from torch_geometric.data import TemporalData
        >>> from graphattn.models import TGAT
        >>> from graphattn.training import TemporalSampler
        >>> events = TemporalData(src=torch.tensor([0, 1]), dst=torch.tensor([1, 2]), t=torch.tensor([10, 20]))
        >>> past = TemporalSampler(events, [10]).sample(torch.tensor([0, 2, 1]), torch.tensor([35, 35, 35]))
        >>> net = EventHead(TGAT(0, 8, 4, num_layers=1), 4)
        >>> net(past, torch.tensor([0, 0]), torch.tensor([1, 2])).shape  # does node 0 meet node 2, or node 1?
        torch.Size([2])

    Reference:
        Xu et al., "Inductive Representation Learning on Temporal Graphs", 2020.
    """

    def __init__(
        self, backbone: EventNetwork, channels: int, out_channels: int | None = None, *, dropout: float = 0.0
    ) -> None:
        super().__init__(locals())
        check_options("relu", dropout=dropout)
        if out_channels is not None and out_channels < 1:
            raise ValueError(f"out_channels is {out_channels}; expected at least 1, or None to score pairs")
        self.backbone = backbone
        self.past = backbone.past
        self.num_layers = backbone.num_layers
        self.out_channels = out_channels
        self.lins = nn.ModuleList(
            [
                nn.Linear(channels if out_channels is not None else 2 * channels, channels),
                nn.Linear(channels, out_channels or 1),
            ]
        )
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew and forget all events."""
        reset(self.backbone, *self.lins)

    def reset_state(self) -> None:
        """Forget all events."""
        self.backbone.reset_state()

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Remember events; the arguments are those of :class:`EventNetwork`."""
        self.backbone.update_state(src, dst, t, msg)

    def forward(self, past: Data, src: Tensor, dst: Tensor | None = None) -> Tensor:
        """Embed what the sample was asked for, and score pairs of it or classify it.

        Args:
            past: The sample.
            src: Rows of the sources.
            dst: Rows of the destinations, to score pairs.

        Raises:
            ValueError: If there are destinations and classes, or neither.
        """
        if (dst is None) != (self.out_channels is not None):
            missing = "missing, but pairs are scored" if dst is None else "given, but events are classified"
            raise ValueError(f"dst is {missing}; out_channels of the head is {self.out_channels}")
        h = self.backbone(past)
        z = h[src] if dst is None else torch.cat([h[src], h[dst]], dim=1)
        z = drop(F.relu(self.lins[0](z)), self.dropout, self.training)
        out: Tensor = self.lins[1](z)
        return out.squeeze(1) if dst is not None else out
