"""The same bits twice, in the way that the README promises them."""

from __future__ import annotations

import pytest
import torch

from tests.contracts.cases import CASES, cast, run


@pytest.mark.parametrize("name", list(CASES))
def test_the_same_bits_twice(name: str) -> None:
    """Forward and backward, in the deterministic mode of torch too, which raises where an operation has none."""
    module, inputs = CASES[name].build().float(), cast(CASES[name].draw(30, 200), torch.float32)
    first = run(module, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        second = run(module, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["conv-dot", "conv-gatv2"])
def test_dropout_follows_the_seed_of_torch(name: str) -> None:
    module, inputs = CASES[name].build().train(), CASES[name].draw(30, 200)
    module.dropout = 0.5
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(module(**inputs))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_frequencies_follow_a_generator() -> None:
    encoding, t = CASES["time-normal"].make().train(), torch.arange(5)
    draws = [encoding(t, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
