"""Infinite self-attention against dense float64 formulas, and the bounds its theory gives."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.diffusion import ConvergenceWarning, resolvent
from graphattn.nn.global_attention import InfSA, LinearInfSA
from graphattn.nn.hops import tolerance
from tests.nn.global_attention import cases
from tests.nn.global_attention.cases import CHANNELS, HEADS, SIZES, assert_close, fill, nodes, run, shuffled_batch

HOPS = (1, 3, math.inf)


def make(method: Any = InfSA, **options: Any) -> Any:
    return lambda: method(CHANNELS, HEADS, **options)


def qkv(module: Any, x: Tensor) -> Tensor:
    """Queries, keys and values of one graph ``[3, H, N, d]``, from the parameters alone."""
    flat = x @ module.qkv.weight.T + module.qkv.bias
    return flat.view(len(x), 3, module.heads, module.head_channels).permute(1, 2, 0, 3)


def dense_affinity(module: Any, x: Tensor) -> Tensor:
    """The affinity of one graph, entry by entry from its definition."""
    q, k, _ = qkv(module, x)
    R = torch.einsum("hid,hjd->hij", q, k).div(q.size(-1)).clamp_min(0)
    if not module.causal:
        A = R / (R.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-6)
        return A if module.normalize != "spectral" else A / torch.linalg.eigvals(A).abs().amax(1).view(-1, 1, 1)
    A = torch.zeros_like(R)
    for i in range(len(x)):
        seen = R[:, : i + 1, : i + 1].tril()
        A[:, i, : i + 1] = R[:, i, : i + 1] / (seen.flatten(1).norm(dim=1, keepdim=True) + 1e-6)
    return A


def dense(module: Any, x: Tensor) -> Tensor:
    """Output for one graph by powers, or by the inverse, of the dense affinity."""
    v, A = qkv(module, x)[2], dense_affinity(module, x)
    rho = torch.as_tensor(module.decay, dtype=torch.float64).expand(module.heads).view(-1, 1, 1)
    if module.hops == math.inf:
        out = torch.linalg.solve(torch.eye(len(x), dtype=torch.float64) - rho * A, rho * A @ v)
    else:
        out = sum(torch.linalg.matrix_power(rho * A, t) @ v for t in range(1, module.hops + 1))
    if module.out_scale is not None:
        seen = torch.arange(1.0, len(x) + 1).double() if module.causal else torch.full((len(x),), float(len(x)))
        out = out * seen.double().sqrt().view(-1, 1)
    return out.transpose(0, 1).flatten(1) @ module.proj.weight.T + module.proj.bias


def assert_same_function(module: Any, function: Any, x: Tensor, roundings: float = 1e3) -> None:
    """Compare output and gradients, by the input and all parameters, of a module and of its formula."""
    results = []
    for call in (module, function):
        leaf = x.clone().requires_grad_()
        out = call(leaf)
        cotangent = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).cos().reshape(out.shape)
        grads = torch.autograd.grad(out, [leaf, *module.parameters()], cotangent, materialize_grads=True)
        results.append([out, *grads])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, roundings)


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize(
    "options",
    [{}, {"out_scale": "sqrt_n"}, {"causal": True}, {"causal": True, "out_scale": "sqrt_n"}, {"learn_decay": False}],
    ids=str,
)
def test_is_its_formula(hops: float, options: dict[str, Any]) -> None:
    module, x = fill(make(hops=hops, **options)()), nodes(9)
    # The solver stops at eps^(3/4), 8,192 roundings.
    assert_same_function(module, lambda x: dense(module, x), x, 1e5 if hops == math.inf else 1e3)


@pytest.mark.parametrize("hops", HOPS)
def test_spectral_is_its_formula(hops: float) -> None:
    module, x = fill(make(hops=hops, normalize="spectral")()), nodes(9)
    with torch.no_grad():
        module.qkv.bias[: 2 * CHANNELS] += 4  # positive scores, whose largest eigenvalue is far above the others
    assert_same_function(module, lambda x: dense(module, x), x, 1e5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("hops", HOPS)
def test_contract(hops: float, causal: bool) -> None:
    options = make(hops=hops, causal=causal)
    if hops == 1:
        cases.check_all(options)
        return
    cases.check_batched_equals_looped(options, roundings=3e4)
    with pytest.warns(ConvergenceWarning) if hops == math.inf and not causal else nullcontext():  # of NaN
        cases.check_nothing_leaks(options)
    cases.check_no_nodes(options)
    cases.check_gradients(options)
    # The solver of all hops stops at a residual of its own in float32; see the test below.
    cases.check_dtypes(options, dtypes=(torch.bfloat16,) if hops == math.inf else (torch.float32, torch.bfloat16))
    cases.check_fake_cuda(options)
    if causal:
        cases.check_causal(options)
    else:
        cases.check_permutation(options)


def test_all_hops_in_float32_are_within_the_tolerance_of_their_solver() -> None:
    module, q, k, v = make(hops=math.inf, decay=0.9, learn_decay=False)(), heads(20, 2), heads(20, 2), heads(20, 3)
    truth = module.attend(q, k, v, None, None)
    found = module.attend(q.float(), k.float(), v.float(), None, None).double()
    # The residual of a column bounds its error by the norm of the inverse, at most 1 / (1 - 0.9); so does what rounding
    # does to the system, a few units of the last place of each product.
    bound = (tolerance(torch.float32) + 20 * torch.finfo(torch.float32).eps) / (1 - 0.9) * v.norm(dim=2)
    assert ((found - truth).norm(dim=2) <= bound).all()


@pytest.mark.parametrize("options", [{"out_scale": "sqrt_n"}, {"out_scale": "sqrt_n", "causal": True}], ids=str)
def test_scaled_outputs_of_a_batch(options: dict[str, Any]) -> None:
    cases.check_batched_equals_looped(make(**options))


def test_spectral_outputs_of_a_batch() -> None:
    # The power iteration of a graph sees its padding as nodes without edges, of which it forgets a fifth at each step.
    cases.check_batched_equals_looped(make(normalize="spectral"), roundings=1e5)
    cases.check_gradients(make(normalize="spectral"))


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "spectral", "out_scale": "sqrt_n", "hops": math.inf},
        pytest.param({"hops": math.inf, "causal": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compile(options: dict[str, Any]) -> None:
    cases.check_compile(make(**options))


def heads(num_nodes: int, width: int) -> Tensor:
    return torch.randn(1, HEADS, num_nodes, width, dtype=torch.float64)


def affinity(module: InfSA, q: Tensor, k: Tensor) -> Tensor:
    """The affinity ``[H, N, N]``: what one hop gathers of unit vectors, over the decay."""
    unit = torch.eye(k.size(2), dtype=q.dtype).expand(1, HEADS, -1, -1)
    return (module.attend(q, k, unit, None, None) / module.decay.view(-1, 1, 1)).squeeze(0).detach()


def test_affinity_has_norm_one_whatever_the_scale_of_the_scores() -> None:
    module, q, k = make()().double(), heads(8, 2), heads(8, 2)
    A = affinity(module, 1e3 * q, k)
    assert_close(A.flatten(1).norm(dim=1), torch.ones(HEADS, dtype=torch.float64), 1e10)  # 1e-6 over the norm
    torch.testing.assert_close(A, affinity(module, 1e5 * q, k), rtol=1e-8, atol=0)
    assert (affinity(module, -k.abs(), k.abs()) == 0).all()


@pytest.mark.parametrize("hops", [1, 4, 12])
def test_rest_of_the_series_is_bounded(hops: int) -> None:
    q, k, v = heads(8, 2), heads(8, 2), heads(8, 3)
    rho = 0.8
    total = make(hops=math.inf, decay=rho)().double().attend(q, k, v, None, None)
    part = make(hops=hops, decay=rho)().double().attend(q, k, v, None, None)
    bound = rho ** (hops + 1) / (1 - rho) * v.norm(dim=(-2, -1))
    rest = (total - part).norm(dim=(-2, -1))
    assert (rest <= bound).all()
    assert (rest > 0).all()


def test_all_hops_solve_the_system_and_equal_keys_make_it_symmetric() -> None:
    module, q, v = make(hops=math.inf, decay=0.9)().double(), heads(8, 2), heads(8, 3)
    A = affinity(make(decay=0.9)().double(), q, q)
    assert_close(A, A.transpose(1, 2), 10)
    total = (module.attend(q, q, v, None, None) + v).squeeze(0)
    assert_close(total - module.decay.view(-1, 1, 1).detach() * A @ total, v.squeeze(0), 3e4)
    by_conjugate_gradients = resolvent(
        Affinity.from_dense(A, symmetric=True),
        v.squeeze(0).transpose(0, 1),
        module.decay.detach(),
        radius=1.0,
        tol=1e-13,
    )
    assert_close(total.detach(), by_conjugate_gradients.transpose(0, 1), 3e4)


def test_affinity_without_cycles_has_no_radius_to_be_divided_by() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    chain = InfSA(2, normalize="spectral", bias=False, learn_decay=False, decay=0.5).double()
    plain = InfSA(2, bias=False, learn_decay=False, decay=0.5).double()
    with torch.no_grad():
        chain.qkv.weight.copy_(torch.tensor([[0.0, 1], [0, 0], [1, 0], [0, 0], [1, 2], [3, 4]]))  # 1 draws on 0 alone
    plain.load_state_dict(chain.state_dict())
    assert_close(chain(x), 1e3 * plain(x))
    assert all(value.isfinite().all() for value in run(chain, x).values())


@pytest.mark.parametrize("hops", HOPS)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"normalize": "spectral"}], ids=str)
def test_no_positive_score_gives_nothing_and_no_gradient(hops: float, options: dict[str, Any]) -> None:
    module = make(hops=hops, **options)().double()
    q, k, v = heads(5, 2).abs().neg().requires_grad_(), heads(5, 2).abs().requires_grad_(), heads(5, 2)
    out = module.attend(q, k, v.requires_grad_(), None, None)
    grads = torch.autograd.grad(out.sum(), [q, k, v, module.decay_logit])
    assert (out == 0).all()
    assert all((grad == 0).all() for grad in grads)


def test_single_node_attends_to_itself_or_to_nothing() -> None:
    module, q = make()().double(), heads(1, 2)
    assert_close(affinity(module, 1e6 * q, q), torch.ones(HEADS, 1, 1, dtype=torch.float64), 1e7)
    assert (affinity(module, -q, q) == 0).all()


@pytest.mark.parametrize("hops", HOPS)
def test_decay_learns(hops: float) -> None:
    assert run(fill(make(hops=hops)()), nodes(6))["decay_logit"].abs().min() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_decay_stays_below_one(causal: bool) -> None:
    module = make(hops=math.inf, causal=causal)()
    with torch.no_grad():
        module.decay_logit.fill_(1e4)
    assert (module.decay <= 1 - 1e-6).all()
    assert module(torch.randn(9, CHANNELS)).isfinite().all()
    assert make(learn_decay=False, decay=0.3)().decay == 0.3


def test_effective_decay_is_the_largest_eigenvalue() -> None:
    x, batch = nodes(sum(SIZES)), shuffled_batch()
    for options in ({}, {"causal": True}, {"normalize": "spectral"}):
        module = fill(make(**options)(), 1.0)
        found = module.effective_decay(x, batch)
        assert found.shape == (len(SIZES), HEADS)
        normalize, module.normalize = module.normalize, "relu_frobenius"
        for graph, size in enumerate(SIZES):
            own = dense_affinity(module, x[batch == graph])
            radius = torch.linalg.eigvals(own).abs().amax(1) if size else torch.zeros(HEADS).double()
            if normalize == "spectral":
                radius = radius / radius.clamp_min(1e-3)
            expected = module.decay.detach() * radius
            torch.testing.assert_close(found[graph], expected, rtol=1e-2, atol=1e-12)
            assert (found[graph] >= expected * (1 - 1e-12)).all()
    assert make()().effective_decay(x[:0].float()).tolist() == [[0.0] * HEADS]


def test_effective_decay_of_gaussian_scores() -> None:
    size = 256
    module = InfSA(size, head_channels=size, decay=0.9, bias=False).double()
    with torch.no_grad():
        module.qkv.weight[:size].normal_()
        module.qkv.weight[size : 2 * size] = torch.eye(size)
        # The scores are the weights of the queries; their positive parts have the root mean square 1 / sqrt(2) and the
        # mean 1 / sqrt(2 pi), about which the radius fluctuates by one part in the size.
        found = module.effective_decay(torch.eye(size, dtype=torch.float64)).item()
    assert abs(found / 0.9 - math.pi**-0.5) < 4 / size


@pytest.mark.parametrize("hops", HOPS)
def test_dropout_thins_the_first_hop(hops: float) -> None:
    module, q, k = make(hops=hops, dropout=0.5)().double(), heads(30, 2), heads(30, 2)
    A = affinity(make()().double(), q, k)
    rho = module.decay.view(-1, 1, 1).detach()
    unit = torch.eye(30, dtype=torch.float64).expand(1, HEADS, -1, -1)
    gathered = module.train().attend(q, k, unit, None, None).squeeze(0).detach()
    if hops == math.inf:
        gathered = gathered - rho * A @ gathered
    elif hops == 3:
        gathered = torch.linalg.solve(torch.eye(30) + rho * A + rho * A @ (rho * A), gathered)
    kept = gathered > rho * A
    assert_close(gathered, 2 * rho * A * kept, 3e4)
    assert 0.4 < kept[A > 0].double().mean() < 0.6


def test_compat_is_the_released_formula_and_refuses_what_it_ignores() -> None:
    module, x = fill(make(compat="infsa")()), nodes(6)
    assert_close(module(x), dense(module, x))
    assert (run(module, x)["decay_logit"] == 0).all()
    same_size = torch.tensor([0, 1, 1, 0, 0, 1])
    assert_close(module(x, same_size)[same_size == 1], module(x[same_size == 1]))
    with pytest.raises(ValueError, match="the batch is padded"):
        module(x, torch.tensor([0, 1, 1, 0, 0, 0]))


def test_perron_operator() -> None:
    for affinity in (torch.rand(2, 3, 5, 5), torch.rand(1, 2, 4, 4, dtype=torch.float64).transpose(2, 3)):
        torch.library.opcheck(torch.ops.graphattn_nn.perron.default, (affinity,))


def test_bad_options() -> None:
    cases.check_bad_options(InfSA)
    for message, options in {
        "hops is 0; expected an integer of at least 1": {"hops": 0},
        "decay is 1.0; expected a number between 0 and 1": {"decay": 1.0},
        "normalize is 'softmax'; expected one of 'relu_frobenius', 'spectral'": {"normalize": "softmax"},
        "out_scale is 'n'; expected None or 'sqrt_n'": {"out_scale": "n"},
        "normalize is 'spectral', which reads all nodes, but causal is True": {"normalize": "spectral", "causal": True},
        "compat is 'idiap'; expected None or 'infsa'": {"compat": "idiap"},
        "one hop, no causal mask and no spectral normalization, but hops is 2": {"compat": "infsa", "hops": 2},
        "but hops is 1, causal is True": {"compat": "infsa", "causal": True},
        "normalize is 'spectral'; leave": {"compat": "infsa", "normalize": "spectral"},
    }.items():
        with pytest.raises(ValueError, match=message):
            make(**options)()
    for options in ({"hops": 2}, {"normalize": "spectral"}):
        with pytest.raises(ValueError, match="other sources than x take hops=1 and normalize='relu_frobenius'"):
            make(**options)()(torch.rand(3, CHANNELS), context=torch.rand(3, CHANNELS))
    with pytest.raises(ValueError, match="only an affinity between the same nodes has a spectral radius"):
        make()().effective_decay(torch.rand(3, CHANNELS), context=torch.rand(3, CHANNELS))


def test_repr() -> None:
    assert repr(InfSA(6, 3, hops=2, normalize="spectral")).startswith(
        "InfSA(\n  6, heads=3, hops=2, normalize='spectral'"
    )
    assert repr(LinearInfSA(6, 3, steps=2)).startswith("LinearInfSA(\n  6, heads=3, steps=2")


# The form of rank one #################################################################################################


def dense_pool(module: LinearInfSA, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Output for one graph by the dense scores."""
    q = qkv(module, x)[0]
    k, v = qkv(module, x if context is None else context)[1:]
    scores = q @ k.transpose(1, 2) / q.size(-1)
    weights = q.norm(dim=-1)
    weights = weights / (weights.sum(1, keepdim=True) + 1e-6)
    for _ in range(module.steps):
        weights = torch.einsum("hi,hij->hj", weights, scores).clamp_min(0)
        weights = weights / (weights.sum(1, keepdim=True) + 1e-6)
    pooled = torch.as_tensor(module.decay).view(-1, 1) * torch.einsum("hj,hjd->hd", weights, v)
    return pooled.flatten().expand(len(x), -1) @ module.proj.weight.T + module.proj.bias


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_pool_is_its_formula(steps: int) -> None:
    module, x = fill(make(LinearInfSA, steps=steps)(), 1.0), nodes(9)
    assert_same_function(module, lambda x: dense_pool(module, x), x)
    assert run(module, x)["decay_logit"].abs().max() > 0
    if steps == 1:
        context = nodes(4)
        assert_close(module(x, context=context), dense_pool(module, x, context))


def test_pool_tends_to_the_leading_eigenvector() -> None:
    # Positive queries and keys: relu changes nothing, and the iteration is that of the transposed scores.
    q, k = heads(12, 3).abs(), heads(12, 3).abs()
    unit = torch.eye(12, dtype=torch.float64).expand(1, HEADS, -1, -1)
    module = make(LinearInfSA, steps=200, decay=0.5, learn_decay=False)().double()
    found = module.attend(q, k, unit, None, None)[0, :, 0] / 0.5
    values, vectors = torch.linalg.eig(k[0] @ q[0].transpose(1, 2))
    leading = vectors.real.gather(2, values.abs().argmax(1).view(-1, 1, 1).expand(-1, 12, 1)).squeeze(2)
    torch.testing.assert_close(found, leading / leading.sum(1, keepdim=True), rtol=0, atol=1e-5)  # 1e-6 over the sum


def test_pool_contract() -> None:
    cases.check_all(make(LinearInfSA))
    cases.check_linear_memory(make(LinearInfSA, steps=2))
    cases.check_batched_equals_looped(make(LinearInfSA, steps=3))


def test_pool_without_positive_scores_is_zero() -> None:
    module = make(LinearInfSA, steps=2)().double()
    q, k, v = heads(5, 2).abs().neg().requires_grad_(), heads(5, 2).abs().requires_grad_(), heads(5, 2)
    out = module.attend(q, k, v, None, None)
    assert (out == 0).all()
    assert all((grad == 0).all() for grad in torch.autograd.grad(out.sum(), [q, k]))
    still = torch.zeros_like(q, requires_grad=True)
    assert torch.autograd.grad(module.attend(still, k, v, None, None).sum(), still)[0].isfinite().all()


def test_pool_compat() -> None:
    module, x = fill(make(LinearInfSA, compat="infsa")()), nodes(6)
    assert_close(module(x), dense_pool(module, x))
    assert (run(module, x)["decay_logit"] == 0).all()
    with pytest.raises(ValueError, match="the batch is padded"):
        module(x, torch.tensor([0, 1, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="other sources than x take steps=1 and compat=None"):
        module(x, context=x)


def test_pool_bad_options() -> None:
    cases.check_bad_options(LinearInfSA)
    for message, options in {
        "steps is 0; expected an integer of at least 1": {"steps": 0},
        "steps is 1.5": {"steps": 1.5},
        "decay is 0.0": {"decay": 0.0},
        "compat is 'x'; expected None or 'infsa'": {"compat": "x"},
        "whose code takes one step, but steps is 2": {"compat": "infsa", "steps": 2},
    }.items():
        with pytest.raises(ValueError, match=message):
            make(LinearInfSA, **options)()
    with pytest.raises(ValueError, match="context is given, but steps is 2"):
        make(LinearInfSA, steps=2)()(torch.rand(3, CHANNELS), context=torch.rand(3, CHANNELS))
