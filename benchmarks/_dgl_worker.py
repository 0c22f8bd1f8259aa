"""DGL's side of ``attention.py``, run by another interpreter: one JSON request a line in, one JSON answer a line out.

It gets graph, features and weights as arrays in an ``.npz`` file, so that both sides compute the same thing.
"""

from __future__ import annotations

import json
import os
import sys

import dgl
import numpy as np
import torch
from _measure import Runner
from dgl.nn.functional import edge_softmax
from dgl.nn.pytorch import GATConv, GATv2Conv
from torch import Tensor, nn


def attend(graph: dgl.DGLGraph, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention with DGL's fused kernels: SDDMM, edge softmax, SpMM."""
    scores = dgl.ops.u_dot_v(graph, k, q) / q.size(-1) ** 0.5
    return dgl.ops.u_mul_e_sum(graph, v, edge_softmax(graph, scores))


class DotConv(nn.Module):
    """The layer of PyG's ``TransformerConv``, which DGL does not have, on DGL's kernels."""

    def __init__(self, in_channels: int, out_channels: int, heads: int) -> None:
        super().__init__()
        width = heads * out_channels
        self.shape = (-1, heads, out_channels)
        self.lin_key = nn.Linear(in_channels, width)
        self.lin_query = nn.Linear(in_channels, width)
        self.lin_value = nn.Linear(in_channels, width)
        self.lin_skip = nn.Linear(in_channels, width)

    def forward(self, graph: dgl.DGLGraph, x: Tensor) -> Tensor:
        q, k, v = (lin(x).view(self.shape) for lin in (self.lin_query, self.lin_key, self.lin_value))
        return attend(graph, q, k, v).flatten(1) + self.lin_skip(x)


# The names of PyG's parameters in DGL's layers; GATv2Conv has no output bias in DGL (it is 0 in the benchmark).
_NAMES = {
    "gat": {"lin.weight": "fc.weight", "att_src": "attn_l", "att_dst": "attn_r", "bias": "bias"},
    "gatv2": {
        "lin_l.weight": "fc_src.weight",
        "lin_l.bias": "fc_src.bias",
        "lin_r.weight": "fc_dst.weight",
        "lin_r.bias": "fc_dst.bias",
        "att": "attn",
    },
}
_NAMES["gat+loops"] = _NAMES["gat"]


def build_layer(subject: str, in_channels: int, channels: int, heads: int, weights: dict[str, Tensor]) -> nn.Module:
    """Make the DGL layer with PyG's weights."""
    if subject == "dot":
        layer: nn.Module = DotConv(in_channels, channels, heads)
    elif subject == "gatv2":
        layer = GATv2Conv(in_channels, channels, heads, allow_zero_in_degree=True)
    else:
        layer = GATConv(in_channels, channels, heads, allow_zero_in_degree=True)
    names = _NAMES.get(subject, {name: name for name in weights})
    layer.load_state_dict({theirs: weights[ours] for ours, theirs in names.items()})
    return layer


def load(path: str, subject: str, nodes: int, heads: int, channels: int) -> Runner:
    """Make a runner of the arrays in a file; the graph's formats are built here, once, as DGL recommends."""
    with np.load(path) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    source, target = tensors.pop("edge_index")
    graph = dgl.graph((source, target), num_nodes=nodes)
    if subject == "gat+loops":
        graph = dgl.add_self_loop(dgl.remove_self_loop(graph))
    graph.create_formats_()
    cotangent = tensors.pop("cotangent", None)
    weights = {name[2:]: value for name, value in tensors.items() if name.startswith("w:")}
    leaves = {name: value for name, value in tensors.items() if not name.startswith("w:")}
    if cotangent is not None:
        for leaf in leaves.values():
            leaf.requires_grad_()
    if subject == "edge_attention":
        return Runner(lambda: attend(graph, **leaves), leaves, cotangent=cotangent)
    x = leaves["x"]
    layer = build_layer(subject, x.size(1), channels, heads, weights)
    return Runner(lambda: layer(graph, x).flatten(1), leaves, layer.parameters(), cotangent)


def main() -> None:
    """Answer requests until the input ends."""
    # DGL prints to stdout now and then; the answers go to a copy of it that nobody else knows.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runner: Runner | None = None
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer: object = None
        if do == "hello":
            torch.set_num_threads(request["threads"])
            answer = {"dgl": dgl.__version__, "dgl's torch": torch.__version__}
        elif do == "load":
            runner = None  # the former graph goes before the next one comes
            runner = load(**request)
        elif do == "results":
            assert runner is not None
            np.savez(request["path"], **{name: value.numpy() for name, value in runner.results().items()})
        else:
            assert runner is not None
            answer = {"forward": runner.forward, "train": runner.train, "peak": runner.peak}[do](**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
