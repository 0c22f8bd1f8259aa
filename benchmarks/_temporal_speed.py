"""A step of TemporalAttentionConv beside two of PyG's TransformerConv, on the same sampled events."""

from __future__ import annotations

import statistics
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _measure import Runner
from torch import Tensor, nn
from torch_geometric.data import Data, TemporalData
from torch_geometric.nn import TransformerConv
from torch_geometric.nn.models.tgn import TimeEncoder

from graphattn.nn import TemporalAttentionConv
from graphattn.nn.encodings.time import TGATEncoding
from graphattn.training import TemporalSampler

CHANNELS, HEADS, BATCHES = 100, 2, 9  # width and heads of PyG's example of TGN


@dataclass(frozen=True)
class Case:
    """Events of a batch, last events of a node, and width of the features of events."""

    batch_size: int
    neighbors: int
    edge_dim: int


CASES = {
    "CollegeMsg: no features": Case(200, 10, 0),
    "as Bitcoin: a rating": Case(200, 10, 1),
    "as Wikipedia: 172 features": Case(200, 10, 172),
    "20 neighbours": Case(200, 20, 0),
    "batches of 1,000": Case(1000, 10, 0),
}
QUICK = Case(20, 3, 1)


class _Transformer(nn.Module):
    """PyG's layer, with times and features of events as in its example of TGN."""

    def __init__(self, edge_dim: int) -> None:
        super().__init__()
        self.time_enc = TimeEncoder(CHANNELS)
        self.conv = TransformerConv(CHANNELS, CHANNELS // HEADS, HEADS, dropout=0.1, edge_dim=CHANNELS + edge_dim)

    def forward(self, x: tuple[Tensor, Tensor], past: Data) -> Tensor:
        encoded = self.time_enc(past.edge_time.to(x[0].dtype))
        out: Tensor = self.conv(x, past.edge_index, torch.cat([encoded, past.msg], dim=1))
        return out


class _EqualTransformer(nn.Module):
    """PyG's layer with the width of ours in place of its attention, and the same maps behind it.

    One weight matrix of PyG's layer serves features of events in keys and in values, where ours has two.
    """

    def __init__(self, edge_dim: int) -> None:
        super().__init__()
        time_dim = CHANNELS + edge_dim % 2
        width = CHANNELS + edge_dim + time_dim
        self.edge_dim = edge_dim
        self.time_enc = TimeEncoder(time_dim)
        self.conv = TransformerConv(
            (CHANNELS, width),
            width // HEADS,
            HEADS,
            dropout=0.1,
            edge_dim=edge_dim + time_dim,
            bias=False,
            root_weight=False,
        )
        self.lin_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)
        self.norm = nn.LayerNorm(width)
        self.merge = nn.Sequential(nn.Linear(width + CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, CHANNELS))

    def forward(self, x: tuple[Tensor, Tensor], past: Data) -> Tensor:
        x_src, x_dst = x
        encoded = self.time_enc(past.edge_time.to(x_src.dtype))
        now = F.pad(self.time_enc(x_src.new_zeros(1)), (self.edge_dim, 0))
        z = torch.cat([x_dst, now.expand(x_dst.size(0), -1)], dim=1)
        out = self.conv((x_src, z), past.edge_index, torch.cat([encoded, past.msg], dim=1))
        out = self.norm(self.dropout(self.lin_out(out)) + z)
        merged: Tensor = self.merge(torch.cat([out, x_dst], dim=1))
        return merged


class _Attention(nn.Module):
    """Our layer, which merges what it has attended to with the node by a perceptron of two maps."""

    def __init__(self, edge_dim: int) -> None:
        super().__init__()
        self.conv = TemporalAttentionConv(
            CHANNELS, CHANNELS, TGATEncoding(CHANNELS + edge_dim % 2), edge_dim=edge_dim or None, heads=HEADS
        )

    def forward(self, x: tuple[Tensor, Tensor], past: Data) -> Tensor:
        msg = past.msg if past.msg.size(1) else None
        out: Tensor = self.conv(x, past.edge_index, past.edge_time, msg)
        return out


def measure(stream: TemporalData, case: Case, repeats: int) -> dict[str, Any]:
    """Return the median seconds of a step of each layer, and the ratios of each peer's to ours in some batches."""
    torch.manual_seed(0)
    msg = torch.randn(stream.num_events, case.edge_dim)
    events = TemporalData(src=stream.src, dst=stream.dst, t=stream.t, msg=msg)
    sampler = TemporalSampler(events, [case.neighbors])
    peers = {"equal": _EqualTransformer(case.edge_dim), "example": _Transformer(case.edge_dim)}
    layers = {"ours": _Attention(case.edge_dim), **peers}
    medians, sizes = [], []
    first = torch.linspace(stream.num_events // 3, stream.num_events - case.batch_size, BATCHES).long()
    for start in first.tolist():
        rows = torch.arange(start, start + case.batch_size)
        others = torch.randint(sampler.num_nodes, rows.shape)
        nodes = torch.cat([stream.src[rows], stream.dst[rows], others])
        past = sampler.sample(nodes, stream.t[rows].repeat(3))
        seconds = _steps(layers, past, repeats)
        medians.append(seconds)
        sizes.append((past.batch_size, past.num_nodes, past.edge_index.size(1)))
    ratios = {name: [each[name] / each["ours"] for each in medians] for name in peers}
    return {
        "rows, sources, events": [statistics.median(size) for size in zip(*sizes, strict=True)],
        "seconds": {name: statistics.median(each[name] for each in medians) for name in layers},
        "ratios": ratios,
        "ratio": {name: statistics.median(ratios[name]) for name in peers},
    }


def _steps(layers: dict[str, nn.Module], past: Data, repeats: int) -> dict[str, float]:
    """Return the median seconds of a forward and a backward pass of each layer, in alternation."""
    x = torch.randn(past.num_nodes, CHANNELS, requires_grad=True)
    cotangent = torch.randn(past.batch_size, CHANNELS)
    runners = {
        name: Runner(
            lambda layer=layer: layer((x, x[: past.batch_size]), past),  # type: ignore[misc]
            {"x": x},
            layer.parameters(),
            cotangent,
        )
        for name, layer in layers.items()
    }
    found: dict[str, list[float]] = {name: [] for name in runners}
    for round_ in range(repeats + 1):  # the first one warms up
        for name, runner in runners.items():
            seconds = runner.train()
            if round_:
                found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def cases(args: Namespace) -> dict[str, Case]:
    """Return what is to be measured."""
    return {"quick": QUICK} if args.quick else CASES
