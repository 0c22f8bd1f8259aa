"""The lookup task of ``tabular.py``: pairs of rows with one random target; and a network taught on other tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from torch import Tensor, nn

from graphattn.engine import seeded
from graphattn.models.non_parametric_transformer import NonParametricTransformer

# What the rows of the lookup task have besides the key and the target of their pair.
LOOKUPS = ("plain", "random features", "targets + 1", "random features, targets + 1")
BITS, RANDOM_FEATURES = 8, 4
PAIRS, QUICK_PAIRS = 192, 16
KNOWN = 0.75  # of the pairs, those of which the table holds both rows
# Which row is the duplicate takes long to find among many: tables to learn from are small at first, and ask for more.
_SMALL, _GROWING, _KNOWN, _LEARNING_RATE = 24, (0.4, 0.8), 0.25, 5e-3


@dataclass(frozen=True)
class Split:
    """A table cut into rows to train on and rows to predict."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def lookup(kind: str, pairs: int, known: float = KNOWN, seed: int = 0) -> Split:
    """Return rows in pairs of one key and one random target, of which the test rows are the second without the first.

    A key is a row of random signs. With random features each row has some of its own; with targets + 1 the second row
    of a pair, which a column marks, has the target of the first and one more.
    """
    rng = np.random.default_rng(seed)
    keys = 2.0 * (rng.permutation(2**BITS)[:pairs, None] >> np.arange(BITS) & 1) - 1.0
    y, shift = rng.normal(size=pairs), float("targets" in kind)
    width = RANDOM_FEATURES * kind.startswith("random")
    rows = [np.column_stack([keys, rng.normal(size=(pairs, width)), np.full(pairs, mark)]) for mark in (0, shift)]
    both = int(known * pairs)
    X, targets = np.vstack([rows[0], rows[1][:both]]), np.concatenate([y, y[:both] + shift])
    return Split(X, targets, rows[1][both:], y[both:] + shift)


class TaughtLookup(RegressorMixin, BaseEstimator):
    """Teach a network to look targets up in other tables of one kind; a fit then only keeps its table.

    A table of a few hundred rows can be learned by heart, which is easier than to look things up; other tables in every
    step leave the network nothing to learn by heart.
    """

    def __init__(self, kind: str, steps: int, pairs: int) -> None:
        self.kind = kind
        self.steps = steps
        self.pairs = pairs

    def fit(self, X: np.ndarray, y: np.ndarray) -> TaughtLookup:
        columns = X.shape[1] + 1
        with seeded(0):
            self.model_ = NonParametricTransformer([0] * columns, 8, 2, 2, dropout=0.0, attention_dropout=0.0)
            optimizer = torch.optim.AdamW(self.model_.parameters(), lr=_LEARNING_RATE)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, _LEARNING_RATE, total_steps=self.steps, pct_start=0.1
            )
            for step in range(self.steps):
                other = lookup(self.kind, self._pairs(step), _KNOWN, seed=1 + step)
                predicted = self._ask(np.column_stack([other.X, other.y]), other.X_test)
                loss = (predicted - torch.from_numpy(other.y_test).float()).square().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model_.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        self.model_.eval()
        self.table_, self.n_iter_ = np.column_stack([X, y]), self.steps
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self._ask(self.table_, X).double().numpy()

    def _pairs(self, step: int) -> int:
        """As many as the table has, after a geometric growth."""
        start, end = _GROWING
        grown = min(1.0, max(0.0, (step / self.steps - start) / (end - start)))
        smallest = min(_SMALL, self.pairs)
        return round(smallest * (self.pairs / smallest) ** grown)

    def _ask(self, table: np.ndarray, X: np.ndarray) -> Tensor:
        queries = np.column_stack([X, np.zeros(len(X))])
        x = torch.from_numpy(np.vstack([table, queries])).float()
        hidden = torch.zeros(x.shape, dtype=torch.bool)
        hidden[len(table) :, -1] = True
        h = self.model_.encode(x, hidden, num_context=len(table))
        return self.model_.decode(h, x.size(1) - 1)[len(table) :, 0]
