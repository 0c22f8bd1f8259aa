"""The processes that train a network together: each computes a part of every batch, and all make the same step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphattn.engine.seeds import seeded

_T = TypeVar("_T")


class Processes:
    r"""One process, or those of a ``Fabric``, which hold the same weights and share the samples of each batch.

    A batch of :math:`n` targets whose :math:`n_p` fall to process :math:`p` has the gradient that one process would
    find for it, whatever the parts are:

    .. math:: \mathbf{g} = \sum_p \frac{n_p}{n}\, \nabla \mathcal{L}_p

    Args:
        fabric: A ``Fabric`` of Lightning; ``None`` for a single process.

    Example:
        >>> alone = Processes()
        >>> alone.part(torch.arange(3)), alone.first(lambda: 7)
        (tensor([0, 1, 2]), 7)
    """

    def __init__(self, fabric: Any = None) -> None:
        self.fabric = fabric
        self.size: int = 1 if fabric is None else fabric.world_size
        self.rank: int = 0 if fabric is None else fabric.global_rank

    def part(self, batch: Tensor) -> Tensor:
        """Return the samples of a batch that fall to this process; all of them if there are too few to share.

        Args:
            batch: Samples ``[B]``, the same in all processes.
        """
        return batch.tensor_split(self.size)[self.rank] if len(batch) >= self.size else batch

    def apart(self, *key: int, device: torch.device | str = "cpu") -> AbstractContextManager[None]:
        """Let each of several processes draw random numbers of its own for a while, which depend on a key.

        Args:
            key: Integers as in :func:`~graphattn.engine.seeded`.
            device: Where, besides the CPU, random numbers are drawn.
        """
        return nullcontext() if self.size == 1 else seeded(*key, 2, self.rank, device=device)

    def first(self, function: Callable[[], _T]) -> _T:
        """Call a function in the first process, and return its value, or raise its error, in all.

        Args:
            function: What to call; it must not wait for other processes.
        """
        if self.size == 1:
            return function()
        value: Any = None
        error: Exception | None = None
        if self.rank == 0:
            try:
                value = function()
            except Exception as caught:
                error = caught
        shared, failure = self.agreed((value, error))
        if failure is not None:
            raise error or failure
        result: _T = shared
        return result

    def agreed(self, value: _T) -> _T:
        """Return what a value is in the first process."""
        return value if self.size == 1 else self.fabric.broadcast(value)

    def mean(self, values: dict[str, Tensor], weight: Callable[[], float]) -> tuple[dict[str, float], float]:
        """Return the means of some values over all processes, and the part that this one has in them.

        Args:
            values: Means over what this process has, by name.
            weight: Returns how much that is.
        """
        if self.size == 1:
            return {name: value.item() for name, value in values.items()}, 1.0
        local, own = torch.stack([value.detach().double() for value in values.values()]), weight()
        summed = self._sum(torch.cat([local * own, local.new_tensor([own])]))
        total = max(summed[-1].item(), 1.0)
        return dict(zip(values, (summed[:-1] / total).tolist(), strict=True)), own / total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all processes the sum of their gradients; a parameter that none has a gradient for keeps none."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        wide = torch.promote_types(trained[0].dtype, torch.float32)
        has = torch.tensor([parameter.grad is not None for parameter in trained], device=trained[0].device, dtype=wide)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        *summed, has = self._sum(torch.cat([g.flatten().to(wide) for g in (*gradients, has)])).split(
            [*(p.numel() for p in trained), len(trained)]
        )
        for parameter, gradient, count in zip(trained, summed, has.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if count else None

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers of the first, such as the running statistics of a normalization."""
        if self.size > 1:
            buffers = dict(model.named_buffers())
            for name, value in self.agreed(buffers).items():
                buffers[name].copy_(value)

    def _sum(self, values: Tensor) -> Tensor:
        summed: Tensor = self.fabric.all_reduce(values, reduce_op="sum")
        return summed
