"""The heat kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.special import gammainc, gammaln, ive, xlogy
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.diffusion.inputs import Radius, find_radius, finish, prepare, spread

_LARGEST_GROWTH = 50.0


def heat(A: Affinity, x: Tensor, time: float | Tensor = 1.0, *, radius: Radius = None, tol: float = 1e-6) -> Tensor:
    r"""Diffuse features by the heat equation on the affinity.

    .. math:: \mathbf{Y} = \exp(-\tau\,(\mathbf{I} - \mathbf{A}/\rho))\,\mathbf{X}
        = \sum_{t=0}^{\infty} e^{-\tau}\,\frac{\tau^t}{t!}\,(\mathbf{A}/\rho)^t\,\mathbf{X}

    For a symmetric affinity the exponential is expanded in Chebyshev polynomials on [-1, 1], where the eigenvalues of
    :math:`\mathbf{A}/\rho` lie; that takes about :math:`\sqrt{2\tau\log(1/\text{tol})}` products for large
    :math:`\tau`. For others the series above is summed, in about :math:`\tau` products; its weights are probabilities
    (those of a Poisson variable), so that nothing large cancels and the time need not be split into steps.

    The expansion ends where the rest is certain to be small, without looking at the features: at most
    :math:`\text{tol}\,\lVert\mathbf{x}\rVert` for each column, in the Euclidean norm for a symmetric affinity, and
    otherwise in the maximum norm or the sum norm, whichever bounds the affinity (``A.norm_bound()`` is the smaller of
    the largest row and column sum).

    Args:
        A: A square affinity.
        x: Node features.
        time: Duration :math:`\tau` of the diffusion, at least 0: a number or a scalar tensor, which may need a
            gradient. It is read on the host, so that this function is for eager mode.
        radius: As in :func:`neumann`. A number given for a symmetric affinity must not be smaller than its spectral
            radius.
        tol: Largest truncation error relative to each column of ``x``; that of the derivative in time is twice it.

    Shapes:
        - **input:** ``x`` :math:`(N,)`, :math:`(N, C)` or :math:`(N, H, C)`
        - **output:** that of ``A @ x``

    Returns:
        The diffused features, in the dtype of ``A @ x``, computed in at least float32.

    Raises:
        ValueError: If a shape or a device does not fit, a number is out of range, or ``radius`` is so small that the
            exponential may grow beyond all bounds.
        TypeError: If ``A`` is not an affinity, ``x`` not a floating-point tensor or ``time`` not a number.

    Example:
        >>> pair = Affinity.from_dense(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), symmetric=True)
        >>> heat(pair, torch.tensor([2.0, 0.0]), time=100.0)
        tensor([1.0000, 1.0000])

    Reference:
        Kondor & Lafferty, "Diffusion Kernels on Graphs and Other Discrete Input Spaces", 2002; Hammond et al.,
        "Wavelets on Graphs via Spectral Graph Theory", 2011 (Chebyshev); Jensen, "Markoff Chains as an Aid in the
        Study of Markoff Processes", 1953 (Poisson weights).
    """
    if not tol > 0:
        raise ValueError(f"tol is {tol}; expected a positive number")
    duration = _read(time)
    wide, start, dtype = prepare(A, x)
    divisor = find_radius(A, start, radius)
    norm = 1.0 if A.symmetric else float((A.norm_bound() / divisor).max())
    terms = _terms(duration, A.symmetric, norm, tol)
    clock = torch.as_tensor(time, dtype=torch.float64, device="cpu")
    # The slope of a coefficient lies between its neighbours: one more term brings that of the rest below 2 tol.
    terms += clock.requires_grad
    weights = _Coefficients.apply(clock, terms, A.symmetric).to(start)
    divide = spread(divisor)

    total, hop = weights[0] * start, start
    before = start
    for t in range(1, terms):
        if A.symmetric:
            # The Chebyshev recurrence; the first polynomial is the first power.
            step = wide.matmul(hop) / divide
            hop, before = (step if t == 1 else 2 * step - before), hop
            total = total + 2 * weights[t] * hop
        else:
            hop = wide.matmul(hop) / divide
            total = total + weights[t] * hop
    return finish(total, x, dtype)


def _read(time: Any) -> float:
    if not isinstance(time, (int, float, Tensor)):
        raise TypeError(f"time is a {type(time).__name__}; expected a number or a scalar Tensor")
    if isinstance(time, Tensor) and time.dim() != 0:
        raise ValueError(f"time has shape {tuple(time.shape)}; expected a scalar")
    value = float(time.detach() if isinstance(time, Tensor) else time)
    if not 0 <= value < math.inf:
        raise ValueError(f"time is {value}; expected a finite number of at least 0")
    return value


def _terms(time: float, symmetric: bool, norm: float, tol: float) -> int:
    """Count the terms after which the rest is at most ``tol``."""
    if symmetric:
        # |T_k| <= 1, so the rest is twice the sum of the further coefficients. Beyond the last one summed here their
        # quotients I_{k+1} / I_k < time / (2 k + 2) are below 1/2, and they add up to less than that one again.
        weights = 2 * ive(np.arange(int(time) + 64), time)
        weights[-1] *= 2
        rest = np.cumsum(weights[::-1])[::-1][1:]
    else:
        # With |A / rho| <= norm the rest is e^((norm - 1) time) times the tail of a Poisson variable.
        growth = max(norm - 1.0, 0.0) * time
        if growth > _LARGEST_GROWTH:
            raise ValueError(
                f"radius is {norm:.3g} times smaller than A.norm_bound(), so that values may grow by a factor of "
                f"e^{growth:.3g} in time {time:.3g}; leave radius=None or choose a shorter time"
            )
        mean = norm * time
        counts = np.arange(1, int(mean + 20 * math.sqrt(mean) + 20 * growth) + 65)
        rest = math.exp((norm - 1.0) * time) * gammainc(counts, mean)
    return int(np.argmax(rest <= tol)) + 1 if (rest <= tol).any() else rest.size


class _Coefficients(torch.autograd.Function):
    """Scaled Bessel functions e^-t I_k(t), or Poisson weights e^-t t^k / k!, of the orders k below ``terms``."""

    @staticmethod
    def forward(ctx: Any, time: Tensor, terms: int, bessel: bool) -> Tensor:
        ctx.save_for_backward(time)
        ctx.options = terms, bessel
        k, t = np.arange(terms), time.item()
        return torch.from_numpy(ive(k, t) if bessel else np.exp(xlogy(k, t) - t - gammaln(k + 1)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (time,) = ctx.saved_tensors
        terms, bessel = ctx.options
        weights = _Coefficients.apply(time, terms + 1, bessel)
        here, above = weights[:-1], weights[1:]
        if bessel:
            below = torch.cat([weights[1:2], weights[: terms - 1]])
            slope = (below + above) / 2 - here
        else:
            slope = torch.cat([weights.new_zeros(1), weights[: terms - 1]]) - here
        return (grad * slope).sum(), None, None
