"""Direct weights: those of the model that the attention was made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from graphattn.analysis.causal_direct import direct_weights
from tests.analysis.structural_models import attention_of, random_weights

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("seed", range(10))
def test_direct_weights_are_those_of_the_model(seed: int) -> None:
    G = random_weights(np.random.default_rng(seed), size=8)
    A = attention_of(G)
    condition = np.linalg.cond(np.eye(8) - G)
    assert_allclose(direct_weights(A), G, rtol=0, atol=16 * EPS * condition)
    assert_allclose(direct_weights(torch.from_numpy(3 * A)), G, rtol=0, atol=16 * EPS * condition)
    assert not np.triu(direct_weights(A)).any()


def test_direct_weights_of_many_heads() -> None:
    A = np.stack([attention_of(random_weights(np.random.default_rng(seed))) for seed in range(6)]).reshape(2, 3, 6, 6)
    found = direct_weights(A)
    for layer in range(2):
        for head in range(3):
            assert_array_equal(found[layer, head], direct_weights(A[layer, head]))
    assert direct_weights(np.ones((1, 1))).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((2, 2), 0.5), "draws on later tokens"),
        (np.array([[1.0, 0.0], [1.0, 0.0]]), r"tokens \[1\] do not attend to themselves"),
        (np.array([[1.0, 0.0], [np.nan, 1.0]]), "NaN or infinite"),
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.ones(3), r"shape \(3,\)"),
    ],
)
def test_wrong_direct_weights_are_refused(wrong: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        direct_weights(wrong)
