"""The learned encoding: rows of a table."""

from __future__ import annotations

import pytest
import torch

from graphattn.nn.encodings import LearnedEncoding


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_looks_rows_up(dtype: torch.dtype) -> None:
    encoding = LearnedEncoding(6, 3)
    pos = torch.tensor([[5, 0], [2, 2]], dtype=dtype)
    expected = [[encoding.weight[p].tolist() for p in row] for row in pos.tolist()]
    assert encoding(pos).tolist() == expected


def test_gradient_counts_how_often_a_row_is_used() -> None:
    encoding = LearnedEncoding(4, 2)
    encoding(torch.tensor([1, 3, 1])).sum().backward()
    assert torch.equal(encoding.weight.grad, torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]))


def test_starts_with_a_standard_deviation_of_two_hundredths() -> None:
    weight = LearnedEncoding(200, 100).weight.detach()
    # Four standard errors of 20,000 draws.
    assert abs(weight.mean().item()) < 4 * 0.02 / 20000**0.5
    assert abs(weight.std().item() / 0.02 - 1) < 4 / 40000**0.5


def test_reset_parameters_draws_anew() -> None:
    encoding = LearnedEncoding(4, 2)
    before = encoding.weight.clone()
    encoding.reset_parameters()
    assert not torch.equal(before, encoding.weight)


@pytest.mark.parametrize("pos", [[0, 4], [-1, 0]])
def test_positions_outside_the_table(pos: list[int]) -> None:
    with pytest.raises(ValueError, match=f"pos lies between {min(pos)} and {max(pos)}; expected 0 to 3"):
        LearnedEncoding(4, 2)(torch.tensor(pos))


def test_no_positions() -> None:
    assert LearnedEncoding(4, 2)(torch.empty(0, dtype=torch.long)).shape == (0, 2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="max_positions is 0 and channels is 2; expected at least 1 each"):
        LearnedEncoding(0, 2)
    with pytest.raises(TypeError, match=r"pos has dtype torch\.float32; expected a Tensor of int64 or int32"):
        LearnedEncoding(4, 2)(torch.ones(3))
    with pytest.raises(TypeError, match="pos is a list; expected a Tensor of int64 or int32"):
        LearnedEncoding(4, 2)([1])
