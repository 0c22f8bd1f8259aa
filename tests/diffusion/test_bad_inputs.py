"""Every message: what was passed, what is expected, what to do."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from graphattn.affinity import Affinity, DenseAffinity
from graphattn.diffusion import heat, neumann, pagerank, resolvent, solve

RULES = [heat, neumann, pagerank, resolvent, solve]
DECAYED = [neumann, resolvent, solve]
DIVIDED = [*DECAYED, heat]
A = DenseAffinity(torch.eye(4))
HEADS = DenseAffinity(torch.eye(4).expand(3, 4, 4))


def _raises(error: type[Exception], message: str, function: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(error, match=re.escape(message)):
        function(*args, **options)


@pytest.mark.parametrize("rule", RULES)
def test_operands(rule: Any) -> None:
    x = torch.ones(4, 2)
    _raises(TypeError, "A is a Tensor; expected an Affinity: make one with Affinity.from_edge_index", rule, x, x)
    _raises(ValueError, "A is 4 x 2; only a square affinity", rule, DenseAffinity(x), x)
    _raises(TypeError, "x has dtype torch.int64; expected a floating-point Tensor", rule, A, x.long())
    _raises(TypeError, "x is a list; expected a floating-point Tensor", rule, A, [1.0])
    _raises(ValueError, "x has shape (3, 2); expected [4], [4, C] or [4, H, C]", rule, A, x[:3])
    _raises(ValueError, "x has shape (); expected [4], [4, C] or [4, H, C]", rule, A, x[0, 0])
    _raises(ValueError, "x has shape (4, 2, 1); expected [4], [4, C] or [4, 3, C]", rule, HEADS, x.unsqueeze(2))
    _raises(ValueError, "x has shape (4, 0); expected at least one channel", rule, A, x[:, :0])
    _raises(ValueError, "x is on meta but A is on cpu; move one of them", rule, A, x.to("meta"))


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 1.5, math.nan, True])
def test_fractions(value: float) -> None:
    x = torch.ones(4, 2)
    for rule in DECAYED:
        _raises(ValueError, f"decay is {value}; expected a number in (0, 1)", rule, A, x, value)
        _raises(ValueError, "decay is", rule, A, x, torch.tensor(float(value)))
        _raises(ValueError, "decay is [0.5", rule, HEADS, x, torch.tensor([0.5, float(value), 0.5]))
    _raises(ValueError, f"teleport is {value}; expected a number in (0, 1)", pagerank, A, x, value)


@pytest.mark.parametrize("rule", DECAYED)
def test_shapes_of_a_decay(rule: Any) -> None:
    x, two = torch.ones(4, 2), torch.full((2,), 0.5)
    _raises(TypeError, "decay is a str; expected a number in (0, 1), or a Tensor of such", rule, A, x, "0.9")
    _raises(ValueError, "decay has shape (2,); expected a scalar", rule, A, x, two)
    _raises(ValueError, "decay has shape (2,); expected a scalar or [3], one value a head", rule, HEADS, x, two)
    _raises(ValueError, "decay is on meta but x is on cpu", rule, HEADS, x, torch.ones(3, device="meta"))


@pytest.mark.parametrize("rule", DIVIDED)
def test_radius(rule: Any) -> None:
    x = torch.ones(4, 2)
    _raises(ValueError, "radius is 'exact'; expected None, 'estimate', a positive", rule, A, x, radius="exact")
    for value in (0, -1.0, math.inf, math.nan):
        _raises(ValueError, f"radius is {value}; expected a positive number", rule, A, x, radius=value)
    _raises(ValueError, "radius is [1.0, 0.0, 1.0]", rule, HEADS, x, radius=torch.tensor([1.0, 0.0, 1.0]))
    _raises(ValueError, "radius has shape (2,); expected a scalar or [3]", rule, HEADS, x, radius=torch.ones(2))
    _raises(TypeError, "radius is a list; expected None, 'estimate' or a positive number", rule, A, x, radius=[1])


@pytest.mark.parametrize("rule", [neumann, pagerank])
@pytest.mark.parametrize("hops", [-1, 2.0, True, None, "3"])
def test_hops(rule: Any, hops: Any) -> None:
    _raises(ValueError, f"hops is {hops!r}; expected an integer of at least 0", rule, A, torch.ones(4), hops=hops)


def test_hops_of_a_truncated_sum_are_finite() -> None:
    _raises(ValueError, "hops is inf; expected an integer", neumann, A, torch.ones(4), hops=math.inf)


@pytest.mark.parametrize("rule", [resolvent, solve])
def test_solver_options(rule: Any) -> None:
    x = torch.ones(4)
    for tol in (0, -1e-6, math.nan):
        _raises(ValueError, f"tol is {tol}; expected a positive number", rule, A, x, tol=tol)
    _raises(ValueError, "max_iter is 0; expected at least 1", rule, A, x, max_iter=0)


def test_time() -> None:
    x = torch.ones(4)
    for time in (-1.0, math.inf, math.nan):
        _raises(ValueError, f"time is {time}; expected a finite number of at least 0", heat, A, x, time)
    _raises(ValueError, "time is -1.0; expected a finite", heat, A, x, torch.tensor(-1.0))
    _raises(ValueError, "time has shape (2,); expected a scalar", heat, A, x, torch.ones(2))
    _raises(TypeError, "time is a str; expected a number or a scalar Tensor", heat, A, x, "1")
    _raises(ValueError, "tol is 0; expected a positive number", heat, A, x, tol=0)
    chain = Affinity.from_dense(torch.tensor([[0.0, 100.0], [0.0, 0.0]]))
    _raises(ValueError, "radius is 100 times smaller than A.norm_bound()", heat, chain, x[:2], radius="estimate")


def test_checks_read_no_values_of_other_devices() -> None:
    for function in (neumann, resolvent):
        B = DenseAffinity(torch.eye(4, device="meta"))
        y = function(B, torch.ones(4, 2, device="meta"), torch.tensor(2.0, device="meta"), radius=1.0)
        assert (y.shape, y.device.type) == ((4, 2), "meta")
