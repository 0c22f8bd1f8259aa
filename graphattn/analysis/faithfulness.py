"""Whether an attribution says what a model does: deletion and insertion curves, and masking.

Attention is no explanation by itself. The tests here ask the model: what happens to its output without the tokens or
nodes that an attribution names, compared with others. Whether the attribution depends on what the model has learned is
asked by :func:`~graphattn.analysis.randomized_control`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn._optional import require

Score = Callable[[Tensor], Any]

_TIE = 1e-6  # of the largest score: what single precision leaves of equal ones


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Hold how a model's score falls and rises with the tokens that an attribution calls important.

    Args:
        fractions: Fractions of the tokens that are removed, or inserted, at each step.
        deletion: Score after the most important tokens are removed.
        insertion: Score with the most important tokens alone.
        random: Scores along random orders, one a row, by the fraction removed.
        deletion_area: Area under the deletion curve: low if the attribution is faithful.
        insertion_area: Area under the insertion curve: high if the attribution is faithful.
        deletion_p: Share of orders, the attribution's own among them, with a deletion area as low.
        insertion_p: Share of orders, the attribution's own among them, with an insertion area as high.

    Example:
        >>> worth = torch.tensor([4.0, 3.0, 2.0, 1.0])
        >>> result = faithfulness(lambda kept: kept.double() @ worth.double(), worth)
        >>> result.deletion.tolist(), result.insertion.tolist()
        ([10.0, 6.0, 3.0, 1.0, 0.0], [0.0, 4.0, 7.0, 9.0, 10.0])
    """

    fractions: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray
    random: np.ndarray
    deletion_area: float
    insertion_area: float
    deletion_p: float
    insertion_p: float

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row a step, and the mean of the random orders.

        Raises:
            ImportError: If pandas is not installed; the extra ``analysis`` brings it.
        """
        pandas = require("pandas", "analysis")
        mean = self.random.mean(axis=0)
        columns = {
            "deletion": self.deletion,
            "random_deletion": mean,
            "insertion": self.insertion,
            "random_insertion": mean[::-1],
        }
        return pandas.DataFrame(columns, index=pandas.Index(self.fractions, name="fraction"))

    def __repr__(self) -> str:
        return (
            f"Faithfulness(deletion area {self.deletion_area:.4g}, p = {self.deletion_p:.3g}; "
            f"insertion area {self.insertion_area:.4g}, p = {self.insertion_p:.3g})"
        )


@dataclass(frozen=True, eq=False)
class RemovalTest:
    """Hold how far the score falls without some tokens, and without others of the same number.

    Args:
        tokens: The tokens that were removed.
        drop: How far the score falls without them.
        random_drops: How far it falls without other tokens.
        p: Share of the sets, the tested one among them, without which it falls as far.
        exact: Whether all sets of that size were tried.

    Example:
        >>> removal_test(lambda kept: kept.sum(1), [0, 2], 3)
        RemovalTest(2 tokens: the score falls by 2, p = 1)
    """

    tokens: tuple[int, ...]
    drop: float
    random_drops: np.ndarray
    p: float
    exact: bool

    def as_frame(self) -> Any:
        """Return a pandas DataFrame with one row for each set that was removed, the tested one first.

        Raises:
            ImportError: If pandas is not installed; the extra ``analysis`` brings it.
        """
        pandas = require("pandas", "analysis")
        tested = np.arange(len(self.random_drops) + 1) == 0
        return pandas.DataFrame({"drop": [self.drop, *self.random_drops], "tested": tested})

    def __repr__(self) -> str:
        return f"RemovalTest({len(self.tokens)} tokens: the score falls by {self.drop:.4g}, p = {self.p:.3g})"


def faithfulness(
    score: Score,
    attribution: Any,
    *,
    steps: int = 20,
    samples: int = 20,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> Faithfulness:
    r"""Remove and insert tokens in the order of an attribution, and compare with random orders.

    With :math:`S_k` the :math:`k` tokens of highest attribution, the curves and their areas are

    .. math:: d_k = f(\bar S_k), \quad i_k = f(S_k), \qquad
        \textstyle\int_0^1 d, \quad \int_0^1 i \quad \text{by the trapezoidal rule over } k / N

    A random order serves both: its insertion curve is the deletion curve of the reversed order.

    Args:
        score: What the model makes of some of the tokens: of a boolean tensor :math:`(S, N)`, True for tokens that are
            there, the scores :math:`(S,)`, such as the probability of the class that it predicts for all tokens.
        attribution: How important each token or node is, :math:`(N,)`; of equal ones the first counts as more.
        steps: Steps of a curve (one more where the tokens have no half); fewer tokens give one step each.
        samples: Number of random orders.
        batch_size: Rows that ``score`` is given at once, at most.
        generator: Draws the orders.

    Returns:
        The curves. ``score`` is asked for :math:`(2 + \text{samples})(\text{steps} + 1)` rows.

    Raises:
        ValueError: If the attribution is no finite vector, a score is not finite or of another shape, or a count is
            below 1.

    Example:
        >>> worth = torch.rand(30)
        >>> result = faithfulness(lambda kept: kept.float() @ worth, worth, generator=torch.Generator().manual_seed(0))
        >>> result.deletion_p == result.insertion_p == 1 / 21
        True

    Reference:
        Samek et al., "Evaluating the Visualization of What a Deep Neural Network Has Learned", 2017; Petsiuk et al.,
        "RISE", 2018. The comparison with random orders is ours.
    """
    values = read_vector("attribution", attribution)
    for name, count in (("steps", steps), ("samples", samples), ("batch_size", batch_size)):
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1")
    size = len(values)
    counts = _counts(size, min(size, steps))
    order = np.argsort(-values, kind="stable")
    orders = [order, *(torch.randperm(size, generator=generator).numpy() for _ in range(samples))]
    removed = np.stack([_first(one, count) for one in orders for count in counts])
    kept = np.concatenate([~removed, removed[: len(counts)]])
    found = _scores(score, kept, batch_size).reshape(len(orders) + 1, len(counts))
    deletion, random, insertion = found[0], found[1:-1], found[-1]
    fractions = counts / size
    tie = _TIE * np.abs(found).max()
    areas = (found[:, 1:] + found[:, :-1]) @ np.diff(fractions) / 2
    return Faithfulness(
        fractions=fractions,
        deletion=deletion,
        insertion=insertion,
        random=random,
        deletion_area=float(areas[0]),
        insertion_area=float(areas[-1]),
        deletion_p=float(np.mean(areas[:-1] <= areas[0] + tie)),
        insertion_p=float(np.mean(areas[1:] >= areas[-1] - tie)),
    )


def removal_test(
    score: Score,
    tokens: Sequence[int],
    num_tokens: int,
    *,
    samples: int = 200,
    batch_size: int = 64,
    generator: torch.Generator | None = None,
) -> RemovalTest:
    """Mask some tokens at once, and compare with the masking of other sets of the same size.

    Args:
        score: As in :func:`faithfulness`.
        tokens: Numbers of the tokens to remove, such as the parents of a prediction.
        num_tokens: Number of tokens.
        samples: Number of other sets; all of them where there are no more.
        batch_size: As in :func:`faithfulness`.
        generator: Draws the sets.

    Returns:
        How far the score falls. Its ``p`` is a small number if few sets matter as much.

    Raises:
        ValueError: If the tokens are none, not different or out of range, or a score is wrong.

    Example:
        >>> worth = torch.tensor([0.0, 5.0, 1.0, 0.0, 1.0])
        >>> test = removal_test(lambda kept: kept.float() @ worth, [1], 5)
        >>> test.drop, test.p, test.exact
        (5.0, 0.2, True)
    """
    chosen = tuple(sorted(int(token) for token in tokens))
    if not chosen or len(set(chosen)) != len(chosen) or not 0 <= chosen[0] <= chosen[-1] < num_tokens:
        raise ValueError(f"tokens is {list(tokens)}; expected one or more different numbers of 0 to {num_tokens - 1}")
    if samples < 1 or batch_size < 1:
        raise ValueError(f"samples is {samples} and batch_size is {batch_size}; expected at least 1 each")
    exact = comb(num_tokens, len(chosen)) - 1 <= samples
    if exact:
        others = [other for other in combinations(range(num_tokens), len(chosen)) if other != chosen]
    else:
        others = [
            tuple(torch.randperm(num_tokens, generator=generator)[: len(chosen)].tolist()) for _ in range(samples)
        ]
    kept = np.ones((len(others) + 2, num_tokens), dtype=bool)
    for row, removed in zip(kept[1:], (chosen, *others), strict=True):
        row[list(removed)] = False
    found = _scores(score, kept, batch_size)
    drops = found[0] - found[1:]
    p = np.mean(drops >= drops[0] - _TIE * np.abs(found).max())
    return RemovalTest(chosen, float(drops[0]), drops[1:], float(p), exact)


def _counts(size: int, steps: int) -> np.ndarray:
    """Spread the numbers of removed tokens, so that those of the kept ones are the same numbers."""
    lower = np.linspace(0, size, steps + 1)[: steps // 2 + 1].round().astype(int)
    return np.unique(np.concatenate([lower, size - lower]))


def _first(order: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def _scores(score: Score, kept: np.ndarray, batch_size: int) -> np.ndarray:
    """Ask for the scores of some rows, batch by batch and without gradients."""
    found = []
    for start in range(0, len(kept), batch_size):
        rows = torch.from_numpy(kept[start : start + batch_size])
        with torch.no_grad():
            values = read_vector("score", score(rows))
        if len(values) != len(rows):
            raise ValueError(f"score returned {len(values)} numbers for {len(rows)} rows; expected one for each")
        found.append(values)
    return np.concatenate(found)


def read_vector(name: str, values: Any) -> np.ndarray:
    """Read finite numbers of an array or a tensor, as float64."""
    array = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has shape {array.shape} and finite={np.isfinite(array).all()}; expected finite numbers, [N]"
        )
    return array
