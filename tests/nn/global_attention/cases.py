"""What every attention between all nodes must do, as checks that take a method and small random inputs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from graphattn.nn.global_attention import GlobalAttention
from tests.budget import assert_within_budget

CHANNELS, HEADS = 6, 3
SIZES = (4, 1, 0, 7, 2)  # one node, none, an odd number; the largest is neither first nor last
CONTEXT_SIZES = (3, 5, 2, 0, 1)  # an empty graph of sources for seven targets, and the other way round

Make = Callable[[], GlobalAttention]


def fill(module: nn.Module, std: float = 0.5) -> Any:
    """Draw every parameter anew in float64: zero biases hide mistakes."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std)
    return module


def nodes(num_nodes: int, channels: int = CHANNELS) -> Tensor:
    return torch.randn(num_nodes, channels, dtype=torch.float64)


def shuffled_batch(sizes: tuple[int, ...] = SIZES) -> Tensor:
    """Graph of each node, the graphs mixed."""
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return batch[torch.randperm(len(batch))]


def assert_close(found: Tensor, expected: Tensor, roundings: float = 1e3) -> None:
    """Compare float64 results to a thousand roundings of the largest value."""
    assert found.dtype == expected.dtype == torch.float64
    scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
    atol = roundings * torch.finfo(torch.float64).eps * max(1.0, scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def foreign(name: str) -> Any:
    """Import another library to compare with; what it warns of while it is imported is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed to compare with", exc_type=ImportError)


def heads_of(module: GlobalAttention, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
    """Queries, keys and values of one graph, ``[1, H, N, d]`` each, from the parameters alone."""
    biases = (0.0,) * 3 if module.qkv.bias is None else module.qkv.bias.chunk(3)
    sources = x if context is None else context
    linear = zip((x, sources, sources), module.qkv.weight.chunk(3), biases, strict=True)
    return [(x @ w.T + b).unflatten(1, (module.heads, -1)).transpose(0, 1).unsqueeze(0) for x, w, b in linear]


def joined(module: GlobalAttention, out: Tensor) -> Tensor:
    """Output of a layer from gathered values of one graph, ``[1, H, N, d]``."""
    return module.proj(out[0].transpose(0, 1).flatten(1))


def run(module: nn.Module, x: Tensor, context: Tensor | None = None, **inputs: Any) -> dict[str, Tensor]:
    """Output of a call and the gradient of a random linear function of it by everything."""
    leaves = {"x": x.detach().clone().requires_grad_()}
    if context is not None:
        leaves["context"] = inputs["context"] = context.detach().clone().requires_grad_()
    out = module(leaves["x"], **inputs)
    leaves |= dict(module.named_parameters())
    cotangent = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).cos().reshape(out.shape)
    found = torch.autograd.grad(out, list(leaves.values()), cotangent, allow_unused=True)
    grads = {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found, strict=True)}
    return {"out": out.detach(), **grads}


def check_batched_equals_looped(make: Make, *, context: bool = False, roundings: float = 1e3) -> None:
    """Unequal sizes in any order, an empty graph among them: each as alone, gradients too; ``ptr`` says the same."""
    module = fill(make())
    batch, x = shuffled_batch(), nodes(sum(SIZES))
    inputs: dict[str, Any] = {"batch": batch}
    if context:
        inputs |= {"context_batch": shuffled_batch(CONTEXT_SIZES), "context": nodes(sum(CONTEXT_SIZES))}

    def looped(x: Tensor, batch: Tensor, context: Tensor | None = None, context_batch: Any = None) -> Tensor:
        out = torch.zeros_like(x)
        for graph in range(len(SIZES)):
            own = (batch == graph).nonzero().squeeze(1)
            others = {} if context is None else {"context": context[context_batch == graph]}
            out = out.index_copy(0, own, module(x[own], **others))
        return out

    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor, **inputs: Any) -> Tensor:
            return looped(x, **inputs)

    expected = {name.removeprefix("module."): value for name, value in run(Looped(), x, **inputs).items()}
    found = run(module, x, **inputs)
    known = {"num_graphs": len(SIZES), "max_nodes": max(SIZES) + 2}
    if context:
        known["context_max_nodes"] = max(CONTEXT_SIZES) + 3
    wider = run(module, x, **inputs, **known)
    for name in expected:
        assert_close(found[name], expected[name], roundings)
        assert_close(wider[name], expected[name], roundings)
    order = batch.argsort(stable=True)
    by_ptr = {"ptr": torch.tensor((0, *SIZES)).cumsum(0)}
    if context:
        by_ptr |= {
            "context_ptr": torch.tensor((0, *CONTEXT_SIZES)).cumsum(0),
            "context": inputs["context"][inputs["context_batch"].argsort(stable=True)],
        }
    assert_close(module(x[order], **by_ptr), expected["out"][order], roundings)


def check_nothing_leaks(make: Make) -> None:
    """What is wrong in one graph stays there, and gradients do not cross graphs."""
    module = fill(make())
    batch, x = shuffled_batch(), nodes(sum(SIZES)).requires_grad_()
    out = module(x, batch)
    grad = torch.autograd.grad(out[batch == 0].square().sum(), x)[0]
    assert (grad[batch != 0] == 0).all()
    assert (grad[batch == 0] != 0).any()
    broken = torch.where((batch == 3).unsqueeze(1), torch.nan, x.detach())
    assert_close(module(broken, batch)[batch != 3], out[batch != 3])


def check_content_of_padding(make: Make) -> None:
    """Whatever finite stands where nothing is changes nothing."""
    module = fill(make())
    q, k, v = torch.randn(3, 2, HEADS, 9, module.head_channels, dtype=torch.float64)
    there = torch.arange(9) < torch.tensor([9, 6]).unsqueeze(1)
    out = module.attend(q, k, v, there, there)
    other = [torch.where(there[:, None, :, None], x, 3.0) for x in (q, k, v)]
    found = module.attend(*other, there, there)
    assert_close(found.transpose(1, 2)[there], out.transpose(1, 2)[there])


def check_permutation(make: Make) -> None:
    """Renaming nodes renames the output."""
    module, x = fill(make()), nodes(7)
    order = torch.tensor([2, 0, 4, 6, 1, 5, 3])
    assert_close(module(x[order]), module(x)[order])


def check_gradients(make: Make, *, context: bool = False) -> None:
    module, batch = fill(make()), torch.tensor([1, 0, 1, 1])
    x = nodes(4).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)
    others = {"context": nodes(3).requires_grad_(), "context_batch": torch.tensor([1, 1, 0])} if context else {}

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, batch), others)

    assert torch.autograd.gradcheck(call, (x, *(p.detach().clone().requires_grad_() for p in parameters)))


def check_causal(make: Make) -> None:
    """Another later node changes no bit of the earlier ones, and the last sees all."""
    module, x = fill(make()), nodes(9)
    out = module(x)
    for later in (1, 4, 8):
        changed = x.clone()
        changed[later] = 3.0 * nodes(1)[0]
        found = module(changed)
        assert torch.equal(found[:later], out[:later]), later
        assert (found[later:] != out[later:]).any(dim=1).all(), later


def check_no_sources(make: Make) -> None:
    """Targets without sources get the output bias, with finite zero gradients; no nodes at all are fine."""
    module = fill(make())
    bias = module.proj.bias.detach()
    x, context = nodes(3), nodes(2)
    results = run(module, x, context, batch=torch.tensor([0, 1, 0]), context_batch=torch.tensor([1, 1]))
    assert torch.equal(results["out"][[0, 2]], bias.expand(2, -1))
    assert (results["x"][[0, 2]] == 0).all()
    assert all(value.isfinite().all() for value in results.values())
    alone = run(module, x, nodes(0))
    assert torch.equal(alone["out"], bias.expand(3, -1))
    assert (alone["x"] == 0).all()
    check_no_nodes(make)


def check_no_nodes(make: Make) -> None:
    module = fill(make())
    nobody = torch.empty(0, dtype=torch.long)
    for graphs in (
        {},
        {"batch": nobody},
        {"batch": nobody, "num_graphs": 3},
        {"ptr": torch.zeros(3, dtype=torch.long)},
    ):
        results = run(module, nodes(0), **graphs)
        assert results["out"].shape == (0, CHANNELS)
        assert all(value.isfinite().all() for value in results.values())


def check_dtypes(make: Make, *, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)) -> None:
    """Within the error budget of the layer whose projections alone are rounded to the dtype, under autocast too.

    A method that inverts a matrix has a float32 error of its own, which only bfloat16 hides: leave float32 out there.
    """
    module, x, batch = fill(make()), nodes(sum(SIZES)), shuffled_batch()
    truth = module(x, batch).detach()
    for dtype in dtypes:
        narrow = copy.deepcopy(module).to(dtype)
        exact = copy.deepcopy(narrow)
        exact.attend = lambda q, k, v, *rest, dtype=dtype: module.attend(q.double(), k.double(), v.double(), *rest).to(
            dtype
        )
        reference = exact(x.to(dtype), batch).detach()
        assert_within_budget(narrow(x.to(dtype), batch).detach(), reference, truth)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_within_budget(copy.deepcopy(module).float()(x.float(), batch).detach(), reference, truth)


def check_dropout(make: Make) -> None:
    """In training every output channel is dropped or scaled up."""
    module, x = fill(make()), nodes(50)
    out = module(x)
    module.dropout = 0.2
    assert torch.equal(module(x), out)
    found = module.train()(x)
    dropped = found == 0
    assert_close(found, torch.where(dropped, 0.0, out / 0.8))
    assert 0.1 < float(dropped.double().mean()) < 0.3  # four standard deviations of 300 draws


def check_compile(make: Make, *, backend: str = "aot_eager") -> None:
    """One graph for all batches of known bounds, and the numbers of eager mode."""
    module = fill(make())
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=backend)
    for sizes in (SIZES, (2, 3, 5, 2, 4, 3)):
        known = {"batch": shuffled_batch(sizes), "num_graphs": len(sizes), "max_nodes": max(sizes)}
        x = nodes(sum(sizes))
        eager = run(module, x, **known)
        x = x.clone().requires_grad_()
        with torch._dynamo.config.patch(error_on_recompile=sizes != SIZES):
            out = compiled(x, **known)
        cotangent = torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).cos().reshape(out.shape)
        assert_close(out, eager["out"])
        assert_close(torch.autograd.grad(out, x, cotangent)[0], eager["x"])


def check_fake_cuda(make: Make) -> None:
    """Every step has a shape function for CUDA, and no tensor is made on another device."""
    with FakeTensorMode(), torch.device("cuda"):
        module = make()
        out = module(torch.randn(9, CHANNELS), torch.zeros(9, dtype=torch.long), num_graphs=2, max_nodes=9)
        assert module(torch.randn(9, CHANNELS)).device.type == "cuda"
    assert out.shape == (9, CHANNELS)
    assert out.device.type == "cuda"


class Largest(TorchDispatchMode):
    """Remember the number of elements of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def check_linear_memory(make: Make, num_nodes: int = 4096) -> None:
    """No tensor of a forward and backward pass has as many elements as there are pairs of nodes."""
    module = make()
    x = torch.randn(num_nodes, CHANNELS, requires_grad=True)
    with Largest() as largest:
        module(x).sum().backward()
    assert num_nodes * CHANNELS <= largest.elements < num_nodes**2 // 4


def check_bad_inputs(make: Make) -> None:
    module, x, batch = make(), torch.rand(3, CHANNELS), torch.tensor([0, 1, 0])
    ptr = torch.tensor([0, 1, 3])
    for message, inputs in {
        "x has shape \\(3, 5\\); expected \\[nodes, 6\\]": {"x": x[:, :5]},
        "expected \\[3\\], a graph for each node": {"batch": batch[:2]},
        "both given": {"batch": batch, "ptr": ptr},
        "does not rise from 0 to 3": {"ptr": ptr[:2]},
        "num_graphs is 4, but ptr is that of 2": {"ptr": ptr, "num_graphs": 4},
        "neither batch nor ptr": {"max_nodes": 3},
        "num_graphs is -1": {"batch": batch, "num_graphs": -1},
        "values from 0 to 1; expected 0 to 0": {"batch": batch, "num_graphs": 1},
        "max_nodes is 1, but a graph has 2": {"batch": batch, "max_nodes": 1},
        "context_batch is given without context": {"context_batch": batch},
        "x or context alone": {"context": x, "batch": batch},
        "context has shape": {"context": x[:, :5]},
    }.items():
        if not inputs.keys() & {"context"} or not module.causal:
            with pytest.raises(ValueError, match=message):
                module(**{"x": x, **inputs})
    with pytest.raises(TypeError, match="batch has dtype torch\\.float32"):
        module(x, batch.float())
    with pytest.raises(TypeError, match="x has dtype torch\\.int64"):
        module(x.long())
    if module.causal:
        with pytest.raises(ValueError, match="causal is True"):
            module(x, context=x)


def check_bad_options(method: Any) -> None:
    for message, options in {
        "channels is 0": {"channels": 0},
        "heads is 4, which does not divide channels=6": {"heads": 4},
        "head_channels is 0": {"head_channels": 0},
        "dropout is 1.5": {"dropout": 1.5},
    }.items():
        with pytest.raises(ValueError, match=message):
            method(**{"channels": CHANNELS, **options})


def check_all(make: Make, *, context: bool = True, permutation: bool = True, **dtypes: Any) -> None:
    """Run the quick checks, those that need no compiler."""
    module = make()
    check_batched_equals_looped(make)
    if context and not module.causal:
        check_batched_equals_looped(make, context=True)
        check_gradients(make, context=True)
        check_no_sources(make)
    check_nothing_leaks(make)
    check_no_nodes(make)
    check_gradients(make)
    if module.causal:
        check_causal(make)
    elif permutation:
        check_permutation(make)
    check_dtypes(make, **dtypes)
    check_fake_cuda(make)
    check_bad_inputs(make)
