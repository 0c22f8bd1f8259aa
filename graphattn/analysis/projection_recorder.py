"""Record what a layer makes of some fixed rows while its network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graphattn.analysis.transport import Trajectory, trajectory
from graphattn.engine import seeded

if TYPE_CHECKING:
    from typing_extensions import Self


class ProjectionRecorder:
    """Keep checkpoints of a layer's output for fixed inputs, from the first weights to the last.

    Inside its ``with`` block, a checkpoint is taken before the first call of the network in training mode, and before
    the first call in evaluation mode after each training: with :func:`graphattn.training.fit`, which evaluates once an
    epoch, these are the untrained weights and those of every epoch. In loops of another kind call :meth:`record`.

    For a checkpoint the network is called once more, in evaluation mode and without gradients; modes and random
    numbers are put back, so that a training gives the same bits with and without a recorder. When there are more
    checkpoints than are to be kept, every second one is dropped, and further ones are as far apart: the first and the
    last are always there. A path over fewer checkpoints is never longer, so that its efficiency is an upper bound.

    Args:
        model: The network.
        layer: One of its modules. Of a tuple that it returns, the first element counts; each row is flattened.
        inputs: What the network is called with, by name; moved to the device of its first parameter.
        rows: Rows of the layer's output that are kept; all by default. An exact coupling of them takes time
            :math:`O(N^3)`, which is for at most some 4000.
        max_checkpoints: Checkpoints that are kept at most.

    Raises:
        ValueError: If the layer is not in the network, or ``max_checkpoints`` is below 2. When recording: if the layer
            is not called exactly once.
        TypeError: When recording: if the layer returns no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> x = torch.rand(20, 2)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with ProjectionRecorder(net, net[0], {"input": x}) as recorder:
        ...     for epoch in range(5):
        ...         loss = net.train()(x).square().mean()
        ...         loss.backward()
        ...         optimizer.step()
        ...         score = net.eval()(x)
        >>> recorder.steps, recorder.trajectory().wasserstein.shape
        ([0, 1, 2, 3, 4, 5], (5,))
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        inputs: Mapping[str, Any],
        *,
        rows: Tensor | None = None,
        max_checkpoints: int = 64,
    ) -> None:
        if all(layer is not module for module in model.modules()):
            raise ValueError(
                f"layer is a {type(layer).__name__} that is not a module of model; pass one of its modules"
            )
        if not isinstance(max_checkpoints, int) or max_checkpoints < 2:
            raise ValueError(f"max_checkpoints is {max_checkpoints}; expected an integer of at least 2")
        self.model, self.layer, self.inputs = model, layer, inputs
        self.rows, self.max_checkpoints = rows, max_checkpoints
        self._kept: list[tuple[int, np.ndarray]] = []
        self._last: tuple[int, np.ndarray] | None = None
        self._count, self._spacing = 0, 1
        self._trained = self._recording = False

    def __enter__(self) -> Self:
        self._hook = self.model.register_forward_pre_hook(self._before_call)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def record(self) -> None:
        """Take a checkpoint now."""
        self._last = self._count, self._project()
        self._count += 1
        if self._last[0] % self._spacing == 0:
            self._kept.append(self._last)
            if len(self._kept) == self.max_checkpoints:  # leaves room for the last one
                self._kept, self._spacing = self._kept[::2], 2 * self._spacing

    @property
    def steps(self) -> list[int]:
        """Numbers of the checkpoints that are kept, counted from 0, the first weights."""
        return [step for step, _ in self._checkpoints()]

    @property
    def checkpoints(self) -> list[np.ndarray]:
        """The layer's output at each of them, a row for each of ``rows``."""
        return [projection for _, projection in self._checkpoints()]

    def trajectory(self, p: float = 1.0) -> Trajectory:
        """Measure the moves between the checkpoints.

        Args:
            p: Power of the distances, at least 1.

        Raises:
            ValueError: As :func:`~graphattn.analysis.transport.trajectory`.
        """
        return trajectory(self.checkpoints, p, self.steps)

    def _checkpoints(self) -> list[tuple[int, np.ndarray]]:
        if self._last is None or self._kept[-1][0] == self._last[0]:
            return self._kept
        return [*self._kept, self._last]

    def _before_call(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if self._recording:
            return
        if model.training:
            if self._last is None:
                self.record()
            self._trained = True
        elif self._trained:
            self.record()
            self._trained = False

    def _project(self) -> np.ndarray:
        """Call the network for the inputs and return what the layer makes of them."""
        device = next(self.model.parameters()).device
        inputs = {name: value.to(device) if hasattr(value, "to") else value for name, value in self.inputs.items()}
        outputs: list[Any] = []
        modes = [(module, module.training) for module in self.model.modules()]
        self._recording = True
        try:
            with (
                torch.no_grad(),
                seeded(0, device=device),
                self.layer.register_forward_hook(lambda module, args, output: outputs.append(output)),
            ):
                self.model.eval()
                self.model(**inputs)
        finally:
            self._recording = False
            for module, training in modes:
                module.training = training
        if len(outputs) != 1:
            raise ValueError(
                f"layer is called {len(outputs)} times for the inputs; expected a layer that is called once"
            )
        output = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        if not isinstance(output, Tensor):
            raise TypeError(
                f"layer returns a {type(output).__name__}; expected a tensor, or a tuple that starts with one"
            )
        chosen = output if self.rows is None else output[self.rows.to(output.device)]
        chosen = chosen.flatten(1).to("cpu", torch.promote_types(chosen.dtype, torch.float32), copy=True)
        return np.asarray(chosen.numpy())
