"""What stands around the attentions of a layer: activations, normalizations and the perceptron of each node."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.dropout import drop

NORMS = (None, "layer", "batch")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
}


def make_norm(norm: str | None, channels: int) -> nn.Module:
    """Make a normalization of nodes: ``"layer"`` over the channels, ``"batch"`` over the nodes, ``None`` for none."""
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; expected one of {', '.join(map(repr, NORMS))}")
    if norm is None:
        return nn.Identity()
    return nn.LayerNorm(channels) if norm == "layer" else nn.BatchNorm1d(channels)


def check_options(act: str, **rates: float) -> None:
    """Raise if an activation is unknown or a rate is no probability below 1."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")
    for name, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"{name} is {rate}; expected a probability in [0, 1)")


class FeedForward(nn.Module):
    r"""Map each node by a perceptron with one hidden layer.

    .. math:: \operatorname{drop}(\sigma(\mathbf{x} \mathbf{W}_1 + \mathbf{b}_1))\,\mathbf{W}_2 + \mathbf{b}_2

    Args:
        channels: Width of the nodes :math:`C`.
        hidden_channels: Width of the hidden layer; by default :math:`2C`.
        act: ``"relu"``, ``"elu"``, ``"gelu"`` or ``"leaky_relu"``.
        dropout: Probability of dropping a hidden activation in training.

    Shapes:
        - **input:** :math:`(N, C)`
        - **output:** :math:`(N, C)`

    Example:
        >>> import torch
        >>> FeedForward(8, act="gelu")(torch.rand(3, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self, channels: int, hidden_channels: int | None = None, *, act: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_options(act, dropout=dropout)
        hidden_channels = 2 * channels if hidden_channels is None else hidden_channels
        self.lin1 = nn.Linear(channels, hidden_channels)
        self.lin2 = nn.Linear(hidden_channels, channels)
        self.act = ACTIVATIONS[act]
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the mapped nodes."""
        return self.lin2(drop(self.act(self.lin1(x)), self.dropout, self.training))
