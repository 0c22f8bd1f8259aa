"""What the tests of the layers share: graphs, layers, one way to call them, and an oracle written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.affinity.normalize import NORMALIZATIONS
from graphattn.nn import AttentionConv, Score
from graphattn.nn.scores import SCORES

HEADS, CHANNELS, EDGE_DIM, WIDTH, TARGET_WIDTH = 3, 5, 2, 7, 9  # all different, and different from every N, M, E


class Manhattan(Score):
    """The score a user would write by hand: another distance, and edge features added to the keys."""

    def edge(self, q_i: Tensor, k_j: Tensor, e_ij: Tensor | None) -> Tensor:
        return -(q_i - self._add_lifted(k_j, e_ij)).abs().sum(dim=-1)


SCORE_NAMES = [*SCORES, "manhattan"]
NORMALIZE_KINDS = list(NORMALIZATIONS)


@dataclass(frozen=True)
class Graph:
    edge_index: Tensor
    num_targets: int
    num_sources: int

    @property
    def num_edges(self) -> int:
        return self.edge_index.size(1)


# Unsorted, with parallel edges (2 -> 4 thrice), loops first, in the middle, last and doubled (at 3), a node without
# incoming edges (7), one without outgoing ones (1) and one without any (6).
SQUARE = Graph(
    torch.tensor([[0, 2, 5, 3, 2, 4, 0, 3, 7, 2, 5], [0, 4, 1, 3, 4, 0, 2, 3, 2, 4, 5]]), num_targets=8, num_sources=8
)
BIPARTITE = Graph(
    torch.tensor([[9, 2, 5, 3, 2, 8, 0, 3, 7, 2, 4, 1], [0, 3, 1, 3, 3, 0, 2, 3, 2, 1, 4, 1]]),
    num_targets=6,
    num_sources=10,
)


def make(score: str, *, dtype: torch.dtype = torch.float64, **options: Any) -> AttentionConv:
    """Build a small layer whose parameters are all random: zero biases and unit sharpness hide mistakes."""
    options.setdefault("in_channels", WIDTH)
    options.setdefault("out_channels", CHANNELS)
    options.setdefault("heads", HEADS)
    conv = AttentionConv(score=Manhattan() if score == "manhattan" else score, **options)
    if not any(isinstance(p, nn.UninitializedParameter) for p in conv.parameters()):
        randomize(conv)
    return conv.to(dtype)


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))


def features(graph: Graph, dtype: torch.dtype = torch.float64) -> Tensor | tuple[Tensor, Tensor]:
    """Node features: one tensor for the square graph, a pair of different widths for the bipartite one."""
    if graph is SQUARE:
        return torch.randn(graph.num_targets, WIDTH).to(dtype)
    pair = torch.randn(graph.num_sources, WIDTH), torch.randn(graph.num_targets, TARGET_WIDTH)
    return pair[0].to(dtype), pair[1].to(dtype)


def width(graph: Graph) -> int | tuple[int, int]:
    return WIDTH if graph is SQUARE else (WIDTH, TARGET_WIDTH)


@contextmanager
def messages(conv: nn.Module) -> Iterator[None]:
    """Force the message path, by a hook that changes nothing."""
    handle = conv.register_message_forward_hook(lambda module, inputs, output: None)
    try:
        yield
    finally:
        handle.remove()


def run(conv: nn.Module, x: Any, edge_index: Any, edge_attr: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
    """Output of one call and the gradient of everything it depends on, by name."""
    pair = list(x) if isinstance(x, tuple) else [x]
    leaves = {f"x[{i}]": t.detach().clone().requires_grad_() for i, t in enumerate(pair) if t is not None}
    ends = [leaves.get(f"x[{i}]") for i in range(len(pair))]
    if edge_attr is not None:
        leaves["edge_attr"] = edge_attr = edge_attr.detach().clone().requires_grad_()
    out = conv(tuple(ends) if isinstance(x, tuple) else ends[0], edge_index, edge_attr=edge_attr, **kwargs)
    out = out[0] if isinstance(out, tuple) else out
    leaves |= {name: p for name, p in conv.named_parameters() if p.requires_grad}
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
    found = torch.autograd.grad(out, list(leaves.values()), cotangent, allow_unused=True)
    grads = {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(leaves.items(), found, strict=True)}
    return {"out": out.detach(), **grads}


def assert_same_run(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare two runs of float64 within torch's default tolerances."""
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], expected[name], msg=lambda m, name=name: f"{name}: {m}")


# The oracle: formulas of methods/attention.md, edge by edge, with none of the library's kernels #######################


def oracle_scores(conv: AttentionConv, x: Any, edge_index: Tensor, edge_attr: Tensor | None) -> Tensor:
    """Scores [E, H] from the layer's parameters alone."""
    x_src, x_dst = x if isinstance(x, tuple) else (x, x)
    s, (source, target) = conv.score, edge_index

    def heads(linear: nn.Module, features: Tensor) -> Tensor:
        bias = linear.bias
        out = features @ linear.weight.T
        return (out if bias is None else out + bias).view(-1, conv.heads, conv.out_channels)

    e = 0.0 if edge_attr is None else heads(s.lin_edge, edge_attr)
    name = type(s).__name__
    if name == "GAT":
        x_i, x_j = heads(s.lin_dst or s.lin_src, x_dst)[target], heads(s.lin_src, x_src)[source]
        total = (x_i * s.att_dst).sum(-1) + (x_j * s.att_src).sum(-1)
        return F.leaky_relu(total if edge_attr is None else total + (e * s.att_edge).sum(-1), s.negative_slope)
    if name == "GATv2":
        total = heads(s.lin_r, x_dst)[target] + heads(s.lin_l, x_src)[source] + e
        return (s.att * F.leaky_relu(total, s.negative_slope)).sum(-1)
    q, k = heads(s.lin_query, x_dst)[target], heads(s.lin_key, x_src)[source]
    if name == "DotProduct":
        return (q * (k + e)).sum(-1) / conv.out_channels**0.5
    if name == "Cosine":
        return s.beta * (q / q.norm(dim=-1, keepdim=True) * (k / k.norm(dim=-1, keepdim=True) + e)).sum(-1)
    if name == "Gaussian":
        return -(q - k - e).square().sum(-1) / (2 * s.log_sigma.exp().square())
    assert name == "Manhattan", f"the oracle has no formula for {name}: add one"
    return -(q - k - e).abs().sum(-1)


def oracle_weights(kind: str, scores: Tensor, graph: Graph, prior: Tensor | None, batch: Tensor | None) -> Tensor:
    """Normalize scores with dense incidence matrices; a prior of 0 removes an edge."""
    source, target = graph.edge_index.long()
    to_row = F.one_hot(target, graph.num_targets).to(scores.dtype)  # [E, N]
    to_col = F.one_hot(source, graph.num_sources).to(scores.dtype)  # [E, M]
    prior = torch.ones_like(scores) if prior is None else prior.expand_as(scores)

    def row_sum(x: Tensor) -> Tensor:
        return to_row @ (to_row.T @ x)

    def over(x: Tensor, total: Tensor) -> Tensor:
        return torch.where(total > 0, x / torch.where(total > 0, total, 1.0), 0.0)

    if kind == "softmax":
        weights = prior * scores.exp()
        return over(weights, row_sum(weights))
    if kind == "sinkhorn":
        weights = prior * scores.exp()
        for _ in range(20):
            weights = over(weights, to_col @ (to_col.T @ weights))
            weights = over(weights, row_sum(weights))
        return weights
    if kind == "sigmoid":
        return prior / (1 + (-scores).exp())
    if kind == "none":
        return prior * scores
    weights = prior * scores.clamp(min=0)
    if kind == "row":
        return over(weights, row_sum(weights))
    if kind == "symmetric":
        rows = to_row.T @ weights
        cols = rows if graph.num_targets == graph.num_sources else to_col.T @ weights
        degrees = (to_row @ rows) * (to_col @ cols)
        return torch.where(degrees > 0, weights / torch.where(degrees > 0, degrees, 1.0).sqrt(), 0.0)
    assert kind == "relu_frobenius", f"the oracle has no formula for {kind}: add one"
    group = torch.zeros(graph.num_targets, dtype=torch.long) if batch is None else batch
    same = (group[target].unsqueeze(1) == group[target].unsqueeze(0)).to(scores.dtype)
    square = same @ weights.square()
    return torch.where(square > 0, weights / (torch.where(square > 0, square, 1.0).sqrt() + 1e-6), 0.0)


def oracle(
    conv: AttentionConv,
    x: Any,
    graph: Graph,
    edge_attr: Tensor | None = None,
    prior: Tensor | None = None,
    batch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and weights of a layer without self-loops."""
    scores = oracle_scores(conv, x, graph.edge_index, edge_attr)
    weights = oracle_weights(conv.normalize, scores, graph, prior, batch)
    return rebuild(conv, x, graph.edge_index, weights, edge_attr), weights


def rebuild(
    conv: AttentionConv, x: Any, edge_index: Tensor, weights: Tensor, edge_attr: Tensor | None = None
) -> Tensor:
    """Output of a layer of one hop from weights per edge, by ``index_add``."""
    return finished(conv, x, gathered(conv, x, edge_index, weights, edge_attr))


def gathered(conv: AttentionConv, x: Any, edge_index: Tensor, weights: Tensor, edge_attr: Tensor | None) -> Tensor:
    """What one hop brings to the targets, [N, H, C]."""
    x_src, x_dst = x if isinstance(x, tuple) else (x, x)
    s, (source, target) = conv.score, edge_index.long()
    linear = {"GAT": "lin_src", "GATv2": "lin_l"}.get(type(s).__name__, "lin_value")
    split = (-1, conv.heads, conv.out_channels)
    values = getattr(s, linear)(x_src).view(split)[source]
    if edge_attr is not None and linear == "lin_value":
        values = values + s.lin_edge(edge_attr).view(split)
    out = values.new_zeros(x_dst.size(0), conv.heads, conv.out_channels)
    return out.index_add(0, target, weights.unsqueeze(-1) * values)


def finished(conv: AttentionConv, x: Any, out: Tensor) -> Tensor:
    """Join the heads and add what does not come along the edges."""
    x_dst = x[1] if isinstance(x, tuple) else x
    out = out.flatten(1) if conv.concat else out.mean(1)
    for term in (conv.lin_skip, conv.res):
        out = out if term is None else out + term(x_dst)
    return out if conv.bias is None else out + conv.bias


def oracle_hops(
    conv: AttentionConv,
    x: Tensor,
    graph: Graph,
    edge_attr: Tensor | None = None,
    prior: Tensor | None = None,
    batch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and weights of a layer of many hops without self-loops: powers or the inverse of a dense matrix."""
    weights = oracle_weights(conv.normalize, oracle_scores(conv, x, graph.edge_index, edge_attr), graph, prior, batch)
    weights = weights / _oracle_radius(conv.normalize, dense(weights, graph), batch)[:, graph.edge_index[1]].T
    return finished(
        conv, x, oracle_series(conv, gathered(conv, x, graph.edge_index, weights, edge_attr), dense(weights, graph))
    ), weights


def oracle_series(conv: AttentionConv, first: Tensor, matrix: Tensor) -> Tensor:
    """Add the further hops to the first, [N, H, C], along a matrix [H, N, N]."""
    decay = torch.as_tensor(conv.decay, dtype=first.dtype).view(-1, 1, 1)
    identity = torch.eye(matrix.size(-1), dtype=first.dtype)
    if conv.hops == math.inf:
        total, length = torch.linalg.inv(identity - decay * matrix), 1 / (1 - decay)
    else:
        powers = [torch.linalg.matrix_power(decay * matrix, t) for t in range(int(conv.hops))]
        total, length = torch.stack(powers).sum(0), sum(decay**t for t in range(int(conv.hops)))
    return ((decay if conv.series == "sum" else 1 / length) * (total @ first.transpose(0, 1))).transpose(0, 1)


def dense(weights: Tensor, graph: Graph) -> Tensor:
    """Weights [E, H] as matrices [H, N, M]; parallel edges add up."""
    matrix = weights.new_zeros(graph.num_targets, graph.num_sources, weights.size(1))
    source, target = graph.edge_index.long()
    return matrix.index_put((target, source), weights, accumulate=True).permute(2, 0, 1)


def _oracle_radius(kind: str, matrix: Tensor, batch: Tensor | None) -> Tensor:
    """Divisor [H, N] of each row under more than one hop."""
    divisors = torch.ones_like(matrix[..., 0])
    if kind not in ("sigmoid", "relu_frobenius"):
        return divisors
    graphs = torch.zeros(matrix.size(1), dtype=torch.long) if batch is None else batch
    for graph in graphs.unique():
        own = graphs == graph
        rows = matrix[:, own]
        value = rows.sum(-1).amax(-1) if kind == "sigmoid" else rows.square().sum((-2, -1)).clamp_min(1.0).sqrt()
        divisors = torch.where(own, torch.where(value > 0, value, 1.0).unsqueeze(1), divisors)
    return divisors


def batched(graphs: list[Graph]) -> tuple[Graph, Tensor, Tensor]:
    """One graph of many side by side, and the graph of each target and of each source."""
    rows = torch.tensor([g.num_targets for g in graphs])
    cols = torch.tensor([g.num_sources for g in graphs])
    starts = torch.stack([cols.cumsum(0) - cols, rows.cumsum(0) - rows], dim=1)
    edge_index = torch.cat([g.edge_index + start.unsqueeze(1) for g, start in zip(graphs, starts, strict=True)], dim=1)
    ids = torch.arange(len(graphs))
    whole = Graph(edge_index, int(rows.sum()), int(cols.sum()))
    return whole, ids.repeat_interleave(rows), ids.repeat_interleave(cols)


def largest_saved(call: Callable[[], Any]) -> int:
    """Number of elements of the largest tensor that autograd keeps for the backward pass of a call."""
    sizes = [0]

    def pack(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return max(sizes)
