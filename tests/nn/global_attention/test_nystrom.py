"""NystromAttention against its formula, exact attention and the authors' code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graphattn.nn.global_attention import NystromAttention, SoftmaxAttention
from graphattn.nn.global_attention.nystrom import segment_means
from tests.budget import assert_within_budget
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import CHANNELS, HEADS, SIZES, assert_close, fill, foreign, heads_of, joined, nodes


def make(**options: Any) -> Callable[[], NystromAttention]:
    options.setdefault("num_landmarks", 3)
    return lambda: NystromAttention(CHANNELS, HEADS, **options)


def exact(module: NystromAttention) -> SoftmaxAttention:
    softmax = SoftmaxAttention(CHANNELS, HEADS).to(module.qkv.weight.dtype)
    softmax.load_state_dict(module.state_dict(), strict=False)
    return softmax


def landmarks(x: Tensor, number: int) -> Tensor:
    """Means of segments of ``[1, H, N, d]``: node ``i`` is in segment ``floor(i * number / N)``."""
    size = x.size(2)
    starts = [-(-size * s // number) for s in range(number + 1)]
    return torch.stack([x[:, :, a:b].mean(2) for a, b in itertools.pairwise(starts)], dim=2)


def dense(module: NystromAttention, x: Tensor, context: Tensor | None = None) -> Tensor:
    """The three matrices by the formula, for a graph of more sources than landmarks."""
    q, k, v = heads_of(module, x, context)
    q, k = q / module.head_channels**0.25, k / module.head_channels**0.25
    q_means, k_means = (landmarks(s, min(module.num_landmarks, s.size(2))) for s in (q, k))
    near, middle, far = (
        torch.softmax(a @ b.transpose(-2, -1), dim=-1) for a, b in ((q, k_means), (q_means, k_means), (q_means, k))
    )
    if module.pinv == "exact":
        inverse = torch.from_numpy(np.linalg.pinv(middle.detach().numpy()))
    else:
        norms = torch.linalg.matrix_norm(middle, 1) * torch.linalg.matrix_norm(middle, torch.inf)
        inverse, identity = middle.transpose(-2, -1) / norms[..., None, None], torch.eye(middle.size(-2)).to(middle)
        for _ in range(module.iterations):
            P = middle @ inverse
            inverse = inverse @ (13 * identity - P @ (15 * identity - P @ (7 * identity - P))) / 4
    return joined(module, near @ inverse @ far @ v)


@pytest.mark.parametrize("options", [{}, {"head_channels": 5, "num_landmarks": 4}, {"num_landmarks": 64}], ids=str)
def test_shared_checks(options: dict[str, Any]) -> None:
    cases.check_all(make(**options), permutation=False, dtypes=(torch.bfloat16,))


def test_shared_checks_of_the_convolution() -> None:
    cases.check_all(make(conv_kernel=3), context=False, permutation=False, dtypes=(torch.bfloat16,))


def test_shared_checks_of_the_exact_inverse() -> None:
    """All but what NaN in one graph does: the decomposition refuses it. The seed leaves no matrix nearly singular."""
    torch.manual_seed(0)
    cases.check_batched_equals_looped(make(pinv="exact"), roundings=1e6)
    cases.check_batched_equals_looped(make(pinv="exact"), context=True, roundings=1e6)
    cases.check_gradients(make(pinv="exact"))
    cases.check_no_sources(make(pinv="exact"))
    cases.check_dtypes(make(pinv="exact"), dtypes=(torch.bfloat16,))
    cases.check_fake_cuda(make(pinv="exact"))


@pytest.mark.parametrize("options", [{}, {"conv_kernel": 3}, {"num_landmarks": 64, "conv_kernel": 3}], ids=str)
def test_content_of_padding(options: dict[str, Any]) -> None:
    cases.check_content_of_padding(make(**options))


def test_dropout() -> None:
    cases.check_dropout(make())


def test_forms_no_pairs() -> None:
    cases.check_linear_memory(make(num_landmarks=64), 16_384)


@pytest.mark.parametrize("pinv", ["iterative", "exact"])
@pytest.mark.parametrize(("num_nodes", "num_sources"), [(12, None), (13, None), (4, None), (2, 10), (20, 11)])
def test_equals_the_formula(num_nodes: int, num_sources: int | None, pinv: str) -> None:
    module, x = fill(make(pinv=pinv)()), nodes(num_nodes)
    context = None if num_sources is None else nodes(num_sources)
    assert_close(module(x, context=context), dense(module, x, context), roundings=1e6 if pinv == "exact" else 1e3)


def test_float32() -> None:
    """As precise as the formula in float32, over some graphs."""
    module, graphs = fill(make(num_landmarks=5)()), nodes(300).split(30)
    narrow = make(num_landmarks=5)()
    narrow.load_state_dict(module.state_dict())
    found, reference, truth = (
        torch.cat([call(x) for x in graphs]).detach()
        for call in (lambda x: narrow(x.float()), lambda x: dense(narrow, x.float()), module)
    )
    assert_within_budget(found, reference, truth)


def test_segments() -> None:
    """Sizes differ by at most 1, every node is in one, those there are come first; masks may have gaps."""
    for size, number in ((7, 3), (9, 3), (10, 4), (3, 3), (2, 5), (0, 2)):
        means, there = segment_means(torch.eye(size).double().view(1, 1, size, size), None, number)
        members = means[0, 0] > 0
        assert there[0].tolist() == [i < min(size, number) for i in range(number)]
        assert (members.sum(0) == 1).all()
        sizes = members.sum(1)[there[0]]
        assert size == 0 or int(sizes.max() - sizes.min()) <= 1
        assert_close(means.sum(-1)[0, 0], there[0].double())
    x, mask = torch.arange(6.0).double().view(1, 1, 6, 1), torch.tensor([[True, False, True, True, False, True]])
    assert segment_means(x, mask, 2)[0].flatten().tolist() == [1.0, 4.0]


def test_few_sources_get_exact_attention() -> None:
    """Also in a batch with a graph of more; those of as many as landmarks included."""
    module, x = fill(make(num_landmarks=4)()), nodes(sum(SIZES))
    batch = cases.shuffled_batch()
    out, softmax = module(x, batch), exact(module)(x, batch)
    few = batch != 3  # the others have at most 4
    assert_close(out[few], softmax[few])
    assert (out[~few] - softmax[~few]).abs().max() > 1e-6
    wide = make(num_landmarks=64)().double()
    wide.load_state_dict(module.state_dict())
    assert_close(wide(x), exact(wide)(x))


def test_as_many_landmarks_as_nodes() -> None:
    """With a landmark for each node the three matrices are one: exact at once, or with ever more iterations."""
    q, k, v = torch.randn(3, 1, 1, 16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k = q / 8**0.25, k / 8**0.25
    softmax = torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v
    found = []
    for iterations in (6, 12, 30):
        module = NystromAttention(8, num_landmarks=16, iterations=iterations)
        found.append(float((module._approximate(q, k, v, None, None) - softmax).abs().max()))
    assert found[0] > found[1] > found[2]
    assert found[0] < 0.5
    assert found[2] < 1e-6
    assert_close(NystromAttention(8, num_landmarks=16, pinv="exact")._approximate(q, k, v, None, None), softmax, 1e6)


def test_weights_sum_to_one() -> None:
    """With the exact pseudoinverse of an invertible matrix values of 1 stay 1."""
    module = NystromAttention(8, num_landmarks=4, pinv="exact")
    q, k = torch.randn(2, 2, 1, 30, 8, dtype=torch.float64)
    ones = torch.ones(2, 1, 30, 8, dtype=torch.float64)
    assert_close(module.attend(q, k, ones, None, None), ones, roundings=1e6)


def test_convolution() -> None:
    """Each head has one kernel, which moves along the nodes of a graph."""
    module, x = fill(make(conv_kernel=3)()), nodes(9)
    plain = make()().double()
    plain.load_state_dict(module.state_dict(), strict=False)
    v = torch.nn.functional.pad(heads_of(module, x)[2], (0, 0, 1, 1))
    shifted = torch.stack([v[:, :, i : i + 9] for i in range(3)], dim=-1)
    added = (shifted * module.conv.weight.view(1, HEADS, 1, 1, 3)).sum(-1)
    assert_close(module(x), plain(x) + added[0].transpose(0, 1).flatten(1) @ module.proj.weight.T)


def test_bad_options() -> None:
    cases.check_bad_options(NystromAttention)
    for message, options in {
        "pinv is 'fast'": {"pinv": "fast"},
        "compat is 'hf'": {"compat": "hf"},
        "num_landmarks is 0": {"num_landmarks": 0},
        "iterations is 0": {"iterations": 0},
        "conv_kernel is 4; expected an odd number": {"conv_kernel": 4},
    }.items():
        with pytest.raises(ValueError, match=message):
            make(**options)()
    x = torch.rand(6, CHANNELS)
    with pytest.raises(ValueError, match="context is given, but conv_kernel"):
        make(conv_kernel=3)()(x, context=x)
    with pytest.raises(ValueError, match="takes multiples of num_landmarks=4"):
        make(num_landmarks=4, compat="nystromformer")()(x)


# The authors' code ####################################################################################################


def test_compat_nystrom_attention() -> None:
    theirs = foreign("nystrom_attention").NystromAttention(
        CHANNELS, 5, HEADS, num_landmarks=4, pinv_iterations=5, residual_conv_kernel=3
    )
    theirs = theirs.double().eval()
    ours = fill(
        make(head_channels=5, num_landmarks=4, iterations=5, conv_kernel=3, compat="nystromformer", bias=False)()
    )
    with torch.no_grad():
        theirs.to_qkv.weight.copy_(ours.qkv.weight)
        theirs.to_out[0].weight.copy_(ours.proj.weight)
        theirs.to_out[0].bias.zero_()
        theirs.res_conv.weight.copy_(ours.conv.weight)
    x = nodes(3 * 12)
    batch = torch.arange(3).repeat_interleave(12)
    assert_close(ours(x, batch), theirs(x.view(3, 12, CHANNELS)).flatten(0, 1))
    default = make(head_channels=5, num_landmarks=4, iterations=5, conv_kernel=3, bias=False)().double()
    default.load_state_dict(ours.state_dict())
    assert (default(x, batch) - ours(x, batch)).abs().max() > 1e-9


@pytest.mark.parametrize("num_landmarks", [4, 12])
def test_compat_transformers(num_landmarks: int) -> None:
    modeling = foreign("transformers.models.nystromformer.modeling_nystromformer")
    config = foreign("transformers").NystromformerConfig(
        hidden_size=CHANNELS,
        num_attention_heads=HEADS,
        num_landmarks=num_landmarks,
        segment_means_seq_len=12,
        conv_kernel_size=3,
        attention_probs_dropout_prob=0.0,
    )
    theirs = modeling.NystromformerSelfAttention(config).double().eval()
    ours = fill(make(num_landmarks=num_landmarks, conv_kernel=3, compat="nystromformer")())
    with torch.no_grad():
        ours.qkv.bias.zero_()
        for linear, weight in zip((theirs.query, theirs.key, theirs.value), ours.qkv.weight.chunk(3), strict=True):
            linear.weight.copy_(weight)
            linear.bias.zero_()
        theirs.conv.weight.copy_(ours.conv.weight)
    sizes = (12, 7)
    there = torch.arange(12) < torch.tensor(sizes).unsqueeze(1)
    x, batch = nodes(sum(sizes)), torch.arange(2).repeat_interleave(torch.tensor(sizes))
    block = x.new_zeros(2, 12, CHANNELS)
    block[there] = x
    mask = torch.zeros(2, 1, 1, 12).double().masked_fill(~there[:, None, None], torch.finfo(torch.float64).min)
    assert_close(ours(x, batch), ours.proj(theirs(block, mask)[0][there]))
