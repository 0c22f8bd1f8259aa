"""LinearAttention against its formula over all pairs and against other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.nn.global_attention import LinearAttention
from graphattn.nn.global_attention.linear import elu_features, linear_attention
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import CHANNELS, HEADS, assert_close, fill, foreign, heads_of, joined, nodes


def make(**options: Any) -> Callable[[], LinearAttention]:
    return lambda: LinearAttention(CHANNELS, HEADS, **options)


def dense_weights(module: LinearAttention, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Weights of all pairs ``[1, H, N, M]``, by the formula."""
    q, k, _ = heads_of(module, x, context)
    scores = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-2, -1)
    scores = scores.tril() if module.causal else scores
    return scores / (scores.sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"head_channels": 5}], ids=str)
def test_shared_checks(options: dict[str, Any]) -> None:
    cases.check_all(make(**options))
    cases.check_content_of_padding(make(**options))


def test_bad_options() -> None:
    cases.check_bad_options(LinearAttention)


def test_dropout() -> None:
    cases.check_dropout(make())


@pytest.mark.parametrize("causal", [False, True])
def test_forms_no_pairs(causal: bool) -> None:
    cases.check_linear_memory(make(causal=causal), 16_384)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_nodes", [1, 63, 64, 65, 200])
def test_equals_the_formula(num_nodes: int, causal: bool) -> None:
    """Around the length of a chunk and over several."""
    module, x = fill(make(causal=causal)()), nodes(num_nodes)
    assert_close(module(x), joined(module, dense_weights(module, x) @ heads_of(module, x)[2]))


def test_equals_the_formula_with_other_sources() -> None:
    module, x, y = fill(make()()), nodes(5), nodes(9)
    assert_close(module(x, context=y), joined(module, dense_weights(module, x, y) @ heads_of(module, x, y)[2]))


def test_rank_is_at_most_the_number_of_features() -> None:
    module = fill(make()())
    values = torch.linalg.svdvals(dense_weights(module, nodes(30)))
    assert (values[..., 2:] < 1e-12).all()
    assert (values[..., 1] > 1e-3).all()


def test_last_causal_node_sees_all() -> None:
    module, x = fill(make()()), nodes(130)
    full = module(x)[-1]
    module.causal = True
    assert_close(module(x)[-1], full)


@pytest.mark.parametrize("causal", [False, True])
def test_masking_a_source_deletes_it(causal: bool) -> None:
    module, (q, k, v) = make(causal=causal)(), torch.randn(3, 1, HEADS, 9, 2, dtype=torch.float64)
    there = torch.tensor([[True, False, True, True, False, True, True, True, False]])
    kept = there[0].nonzero().squeeze(1)
    out = module.attend(q, k, v, None, there)
    queries = q[:, :, kept] if causal else q
    expected = module.attend(queries, k[:, :, kept], v[:, :, kept], None, None)
    assert_close(out[:, :, kept] if causal else out, expected)


def test_features_are_those_of_elu() -> None:
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
    assert_close(elu_features(x), torch.nn.functional.elu(x) + 1)
    theirs = torch.autograd.grad((torch.nn.functional.elu(x) + 1).sum(), x)[0]
    assert_close(torch.autograd.grad(elu_features(x).sum(), x)[0], theirs)
    assert elu_features(torch.tensor(-80.0)) > 0


def test_other_features() -> None:
    """Any positive features: squares make the kernel a polynomial."""
    module = fill(make(feature_map=lambda x: torch.cat([x.square(), torch.ones_like(x[..., :1])], -1))())
    x = nodes(7)
    q, k, v = heads_of(module, x)
    scores = q.square() @ k.square().transpose(-2, -1) + 1
    assert_close(module(x), joined(module, scores / (scores.sum(-1, keepdim=True) + 1e-6) @ v))


@pytest.mark.parametrize("causal", [False, True])
def test_equals_fast_transformers(causal: bool) -> None:
    attention = foreign("fast_transformers.attention")
    masking = foreign("fast_transformers.masking")
    ours = make(causal=causal)()
    q, k, v = torch.randn(3, 2, 70, HEADS, 2)
    lengths = torch.tensor([70, 40])
    theirs = (attention.CausalLinearAttention if causal else attention.LinearAttention)(2)
    mask = masking.TriangularCausalMask(70) if causal else masking.FullMask(70)
    expected = theirs(q, k, v, mask, masking.LengthMask(lengths), masking.LengthMask(lengths))
    there = torch.arange(70) < lengths.unsqueeze(1)
    found = ours.attend(*(x.transpose(1, 2) for x in (q, k, v)), there, there).transpose(1, 2)
    torch.testing.assert_close(found[there], expected[there])


def test_equals_linear_attention_transformer() -> None:
    """Theirs has softmax features, of queries over channels and of keys over nodes, and a factor of its own."""
    theirs = foreign("linear_attention_transformer.linear_attention_transformer")
    q, k, v = torch.randn(3, 2, HEADS, 11, 4, dtype=torch.float64)
    there = torch.arange(11) < torch.tensor([11, 6]).unsqueeze(1)
    keys = k.masked_fill(~there[:, None, :, None], -torch.inf).softmax(-2)
    expected = theirs.linear_attn(q, k.clone(), v.clone(), there)
    assert_close(linear_attention(q.softmax(-1), keys, v), 2 * expected)
    expected = theirs.causal_linear_attn(q, k, v, bucket_size=1)
    total = torch.einsum("bhnd,bhnd->bhn", q.softmax(-1) / 2, k.exp().cumsum(-2))
    assert (total > 1e-3).all(), "theirs has a bound below the denominator, which must not matter"
    assert_close(linear_attention(q.softmax(-1), k.exp(), v, causal=True), expected)
