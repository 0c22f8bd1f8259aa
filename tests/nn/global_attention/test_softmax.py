"""SoftmaxAttention against torch's own attention, attention over edges, and what the softmax implies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn.affinity import Affinity
from graphattn.nn import AttentionConv
from graphattn.nn.global_attention import SoftmaxAttention
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import (
    CHANNELS,
    HEADS,
    SIZES,
    assert_close,
    fill,
    heads_of,
    joined,
    nodes,
    shuffled_batch,
)


def make(**options: Any) -> Callable[[], SoftmaxAttention]:
    return lambda: SoftmaxAttention(CHANNELS, HEADS, **options)


def with_affinity(**options: Any) -> nn.Module:
    """Reach the path that forms the scores, without changing them."""

    class Unbiased(SoftmaxAttention):
        def forward(self, x: Tensor, batch: Tensor | None = None, **inputs: Any) -> Any:
            none = torch.empty(2, 0, dtype=torch.long, device=x.device), x.new_empty(0)
            return super().forward(x, batch, affinity=none, **inputs)

    return Unbiased(CHANNELS, HEADS, **options)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"head_channels": 5, "scale": 0.7}], ids=str)
def test_shared_checks(options: dict[str, Any]) -> None:
    cases.check_all(make(**options))
    cases.check_content_of_padding(make(**options))


def test_shared_checks_with_scores_formed() -> None:
    cases.check_batched_equals_looped(with_affinity)
    cases.check_batched_equals_looped(with_affinity, context=True)
    cases.check_no_sources(with_affinity)
    cases.check_gradients(with_affinity)
    cases.check_causal(lambda: with_affinity(causal=True))


def test_bad_options() -> None:
    cases.check_bad_options(SoftmaxAttention)


@pytest.mark.slow
def test_compiles_by_inductor() -> None:
    cases.check_compile(make(causal=True), backend="inductor")


@pytest.mark.slow
def test_compiles_with_an_affinity() -> None:
    cases.check_compile(with_affinity)


def torch_attention(ours: SoftmaxAttention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    return theirs


def test_equals_multihead_attention_of_torch() -> None:
    ours, causal = fill(make()()), fill(make(causal=True)())
    causal.load_state_dict(ours.state_dict())
    x, y = nodes(7), nodes(4)
    theirs = torch_attention(ours)
    out, weights = theirs(x[None], x[None], x[None], average_attn_weights=False)
    assert_close(ours(x), out[0])
    assert_close(ours(x, return_attention_weights=True)[0], out[0])
    assert_close(ours(x, return_attention_weights=True)[1], weights)
    out, weights = theirs(x[None], y[None], y[None], average_attn_weights=False)
    assert_close(ours(x, context=y), out[0])
    assert_close(ours(x, context=y, return_attention_weights=True)[1], weights)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    out, weights = theirs(x[None], x[None], x[None], attn_mask=mask, average_attn_weights=False)
    assert_close(causal(x), out[0])
    assert_close(causal(x, return_attention_weights=True)[1], weights)


def test_weights_of_a_batch() -> None:
    """Each graph has the weights it has alone, at the start of its block, and zeros behind."""
    module, x, batch = fill(make()()), nodes(sum(SIZES)), shuffled_batch()
    out, weights = module(x, batch, return_attention_weights=True)
    assert_close(out, module(x, batch))
    expected = torch.zeros(len(SIZES), HEADS, max(SIZES), max(SIZES), dtype=torch.float64)
    for graph, size in enumerate(SIZES):
        if size:
            expected[graph, :, :size, :size] = module(x[batch == graph], return_attention_weights=True)[1][0]
    assert_close(weights, expected)
    there = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(1)
    assert_close(weights.sum(-1), there.unsqueeze(1).double().expand(-1, HEADS, -1))


def complete(num_targets: int, num_sources: int) -> Tensor:
    target, source = torch.ones(num_targets, num_sources).nonzero().T
    return torch.stack([source, target])


def test_equals_attention_over_edges() -> None:
    """All pairs as edges, and the pairs of no later source."""
    module = fill(make()())
    x = nodes(7)
    conv = AttentionConv(CHANNELS, CHANNELS // HEADS, HEADS, score="dot", root_weight=False, bias=False).double()
    linears = (conv.score.lin_query, conv.score.lin_key, conv.score.lin_value)
    with torch.no_grad():
        module.qkv.bias.zero_()
        for linear, weight in zip(linears, module.qkv.weight.chunk(3), strict=True):
            linear.weight.copy_(weight)
    edges = complete(7, 7)
    assert_close(module.proj(conv(x, edges)), module(x))
    module.causal = True
    assert_close(module.proj(conv(x, edges[:, edges[0] <= edges[1]])), module(x))


def test_output_lies_in_the_hull_of_the_values() -> None:
    module, (q, k, v) = make()(), (10 * torch.randn(3, 2, HEADS, 9, 4)).double()
    for causal in (False, True):
        module.causal = causal
        out = module.attend(q, k, v, None, None)
        slack = 8 * torch.finfo(torch.float64).eps * v.abs().max()
        assert (out <= v.amax(2, keepdim=True) + slack).all()
        assert (out >= v.amin(2, keepdim=True) - slack).all()


def test_what_changes_nothing() -> None:
    """A number for each row of scores, the bias of the keys, another order of the sources."""
    module, x, y = fill(make()()), nodes(5), nodes(8)
    out = module(x, context=y)
    shifts = torch.randn(5, 1).double().expand(5, 8)
    assert_close(module(x, context=y, affinity=Affinity.from_dense(shifts)), out)
    assert_close(module(x, context=y[torch.randperm(8)]), out)
    with torch.no_grad():
        module.qkv.bias[CHANNELS : 2 * CHANNELS] += 3.0
    assert_close(module(x, context=y), out)


def test_limits_of_the_scale() -> None:
    """Without a scale everything weighs the same; with a large one the best source is all; one source is copied."""
    x = nodes(6)
    flat, sharp = fill(make(scale=0.0)()), make(scale=1e9)().double()
    sharp.load_state_dict(flat.state_dict())
    q, k, v = heads_of(flat, x)
    assert_close(flat(x), joined(flat, v.mean(2, keepdim=True).expand_as(q)))
    best = (q @ k.transpose(-2, -1)).argmax(-1, keepdim=True)
    assert_close(sharp(x), joined(sharp, v.gather(2, best.expand_as(q))))
    assert_close(flat(x, context=x[2:3]), joined(flat, v[:, :, 2:3].expand_as(q)))
    assert_close(sharp(x, context=x[2:3]), flat(x, context=x[2:3]))


def test_equal_projections_score_symmetrically() -> None:
    module, x = fill(make()()), nodes(6)
    with torch.no_grad():
        module.qkv.weight[CHANNELS : 2 * CHANNELS] = module.qkv.weight[:CHANNELS]
        module.qkv.bias[CHANNELS : 2 * CHANNELS] = module.qkv.bias[:CHANNELS]
    logs = module(x, return_attention_weights=True)[1][0].log()
    # Up to a number for each row the logarithms are the scores; the diagonal cancels it.
    skew = logs - logs.transpose(-2, -1)
    assert_close(skew, (skew[:, :, :1] - skew[:, :, :1].transpose(-2, -1)))


def test_jacobian_of_the_softmax() -> None:
    module, x = fill(SoftmaxAttention(CHANNELS)), nodes(4)

    def weights(scores: Tensor) -> Tensor:
        return module(x, affinity=Affinity.from_dense(scores), return_attention_weights=True)[1][0, 0]

    scores = torch.randn(4, 4).double()
    A = weights(scores)
    expected = torch.einsum("ij,il,jk->ijlk", A, torch.eye(4).double(), torch.eye(4).double())
    expected = expected - torch.einsum("ij,ik,il->ijlk", A, A, torch.eye(4).double())
    assert_close(torch.autograd.functional.jacobian(weights, scores), expected)


def dense_oracle(module: SoftmaxAttention, x: Tensor, bias: Tensor, context: Tensor | None = None) -> Tensor:
    q, k, v = heads_of(module, x, context)
    return joined(module, torch.softmax(module.scale * q @ k.transpose(-2, -1) + bias, dim=-1) @ v)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_affinity_adds_to_the_scores(heads: bool, causal: bool) -> None:
    """Edges of a batch, a pair given twice and one excluded, as a tuple, as sparse and as dense affinity."""
    module, x, batch = fill(make(causal=causal)()), nodes(sum(SIZES)), shuffled_batch()
    same = batch.unsqueeze(1) == batch
    edge_index = (same & (torch.rand(same.shape) < 0.5)).nonzero().T.flip(0)
    edge_index = torch.cat([edge_index, edge_index[:, :3]], dim=1)
    values = torch.randn(edge_index.size(1), *([HEADS] if heads else [])).double()
    added = (values.T if heads else values.unsqueeze(0)).expand(HEADS, -1)
    empty = torch.zeros(len(x), len(x)).double()
    pairs = torch.stack([empty.index_put((edge_index[1], edge_index[0]), row, accumulate=True) for row in added])
    forbidden = torch.full_like(empty, -torch.inf).triu(1) if causal else empty
    expected = torch.zeros_like(x)
    for graph in range(len(SIZES)):
        own = batch == graph
        bias = (pairs + forbidden)[:, own][:, :, own]
        expected[own] = dense_oracle(module, x[own], bias).detach()
    sparse = Affinity.from_edge_index(edge_index, values, len(x))
    dense = Affinity.from_dense(pairs)
    for affinity in ((edge_index, values), (edge_index.int(), values), sparse, dense):
        assert_close(module(x, batch, affinity=affinity), expected)
        assert_close(module(x, batch, affinity=affinity, return_attention_weights=True)[0], expected)
    x, block = x[batch == 3], dense.matrix[:, batch == 3][:, :, batch == 3]
    assert_close(module(x, affinity=Affinity.from_dense(block)), expected[batch == 3])


def test_gradient_of_the_affinity() -> None:
    module, x, y = fill(make()()), nodes(4), nodes(3)
    graphs = {"batch": torch.tensor([0, 1, 1, 0]), "context_batch": torch.tensor([1, 0, 1])}
    edge_index = torch.tensor([[0, 2, 1, 0, 2], [1, 1, 3, 2, 2]])
    values = torch.randn(5, HEADS).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: module(x, context=y, affinity=(edge_index, v), **graphs), values)


def test_affinity_excludes() -> None:
    """Without the excluded pairs the rest is as before; a target with nothing left gets 0, and so do its gradients."""
    module, x, y = fill(make()()), nodes(3), nodes(4).requires_grad_()
    edge_index = torch.cat([torch.tensor([[1], [0]]), complete(3, 4)[:, 4:8]], dim=1)
    excluded = edge_index, torch.full((5,), -torch.inf).double()
    for out in (
        module(x, context=y, affinity=excluded),
        module(x, context=y, affinity=excluded, return_attention_weights=True)[0],
    ):
        assert_close(out[0], module(x, context=y[[0, 2, 3]])[0])
        assert torch.equal(out[1], module.proj.bias)
        assert_close(out[2], module(x, context=y)[2])
        assert (torch.autograd.grad(out[1].sum(), y, retain_graph=True)[0] == 0).all()
        assert torch.autograd.grad(out.sum(), y)[0].isfinite().all()


def test_bad_affinities() -> None:
    module, x, batch = make()(), torch.rand(3, CHANNELS), torch.tensor([0, 1, 0])
    ones = torch.ones(1)
    for message, affinity in {
        "affinity is 4 x 4; expected 3 targets x 3 sources": Affinity.from_dense(torch.ones(4, 4)),
        "affinity has 2 heads; expected 3": (torch.tensor([[0], [2]]), torch.ones(1, 2)),
        "joins source 1 to target 2": (torch.tensor([[1], [2]]), ones),
    }.items():
        with pytest.raises(ValueError, match=message):
            module(x, batch, affinity=affinity)
    with pytest.raises(ValueError, match="3"):
        module(x, batch, affinity=(torch.tensor([[3], [2]]), ones))


def test_pairs_across_graphs_that_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where values are not looked at, as on a GPU, a pair of different graphs is no pair, and nothing else moves."""
    module, x, batch = fill(make()()), nodes(4), torch.tensor([0, 1, 0, 1])
    monkeypatch.setattr("graphattn.nn.global_attention.softmax.readable", lambda x: False)
    across = torch.tensor([[1, 0, 2], [0, 2, 3]]), torch.tensor([5.0, 1.0, 5.0]).double()
    within = torch.tensor([[0], [2]]), torch.tensor([1.0]).double()
    assert_close(module(x, batch, affinity=across), module(x, batch, affinity=within))


@pytest.mark.parametrize("formed", [False, True])
def test_dropout_drops_weights(formed: bool) -> None:
    """In training alone; what is left is scaled up and not normalized anew; returned weights are those before."""
    module, x = fill(SoftmaxAttention(2, dropout=0.25)), nodes(400, 2)
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.bias.fill_(1.0)
        module.proj.weight.copy_(torch.eye(2))
        module.proj.bias.zero_()
    call: Callable[[], Tensor] = (
        (lambda: module(x, return_attention_weights=True)[0]) if formed else (lambda: module(x))
    )
    assert_close(call(), torch.ones(400, 2).double())
    module.train()
    out = call().detach()
    assert torch.equal(out[:, 0], out[:, 1])
    kept = out[:, 0] * 0.75 * 400
    assert_close(kept, kept.round(), roundings=1e4)
    # 160,000 draws: six standard deviations of their mean.
    assert abs(float(kept.mean()) / 400 - 0.75) < 6 * (0.75 * 0.25 / 160_000) ** 0.5
    if formed:
        assert_close(
            module(x, return_attention_weights=True)[1], torch.full((1, 1, 400, 400), 1 / 400, dtype=torch.float64)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_sources_in_half_precision(dtype: torch.dtype) -> None:
    """The weights of 70,000 sources, more than the largest number of float16, sum to 1."""
    module = SoftmaxAttention(2).to(dtype)
    with torch.no_grad():
        module.qkv.weight.zero_()
        module.qkv.bias.fill_(1.0)
        module.proj.weight.copy_(torch.eye(2))
    x, context = torch.ones(1, 2, dtype=dtype), torch.ones(70_000, 2, dtype=dtype)
    for out in (module(x, context=context), module(x, context=context, return_attention_weights=True)[0]):
        assert (out - 1.0).abs().max() <= torch.finfo(dtype).eps


def test_full_graphs_need_no_mask() -> None:
    """Graphs of one size go without a mask, for which torch has the fastest kernels; the result is the same."""
    module, x = fill(make()()), nodes(12)
    batch = shuffled_batch((3, 3, 3, 3))
    assert module.places(x, batch)[0].mask is None
    assert_close(module(x, batch), module(x, batch, max_nodes=5))
