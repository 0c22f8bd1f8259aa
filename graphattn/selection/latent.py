"""How likely each feature is relevant, by an aspect model of how well single samples fit their class."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.affinity.columns import column_blocks
from graphattn.diffusion import ConvergenceWarning

_PSEUDO_COUNT = 1e-3
_STRONGEST = 5000.0  # of the token tables to start with, against 1 for the weakest


class Latent(NamedTuple):
    """What expectation maximization found."""

    relevance: Tensor
    iterations: int
    change: float


class Tokens(NamedTuple):
    """How the samples of each feature are distributed over classes of fit."""

    counts: Tensor
    """Samples per token, the best fit first, ``[F, B]``."""
    good: Tensor
    """Share of samples that fit better than by chance, ``[F]``."""
    mean: Tensor
    """Mean distance share, smaller for a better fit, ``[F]``."""


def tokens(
    x: Any, y: Tensor, edges: Tensor, *, skip_undefined: bool = False, device: torch.device | str | None = None
) -> Tokens:
    r"""Count how well samples fit their class, feature by feature.

    .. math:: p_i(t) = \frac{(x_{ti} - \mu_{i y_t})^2}{\sum_c (x_{ti} - \mu_{ic})^2} \in [0, 1]

    is small where a sample lies at the mean of its own class; 1 / C is the level of chance, taken also where the
    share is 0 / 0, as for a constant feature.

    Args:
        x: Samples by features.
        y: Classes, numbered from 0.
        edges: The inner edges of the tokens, ascending; a token is closed on the left.
        skip_undefined: Whether shares of 0 / 0 give no token.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`, ``y`` :math:`(T,)`, ``edges`` :math:`(B - 1,)`

    Returns:
        The counts and what starts and orders the estimates.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
        >>> tokens(x, torch.tensor([0, 0, 1, 1]), torch.tensor([0.5], dtype=torch.float64)).counts.tolist()
        [[4.0, 0.0]]
    """
    y, edges = y.to(device), edges.to(device)
    size = torch.bincount(y).double()
    chance = 1 / size.numel()
    counts = size.new_zeros(x.shape[1], edges.numel() + 1)
    good, mean = counts.new_empty(x.shape[1]), counts.new_empty(x.shape[1])
    for start, stop, block in column_blocks(x, device):
        centre = block.new_zeros(block.size(0), size.numel()).index_add_(1, y, block) / size
        total = torch.zeros_like(block)
        for of_class in centre.unbind(1):
            total += (block - of_class.unsqueeze(1)).square()
        own = (block - centre.index_select(1, y)).square()
        share = torch.where(total > 0, own / total, chance)
        token = torch.bucketize(share, edges, right=True)
        counted = (total > 0).double() if skip_undefined else torch.ones_like(share)
        counts[start:stop].scatter_add_(1, token, counted)
        good[start:stop] = (share < chance).double().mean(1)
        mean[start:stop] = share.mean(1)
    return Tokens(counts, good, mean)


def latent_relevance(counts: Tensor, prior: Tensor, *, tol: float = 1e-8, max_iter: int = 1000) -> Latent:
    r"""Estimate how likely each feature is relevant from its tokens, by penalised expectation maximization.

    .. math:: \max \sum_{ib} N_{ib} \log (z_i R_b + (1 - z_i) I_b) + \sum_i \log z_i (1 - z_i)
              + \epsilon \sum_b \log R_b I_b

    Relevant features draw their tokens from one table :math:`R`, the others from :math:`I`; both are learned. The
    penalties keep every :math:`z_i` inside (0, 1).

    Args:
        counts: Tokens :math:`N`, the best fit first.
        prior: Where :math:`z` starts.
        tol: Relative change of the objective to stop at.
        max_iter: Steps at most.

    Shapes:
        - **input:** ``counts`` :math:`(F, B)`, ``prior`` :math:`(F,)`

    Returns:
        The estimates, the steps taken and the last relative change.

    Warns:
        ConvergenceWarning: If ``max_iter`` steps do not suffice.

    Example:
        >>> counts = torch.tensor([[9.0, 1.0], [1.0, 9.0]], dtype=torch.float64)
        >>> (latent_relevance(counts, torch.tensor([0.5, 0.5])).relevance > 0.5).tolist()
        [True, False]
    """
    samples = counts.sum(1)
    relevant, irrelevant = _tables(counts)
    z = prior.to(counts.dtype).clamp(0.01, 0.99)
    before, change, step = math.inf, math.inf, 0
    for step in range(1, max_iter + 1):  # noqa: B007 - reported
        likely = z.unsqueeze(1) * relevant
        total = likely + (1 - z).unsqueeze(1) * irrelevant
        expected = counts * likely / total
        penalty = (z * (1 - z)).log().sum() + _PSEUDO_COUNT * (relevant * irrelevant).log().sum()
        objective = ((counts * total.log()).sum() + penalty).item()
        change = abs(objective - before) / max(abs(objective), 1.0)
        if change <= tol:
            break
        before = objective
        z = (expected.sum(1) + 1) / (samples + 2)
        relevant = _normalized(expected.sum(0) + _PSEUDO_COUNT)
        irrelevant = _normalized((counts - expected).sum(0) + _PSEUDO_COUNT)
    else:
        warnings.warn(
            f"the objective still changes by {change:.1e} after {max_iter} steps, above tol={tol:.1e}; raise max_iter",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Latent(z, step, change)


def released_relevance(counts: Tensor) -> Latent:
    r"""Estimate relevance as the release of ILFS does, whose token tables stay as they start.

    The prior is the share of all but the best tokens (of the last three), and 0 or 1 is never left again: a feature
    whose samples all fit their class best gets 0. A feature without tokens gets 0 too.

    Args:
        counts: Tokens, the best fit first; at least three kinds.

    Shapes:
        - **input:** :math:`(F, B)`

    Returns:
        The estimates, the steps taken, at most 1000, and the last change of the log-likelihood.

    Example:
        >>> released_relevance(torch.tensor([[9.0, 0.0, 0.0, 0.0]], dtype=torch.float64)).relevance.item()
        0.0
    """
    samples = counts.sum(1).clamp_min(1)
    relevant, irrelevant = _tables(counts)
    z = counts[:, -3:].sum(1) / samples
    before, change, step = -math.inf, math.inf, 0
    for step in range(1, 1001):  # noqa: B007 - reported
        likely = z.unsqueeze(1) * relevant
        posterior = likely / (likely + (1 - z).unsqueeze(1) * irrelevant)
        z = (counts * posterior).sum(1) / samples
        total = z.unsqueeze(1) * relevant + (1 - z).unsqueeze(1) * irrelevant
        likelihood = (counts * total.log()).sum().item()
        change, before = abs(likelihood - before), likelihood
        if change < 1e-6:
            break
    return Latent(z, step, change)


def _tables(counts: Tensor) -> tuple[Tensor, Tensor]:
    table = _normalized(torch.linspace(_STRONGEST, 1, counts.size(1), dtype=counts.dtype, device=counts.device))
    return table, table.flip(0)


def _normalized(table: Tensor) -> Tensor:
    return table / table.sum()
