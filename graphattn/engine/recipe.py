"""Recipe: how long, in what steps and with which optimizer a network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

_OPTIMIZERS = ("sgd", "adam", "adamw")
_SCHEDULES = ("cosine", "constant")
_REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Recipe:
    r"""Train by stochastic gradients with a linear warm-up and, if asked, a cosine decay of the learning rate.

    After :math:`e` of :math:`E` epochs, :math:`W = wE` of them warm-up from the fraction :math:`a`:

    .. math::
        \eta(e) = \eta \begin{cases}
        a + (1 - a)\, e / W & e < W \\
        \tfrac12 \bigl(1 + \cos(\pi (e - W) / (E - W))\bigr) & e \ge W, \text{ cosine} \\
        1 & e \ge W, \text{ constant}
        \end{cases}

    where :math:`\eta` is ``lr`` times ``batch_size / 256``, or ``lr`` itself where all samples make one batch.

    Args:
        epochs: Passes :math:`E` through the data.
        batch_size: Samples of a step; ``None`` for all of them at once.
        lr: Learning rate at a batch of 256 samples, or of all.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``; the weight decay of the first two is a part of the gradient.
        momentum: Momentum of ``"sgd"``; the first moment's decay of ``"adam"`` and ``"adamw"``.
        weight_decay: Weight decay; biases and other vectors, such as those of a normalization, have none, but with
            ``"adam"``, which is used as in the examples of PyG: a square norm of all weights in the loss.
        schedule: ``"cosine"`` or ``"constant"``: what the learning rate does after the warm-up.
        warmup: Part :math:`w` of the epochs in which the learning rate rises.
        warmup_start: Fraction :math:`a` of the learning rate at which it starts to rise.
        clip: Norm that gradients are cut to; ``None`` for none.
        ema: Decay of a moving average of the weights, such as 0.99, that is evaluated and kept instead of those of the
            last step; ``None`` for none.
        patience: Epochs without a better score after which training ends early; ``None`` for never.
        seed: Seed of the weights, of the order of the samples and of what is dropped.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> recipe = Recipe(epochs=10, batch_size=128, lr=0.2)
        >>> [round(recipe.rate(epoch), 4) for epoch in (0, 1, 2, 6, 10)]
        [0.001, 0.0505, 0.1, 0.05, 0.0]
    """

    epochs: int = 100
    batch_size: int | None = 256
    lr: float = 0.025
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-6
    schedule: str = "cosine"
    warmup: float = 0.2
    warmup_start: float = 0.01
    clip: float | None = 1.0
    ema: float | None = None
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("seed", 0), ("batch_size", 1), ("patience", 1)):
            value = getattr(self, name)
            optional = name in ("batch_size", "patience")
            if optional and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                end = ", or None" if optional else ""
                raise ValueError(f"{name} is {value!r}; expected an integer, at least {least}{end}")
        for name, known in (("optimizer", _OPTIMIZERS), ("schedule", _SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, known))}")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number in [0, 1)")
        if not 0 <= self.warmup_start <= 1:
            raise ValueError(f"warmup_start is {self.warmup_start}; expected a fraction in [0, 1]")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; expected a positive number")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected a number of at least 0")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; expected a positive number, or None")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected a number in (0, 1), or None")

    def rate(self, epoch: float) -> float:
        """Return the learning rate after ``epoch`` epochs, a fraction of one included."""
        peak = self.lr if self.batch_size is None else self.lr * self.batch_size / _REFERENCE_BATCH
        rising = self.warmup * self.epochs
        if epoch < rising:
            return peak * (self.warmup_start + (1 - self.warmup_start) * epoch / rising)
        if self.schedule == "constant":
            return peak
        return peak * 0.5 * (1 + math.cos(math.pi * (epoch - rising) / (self.epochs - rising)))

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a model, whose vectors have weight decay with ``"adam"`` alone."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        betas = (self.momentum, 0.999)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.rate(0.0), betas=betas, weight_decay=self.weight_decay)
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=self.rate(0.0), momentum=self.momentum)
        return torch.optim.AdamW(groups, lr=self.rate(0.0), betas=betas)
