"""Primal attention against the kernel singular value decomposition it stands for, in dense float64."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from graphattn.nn.global_attention import PrimalAttention
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import CHANNELS, HEADS, SIZES, assert_close, fill, nodes, run, shuffled_batch

KINDS: list[dict[str, Any]] = [{"low_rank": 3, "rows": 5}, {"low_rank": 3, "rows": 0}, {"low_rank": 3, "causal": True}]


def make(**options: Any) -> Any:
    return lambda: PrimalAttention(CHANNELS, HEADS, **options)


def split(x: Tensor, heads: int) -> Tensor:
    return x.view(len(x), heads, -1).transpose(0, 1)


class Features(NamedTuple):
    """Feature maps ``[H, N, p]`` of queries and keys, and the rows of f(X) ``[H, n, p]``, ``None`` without."""

    q: Tensor
    k: Tensor
    rows: Tensor | None


def features(module: PrimalAttention, x: Tensor) -> Features:
    """Feature maps of one graph from the parameters alone."""
    q, k = (x @ module.qk.weight.T + module.qk.bias).chunk(2, dim=1)
    if module.causal:
        q, k = (torch.stack([part[: i + 1].mean(0) for i in range(len(x))]) for part in (q, k))
    q, k = (split(part, module.heads) for part in (q, k))
    rows = None
    if module.rows:
        # The rule of the paper's code: evenly spaced, rounded down; the exact quotient, not a rounded one.
        chosen = [i * (len(x) - 1) // max(module.rows - 1, 1) for i in range(module.rows)]
        rows = split(x[chosen], module.heads)
    return Features(q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True), rows)


def dense_scores(module: PrimalAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    q, k, rows = features(module, x)
    if rows is None:
        return q @ module.weight_e, k @ module.weight_r
    return q @ rows.transpose(1, 2) @ module.weight_e, k @ rows.transpose(1, 2) @ module.weight_r


def dense(module: PrimalAttention, x: Tensor) -> Tensor:
    both = torch.cat(dense_scores(module, x), dim=-1)
    joined = both @ module.join.weight.T + module.join.bias
    return joined.transpose(0, 1).flatten(1) @ module.proj.weight.T + module.proj.bias


def dense_objective(module: PrimalAttention, x: Tensor, average: bool = False) -> Tensor:
    """The objective of one graph ``[H]``, term by term; ``average`` for the means of the loss."""
    inverse = torch.diag_embed(module.inverse_singular_values)
    left, right = ((score @ inverse * score).sum((1, 2)) / 2 for score in dense_scores(module, x))
    trace = torch.einsum("hnn->h", module.weight_e.transpose(1, 2) @ module.weight_r)
    return (left + right) / (len(x) if average else 1) - trace


def read_scores(module: PrimalAttention, x: Tensor) -> Tensor:
    """Both scores ``[H, N, 2 s]`` from the output, by maps that only arrange them."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for linear in (module.join, module.proj):
            linear.weight.copy_(torch.eye(len(linear.weight)))
            linear.bias.zero_()
        return split(module(x), module.heads)


def ksvd(features: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernel matrix ``[H, N, N]`` and its singular value decomposition."""
    q, k, rows = features
    assert rows is not None
    K = q @ rows.transpose(1, 2) @ rows @ k.transpose(1, 2)
    left, values, right = torch.linalg.svd(K)
    return K, left, values, right.transpose(1, 2)


def test_scores_of_a_singular_value_decomposition() -> None:
    module, x = fill(PrimalAttention(12, 3, low_rank=2, rows=6)), nodes(9, 12)
    maps = features(module, x)
    assert maps.rows is not None
    K, left, values, right = (part[..., :2].detach() for part in ksvd(maps))
    K = ksvd(maps)[0].detach()
    h_e, h_r = left, right
    with torch.no_grad():
        module.weight_e.copy_(maps.rows @ maps.k.transpose(1, 2) @ h_r)
        module.weight_r.copy_(maps.rows @ maps.q.transpose(1, 2) @ h_e)
        module.raw_lambda.copy_((1 / values).expm1().log())
    e, r = read_scores(module, x).chunk(2, dim=-1)
    assert_close(e, K @ h_r)  # the dual form: a sum over the sources
    assert_close(r, K.transpose(1, 2) @ h_e)
    assert_close(e, h_e * values.unsqueeze(1))
    inverse = module.inverse_singular_values.detach().unsqueeze(1)
    assert_close(inverse * e, h_e)
    assert_close(inverse * r, h_r)
    objective = module.ksvd_objective(x)
    assert_close(objective, torch.zeros(1, 3, dtype=torch.float64))
    for grad in torch.autograd.grad(objective.sum(), [module.weight_e, module.weight_r]):
        assert_close(grad, torch.zeros_like(grad))


@pytest.mark.parametrize(("rows", "rank"), [(2, 2), (20, 4)])
def test_rank_is_bounded_by_rows_and_channels(rows: int, rank: int) -> None:
    module = PrimalAttention(12, 3, low_rank=6, rows=rows).double()
    module.join = torch.nn.Linear(12, 12).double()  # wide enough to arrange 2 x 6 scores
    module.proj = torch.nn.Linear(36, 36).double()
    e, r = read_scores(module, nodes(15, 12)).chunk(2, dim=-1)
    for score in (e, r):
        assert torch.linalg.matrix_rank(score).tolist() == [rank] * 3


@pytest.mark.parametrize("options", [*KINDS, {"low_rank": 3, "rows": 1}, {"low_rank": 3, "rows": 40}], ids=str)
def test_is_its_formula(options: dict[str, Any]) -> None:
    module, x = fill(make(**options)()), nodes(9)

    def graded(function: Any) -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        cotangent = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).cos().reshape(out.shape)
        return [out, *torch.autograd.grad(out, [leaf, *module.parameters()], cotangent, materialize_grads=True)]

    for found, expected in (
        (graded(module), graded(lambda x: dense(module, x))),
        (graded(module.ksvd_objective), graded(lambda x: dense_objective(module, x).unsqueeze(0))),
    ):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)


@pytest.mark.parametrize("loss_reduce", ["batch", "sample"])
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_loss(loss_reduce: str, options: dict[str, Any]) -> None:
    module = fill(make(loss_reduce=loss_reduce, eta=0.3, **options)())
    x, batch = nodes(sum(SIZES)), shuffled_batch()
    out, loss = module(x, batch, return_loss=True)
    assert_close(out, module(x, batch))
    present = [graph for graph, size in enumerate(SIZES) if size]
    levels = torch.stack([dense_objective(module, x[batch == graph], average=True).mean() for graph in present])
    expected = levels.mean().square() if loss_reduce == "batch" else levels.square().mean()
    assert_close(loss, 0.3 * expected)
    objective = module.ksvd_objective(x, batch)
    assert objective.shape == (len(SIZES), HEADS)
    for graph in present:
        assert_close(objective[graph], dense_objective(module, x[batch == graph]))
    wider = module(x, batch, return_loss=True, num_graphs=len(SIZES), max_nodes=20)[1]
    assert_close(wider, loss)
    inputs = [x.requires_grad_(), *module.parameters()]
    grads = torch.autograd.grad(module(x, batch, return_loss=True)[1], inputs, materialize_grads=True)
    assert all(grad.isfinite().all() for grad in grads)
    assert dict(zip(["x", *dict(module.named_parameters())], grads, strict=True))["raw_lambda"].abs().min() > 0
    assert module(x[:0], return_loss=True)[1] == 0


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_contract(options: dict[str, Any]) -> None:
    cases.check_batched_equals_looped(make(**options))
    cases.check_nothing_leaks(make(**options))
    cases.check_no_nodes(make(**options))
    cases.check_dtypes(make(**options))
    cases.check_fake_cuda(make(**options))
    cases.check_linear_memory(make(**options), 16384)
    if options.get("causal"):
        cases.check_causal(make(**options))
    elif options["rows"] == 0:
        cases.check_permutation(make(**options))


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_gradients(options: dict[str, Any]) -> None:
    module, batch = fill(make(**options)()), torch.tensor([1, 0, 1, 1])
    names, parameters = zip(*module.named_parameters(), strict=True)

    def call(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, state, (x, batch), {"return_loss": True})

    leaves = nodes(4).requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(call, leaves)


def test_loss_on_fake_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        module = make(low_rank=3)()
        batch = torch.zeros(9, dtype=torch.long)
        loss = module(torch.randn(9, CHANNELS), batch, num_graphs=2, max_nodes=9, return_loss=True)[1]
    assert loss.device.type == "cuda"


def test_weights_start_orthonormal_and_inverse_singular_values_in_the_unit_interval() -> None:
    module = PrimalAttention(8, 2, low_rank=3)
    for weight in (module.weight_e, module.weight_r):
        assert weight.shape == (2, 30, 3)
        gram = (weight.transpose(1, 2) @ weight).double().detach()
        assert (gram - torch.eye(3)).abs().max() < 30 * torch.finfo(torch.float32).eps
    inverse = module.inverse_singular_values
    assert ((inverse > 0.0099) & (inverse < 1)).all()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.reset_parameters()
    assert all((value != before[name]).any() for name, value in module.state_dict().items() if "bias" not in name)


def test_zero_vectors_have_zero_scores_and_finite_gradients() -> None:
    module = fill(PrimalAttention(CHANNELS, HEADS, low_rank=3, bias=False))
    results = run(module, torch.zeros(3, CHANNELS, dtype=torch.float64))
    assert (results["out"] == 0).all()
    assert all(value.isfinite().all() for value in results.values())


# The released code ####################################################################################################


def released(module: PrimalAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores ``[B, H, L, s]`` of a zero-padded batch ``[B, L, C]``, with all places as nodes; the loss of each sample.

    Written from the description of the method's code: Lambda enters squared, tokens and heads are averaged.
    """
    num_graphs, length, _ = x.shape
    q, k = (
        torch.nn.functional.normalize(part.view(num_graphs, length, module.heads, -1).transpose(1, 2), dim=-1)
        for part in (x @ module.qk.weight.T + module.qk.bias).chunk(2, dim=-1)
    )
    if module.rows:
        chosen = torch.linspace(0, length - 1, module.rows, dtype=torch.int)
        sampled = x[:, chosen].view(num_graphs, module.rows, module.heads, -1)
        weight_e, weight_r = (
            torch.einsum("bnhp,hns->bhps", sampled, weight) for weight in (module.weight_e, module.weight_r)
        )
    else:
        weight_e, weight_r = (weight.expand(num_graphs, -1, -1, -1) for weight in (module.weight_e, module.weight_r))
    e, r = torch.einsum("bhnp,bhps->bhns", q, weight_e), torch.einsum("bhnp,bhps->bhns", k, weight_r)
    left, right = (
        (score * module.raw_lambda[None, :, None, :]).norm(dim=-1).square().mean((1, 2)) / 2 for score in (e, r)
    )
    trace = torch.einsum("hns,hnt->hst", module.weight_e, module.weight_r).mean(0).trace()
    return e, r, left + right - trace


@pytest.mark.parametrize("rows", [5, 0])
@pytest.mark.parametrize("loss_reduce", ["batch", "sample"])
def test_compat_is_the_released_formula(rows: int, loss_reduce: str) -> None:
    module = fill(make(low_rank=3, rows=rows, compat="primal", loss_reduce=loss_reduce)())
    x = nodes(2 * 7)
    batch = torch.arange(2).repeat_interleave(7)[:-3]
    padded = x.view(2, 7, -1).clone()
    padded[1, -3:] = 0
    e, r, level = released(module, padded)
    out, loss = module(x[:-3], batch, return_loss=True)
    joined = torch.cat([e, r], -1) @ module.join.weight.T + module.join.bias
    expected = joined.transpose(1, 2).flatten(2) @ module.proj.weight.T + module.proj.bias
    assert_close(out, expected.flatten(0, 1)[:-3])
    assert_close(loss, 0.1 * (level.mean().square() if loss_reduce == "batch" else level.square().mean()))


def test_compat_starts_as_released() -> None:
    module = PrimalAttention(8, 2, low_rank=4, rows=6, compat="primal")
    for weight in (module.weight_e, module.weight_r):
        assert_close(weight.double().square().sum((1, 2)).detach(), torch.ones(2).double(), 1e10)
    assert ((module.raw_lambda >= 0) & (module.raw_lambda < 1)).all()
    assert torch.equal(module.inverse_singular_values, module.raw_lambda.square())


def test_bad_options() -> None:
    for message, options in {
        "channels is 0": {"channels": 0},
        "heads is 4, which does not divide channels=6": {"heads": 4},
        "low_rank is 0": {"low_rank": 0},
        "rows is -1": {"rows": -1},
        "rows is 5, but causal is True": {"rows": 5, "causal": True},
        "eta is -0.1": {"eta": -0.1},
        "loss_reduce is 'sum'; expected 'batch' or 'sample'": {"loss_reduce": "sum"},
        "compat is 'infsa'; expected None or 'primal'": {"compat": "infsa"},
    }.items():
        with pytest.raises(ValueError, match=message):
            PrimalAttention(**{"channels": CHANNELS, **options})


def test_bad_inputs() -> None:
    module, x, batch = make()(), torch.rand(3, CHANNELS), torch.tensor([0, 1, 0])
    for message, inputs in {
        "x has shape \\(3, 5\\); expected \\[nodes, 6\\]": {"x": x[:, :5]},
        "both given": {"batch": batch, "ptr": torch.tensor([0, 1, 3])},
        "neither batch nor ptr": {"max_nodes": 3},
    }.items():
        for call in (module, module.ksvd_objective):
            with pytest.raises(ValueError, match=message):
                call(**{"x": x, **inputs})
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        module(x.long())


def test_repr() -> None:
    assert repr(make()()).startswith("PrimalAttention(\n  6, heads=3, low_rank=20, rows=200\n")
