"""What processes share: sums of unequal parts, errors and buffers; the other process is written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn.engine import Processes


class Fabric:
    """The first of two processes, or the second, whose peer adds and sends what it is told to."""

    world_size = 2

    def __init__(self, rank: int = 0, adds: Tensor | None = None, sends: Any = None) -> None:
        self.global_rank, self.adds, self.sends = rank, adds, sends

    def all_reduce(self, values: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        assert self.adds is not None
        return values + self.adds.to(values)

    def broadcast(self, value: Any) -> Any:
        return value if self.global_rank == 0 else self.sends


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11])
def test_parts_are_the_batch(size: int) -> None:
    batch = torch.randperm(11)
    parts = []
    for rank in range(size):
        processes = Processes(Fabric(rank))
        processes.size = size
        parts.append(processes.part(batch))
    assert torch.equal(torch.cat(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_that_is_too_small_to_share() -> None:
    assert Processes(Fabric(1)).part(torch.tensor([7])).tolist() == [7]


def test_means_are_those_of_all() -> None:
    """Three targets here and one there; a process without targets counts for nothing."""
    values = {"loss": torch.tensor(2.0), "other": torch.tensor(-1.0)}
    means, share = Processes(Fabric(adds=torch.tensor([10.0, 1.0, 1.0]))).mean(values, lambda: 3)
    assert (means, share) == ({"loss": 4.0, "other": -0.5}, 0.75)
    means, share = Processes(Fabric(adds=torch.tensor([10.0, 1.0, 1.0]))).mean(values, lambda: 0)
    assert (means, share) == ({"loss": 10.0, "other": 1.0}, 0.0)
    assert Processes(Fabric(adds=torch.zeros(3))).mean(values, lambda: 0) == ({"loss": 0.0, "other": 0.0}, 0.0)
    assert Processes().mean(values, lambda: 3) == ({"loss": 2.0, "other": -1.0}, 1.0)


def test_gradients_are_summed() -> None:
    """Also where one process has none; what none has a gradient for keeps none, or an optimizer would decay it."""
    model = nn.ParameterList([torch.zeros(2), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1)])
    model[0].grad = torch.tensor([1.0, 2.0])
    model[3].requires_grad_(False)
    adds = torch.tensor([10.0, 20.0, 3.0, 4.0, 0.0, 1.0, 1.0, 0.0])
    Processes(Fabric(adds=adds)).sum_gradients(model.parameters())
    assert model[0].grad.tolist() == [11.0, 22.0]
    assert model[1].grad.tolist() == [[3.0, 4.0]]
    assert model[2].grad is None
    assert model[3].grad is None


def test_gradients_in_half_precision_are_summed_in_single() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    weight.grad = torch.full((1,), 256.0, dtype=torch.bfloat16)
    Processes(Fabric(adds=torch.tensor([1.0, 1.0]))).sum_gradients([weight])
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.item() == torch.tensor(257.0).bfloat16().item()


def test_the_first_process_speaks_for_all() -> None:
    assert Processes(Fabric()).first(lambda: 3) == 3

    def never() -> int:
        raise AssertionError("the second process asks the first")

    assert Processes(Fabric(1, sends=(3, None))).first(never) == 3
    assert Processes(Fabric(1, sends="its clock")).agreed("ours") == "its clock"


@pytest.mark.parametrize("fabric", [None, Fabric(), Fabric(1, sends=(None, ValueError("too small")))])
def test_its_errors_are_raised_in_all(fabric: Fabric | None) -> None:
    def fail() -> int:
        raise ValueError("too small")

    with pytest.raises(ValueError, match=r"^too small$"):
        Processes(fabric).first(fail)


def test_buffers_are_those_of_the_first() -> None:
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean.fill_(5.0)
    other.num_batches_tracked.fill_(3)
    mean = norm.running_mean
    Processes(Fabric(1, sends=dict(other.named_buffers()))).share_buffers(norm)
    assert norm.running_mean is mean
    assert mean.tolist() == [5.0, 5.0]
    assert norm.num_batches_tracked == 3


def test_each_process_draws_numbers_of_its_own() -> None:
    def drawn(fabric: Fabric | None, *key: int) -> float:
        torch.manual_seed(0)
        with Processes(fabric).apart(*key):
            return torch.rand(()).item()

    numbers = [drawn(Fabric(rank), 3, epoch) for rank in (0, 1) for epoch in (1, 2)]
    assert len(set(numbers)) == 4
    assert drawn(Fabric(1), 3, 2) == numbers[3]
    torch.manual_seed(0)
    expected = torch.rand(()).item()
    assert drawn(None, 3, 1) == expected, "one process goes on with the numbers it draws from"
