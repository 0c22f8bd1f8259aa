"""A stream of events for the tests of the networks over events, and embeddings written out pair by pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import TemporalData

from graphattn.models import TGAT
from graphattn.nn import TemporalAttentionConv

NODES, EDGE_DIM = 9, 3


def stream(events: int = 60, *, edge_dim: int = EDGE_DIM, seed: int = 0) -> TemporalData:
    """Events among eight of nine nodes, some with themselves, some at the same time, in seconds of an epoch."""
    generator = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, NODES - 1, (2, events), generator=generator)
    gaps = torch.randint(0, 4, (events,), generator=generator) * 1000
    msg = torch.randn(events, edge_dim, generator=generator).double()
    return TemporalData(src=src, dst=dst, t=1_600_000_000 + gaps.cumsum(0), msg=msg)


def fill(net: nn.Module) -> nn.Module:
    """Draw every parameter anew in float64, so that none is 0 or 1."""
    net = net.double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net


def embedding(net: TGAT, events: TemporalData, node: int, time: int, count: int, layer: int) -> Tensor:
    """The embedding of one node at one time: the recursion, with nothing shared between pairs."""
    if layer == 0:
        return net.start.vector
    own = embedding(net, events, node, time, count, layer - 1)
    meetings = []
    for e in range(events.num_events):
        ends = [(events.src[e], events.dst[e])]
        if ends[0][0] != ends[0][1]:
            ends.append((events.dst[e], events.src[e]))
        meetings += [(e, int(other)) for one, other in ends if one == node and events.t[e] < time]
    rows = []
    for e, other in meetings[-count:]:
        there = embedding(net, events, other, int(events.t[e]), count, layer - 1)
        rows.append((there, events.msg[e], time - int(events.t[e])))
    return attend(net.stack.convs[layer - 1], own, rows)


def attend(conv: TemporalAttentionConv, own: Tensor, rows: list[tuple[Tensor, Tensor, int]]) -> Tensor:
    """One target of a layer, head by head, with a key and a value for each event."""

    def phi(elapsed: int) -> Tensor:
        return torch.cos(elapsed * conv.time_encoding.weight + conv.time_encoding.bias)

    padding = own.new_zeros(conv.edge_dim - EDGE_DIM)
    z = torch.cat([own, own.new_zeros(conv.edge_dim), phi(0)])
    attended = own.new_zeros(conv.width)
    if rows:
        events = torch.stack([torch.cat([h, msg, padding, phi(elapsed)]) for h, msg, elapsed in rows])
        size = conv.width // conv.heads
        for h in range(conv.heads):
            part = slice(h * size, (h + 1) * size)
            keys, values = events @ conv.lin_key.weight[part].T, events @ conv.lin_value.weight[part].T
            query = conv.att if conv.lin_query is None else conv.lin_query.weight[part] @ z / size**0.5
            attended[part] = (keys @ query).softmax(dim=0) @ values
    out = conv.lin_out(attended)
    out = conv.norm((F.leaky_relu(out, 0.2) if conv.mode == "map" else out) + z)
    return conv.merge(torch.cat([out, own]))
