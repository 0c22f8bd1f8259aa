"""The network learns to look targets up in other rows, which neither neighbours nor a perceptron can."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from torch import Tensor

from graphattn.models.non_parametric_transformer import NonParametricTransformer

PAIRS, BITS, NOISE, STEPS = 24, 6, 6, 800
COLUMNS = BITS + NOISE + 2


def draw(generator: torch.Generator) -> Tensor:
    """Rows in pairs of one key of random signs, the second with the target of the first plus 1; the rest is noise."""
    codes = torch.randperm(2**BITS, generator=generator)[:PAIRS]
    keys = 2.0 * (codes[:, None] >> torch.arange(BITS) & 1) - 1
    target = torch.randn(PAIRS, 1, generator=generator)
    parts = [
        torch.cat(
            [keys, torch.randn(PAIRS, NOISE, generator=generator), torch.full_like(target, second), target + second], 1
        )
        for second in (0, 1)
    ]
    return torch.cat(parts)


def correlation(predicted: Tensor | np.ndarray, table: Tensor) -> float:
    return float(np.corrcoef(np.asarray(predicted), table[PAIRS:, -1])[0, 1])


def test_targets_are_looked_up_in_the_duplicates_of_rows() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.zeros(2 * PAIRS, COLUMNS, dtype=torch.bool)
    hidden[PAIRS:, -1] = True
    model = NonParametricTransformer([0] * COLUMNS, 8, 2, 2, dropout=0.0, attention_dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        x = draw(generator)
        predicted = model.decode(model.encode(x, hidden), COLUMNS - 1)[PAIRS:, 0]
        loss = (predicted - x[PAIRS:, -1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)

    for _ in range(3):
        x = draw(generator)
        assert correlation(model(x, hidden)[-1][PAIRS:, 0], x) > 0.99
        known, queries = x[:PAIRS].numpy(), x[PAIRS:, :-1].numpy()
        for other in (KNeighborsRegressor(1), MLPRegressor(max_iter=50, random_state=0, tol=0.1)):
            assert correlation(other.fit(known[:, :-1], known[:, -1]).predict(queries), x) < 0.9
        # Corruption: with the columns of the other rows shuffled, each on its own, nothing is left of it.
        shuffled = x.clone()
        for column in range(COLUMNS):
            shuffled[:PAIRS, column] = x[torch.randperm(PAIRS, generator=generator), column]
        assert abs(correlation(model(shuffled, hidden)[-1][PAIRS:, 0], x)) < 0.7
