"""The kernels that spread features over a given affinity: which hops count, and how much."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.diffusion.neumann import neumann
from graphattn.diffusion.pagerank import pagerank
from graphattn.diffusion.resolvent import resolvent
from graphattn.nn.hops import check_hops


class Kernel(NamedTuple):
    """A kernel and its options; those that it does not have are ``None``."""

    name: str
    hops: float | None
    decay: float | None
    time: float | None

    def describe(self) -> str:
        """Write the kernel as arguments."""
        options = {"kernel": self.name, "hops": self.hops, "decay": self.decay, "time": self.time}
        return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


_DEFAULTS = {
    "ppr": Kernel("ppr", 10, 0.9, None),
    "sgc": Kernel("sgc", 2, None, None),
    "katz": Kernel("katz", 10, 0.9, None),
    "heat": Kernel("heat", None, None, 1.0),
}
KERNELS = tuple(_DEFAULTS)


def resolve_kernel(kernel: str, hops: float | None, decay: float | None, time: float | None) -> Kernel:
    """Return the kernel of that name with its defaults filled in.

    Raises:
        ValueError: If the kernel is unknown, does not have an option that is given, or a number is out of range.
    """
    if kernel not in _DEFAULTS:
        raise ValueError(f"kernel is {kernel!r}; expected one of {', '.join(map(repr, KERNELS))}")
    default = _DEFAULTS[kernel]
    chosen = {}
    for name, value in (("hops", hops), ("decay", decay), ("time", time)):
        own = getattr(default, name)
        if value is not None and own is None:
            raise ValueError(f"{name} is {value!r}, which kernel {kernel!r} does not have; leave it out")
        chosen[name] = own if value is None else value
    found = Kernel(kernel, **chosen)
    if found.hops is not None:
        check_hops(found.hops, 0.5 if found.decay is None else found.decay)
    if kernel == "sgc" and found.hops == math.inf:
        raise ValueError("hops is inf, but kernel 'sgc' takes one power of the affinity; choose an integer")
    if found.time is not None and not 0.0 <= found.time < math.inf:
        raise ValueError(f"time is {time!r}; expected a finite number of at least 0")
    return found


def apply_kernel(kernel: Kernel, A: Affinity, x: Tensor, decay: float | Tensor | None, tol: float) -> Tensor:
    r"""Spread features over an affinity of spectral radius at most 1.

    Args:
        kernel: Which kernel.
        A: A square affinity.
        x: Node features, of at least float32.
        decay: Takes the place of the kernel's decay :math:`c`, as it may be learned.
        tol: Largest residual of an infinite number of hops, and the weight of the hops that ``"heat"`` leaves out.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`
        - **output:** :math:`(N, C)`

    Returns:
        The spread features.

    Example:
        >>> import torch
        >>> ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
        >>> katz = resolve_kernel("katz", 2, 0.5, None)
        >>> apply_kernel(katz, ring, torch.ones(3, 1), katz.decay, 1e-6).flatten().tolist()
        [0.75, 0.75, 0.75]
    """
    name, hops = kernel.name, kernel.hops
    if name == "heat":
        assert kernel.time is not None
        first, *weights = poisson_weights(kernel.time, tol)
        total = first * x
        for weight in weights:
            x = A.matmul(x)
            total = total + weight * x
        return total
    assert hops is not None
    if name == "sgc":
        for _ in range(int(hops)):
            x = A.matmul(x)
        return x
    assert decay is not None
    if name == "katz":
        first_hop = decay * A.matmul(x)
        if hops == math.inf:
            return resolvent(A, first_hop, decay, radius=1.0, tol=tol)
        return neumann(A, first_hop, decay, int(hops) - 1, radius=1.0)
    if hops == math.inf:
        return (1 - decay) * resolvent(A, x, decay, radius=1.0, tol=tol)
    return pagerank(A, x, 1 - decay, hops)


def poisson_weights(time: float, tol: float) -> list[float]:
    r"""Weights :math:`e^{-\tau} \tau^t / t!` of the hops, up to where all further ones together weigh at most ``tol``.

    A row-stochastic affinity leaves no more than that of the features' maximum. A symmetric normalization is such an
    affinity between :math:`\mathbf{D}^{1/2}` and its inverse, so that the same holds for features over
    :math:`\sqrt{d_i}`, where a bound by the largest row sum would grow with the largest degree. Plain Python, which
    ``torch.compile`` evaluates while it traces.
    """
    weights = [math.exp(-time)]
    log_weight = -time
    while time > 0:
        t = len(weights)
        log_weight += math.log(time) - math.log(t)
        weight = math.exp(log_weight)
        # Beyond t, weights fall at least as fast as a geometric series of quotient time / (t + 1).
        if t >= time and weight * (t + 1) / (t + 1 - time) <= tol:
            break
        weights.append(weight)
    return weights
