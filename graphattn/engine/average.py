"""An average of the weights over the steps of a training run, which is calmer than the weights of any one step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class WeightAverage:
    r"""Average the weights of a network over the steps of its training, the last ones counting most.

    .. math::
        \bar{\theta}_t = d_t\,\bar{\theta}_{t-1} + (1 - d_t)\,\theta_t, \quad d_t = \min(d,\; (t - 1) / t)

    It is the mean of all steps until there are :math:`1 / (1 - d)` of them, so that the first weights do not count for
    more than others. What is no number, such as the count of batches of a normalization, is taken as it is.

    Args:
        model: The network.
        decay: How much a step counts less than the next one, :math:`d`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(model, decay=0.5)
        >>> for value in (1.0, 3.0, 4.0):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     average.update()
        >>> with average.applied():
        ...     print(model.weight.item())  # ((1 + 3) / 2 + 4) / 2
        3.0
        >>> model.weight.item()
        4.0

    Reference:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self._steps = 0
        self._weights = copy.deepcopy(model.state_dict())

    def update(self) -> None:
        """Count the weights that the network has now as those of the next step."""
        self._steps += 1
        decay = min(self.decay, (self._steps - 1) / self._steps)
        for name, value in self.model.state_dict().items():
            mean = self._weights[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network its average weights for a while, and its own ones back afterwards."""
        own = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self._weights)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on."""
        return {"steps": self._steps, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` has returned."""
        self._steps, self._weights = state["steps"], state["weights"]
