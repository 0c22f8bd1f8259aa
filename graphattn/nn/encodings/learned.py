"""A learned vector for each position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnedEncoding(nn.Module):
    r"""Look positions up in a learned table.

    .. math:: \mathrm{PE}(p) = \mathbf{T}_p, \quad \mathbf{T} \sim \mathcal{N}(0, 0.02^2) \text{ at first}

    With degrees for positions this is the centrality encoding of Graphormer.

    Args:
        max_positions: Rows of the table :math:`L`; positions are 0 to :math:`L - 1`.
        channels: Width of an encoding :math:`C`.

    Shapes:
        - **input:** any shape
        - **output:** that shape and :math:`C`

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> encoding = LearnedEncoding(10, 4)
        >>> torch.equal(encoding(torch.tensor([3, 0])), encoding.weight[[3, 0]])
        True

    Reference:
        Gehring et al., "Convolutional Sequence to Sequence Learning", 2017; Ying et al., "Do Transformers Really
        Perform Badly for Graph Representation?", 2021 (degrees).
    """

    def __init__(self, max_positions: int, channels: int) -> None:
        super().__init__()
        if max_positions < 1 or channels < 1:
            raise ValueError(f"max_positions is {max_positions} and channels is {channels}; expected at least 1 each")
        self.max_positions = max_positions
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(max_positions, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, pos: Tensor) -> Tensor:
        """Look positions up.

        Args:
            pos: Integer positions.

        Returns:
            The encodings, in the dtype of the table.

        Raises:
            ValueError: If a position lies outside the table (on the CPU; CUDA stops the kernel instead).
            TypeError: If ``pos`` is not a tensor of int64 or int32.
        """
        if not isinstance(pos, Tensor) or pos.dtype not in (torch.int64, torch.int32):
            found = f"has dtype {pos.dtype}" if isinstance(pos, Tensor) else f"is a {type(pos).__name__}"
            raise TypeError(f"pos {found}; expected a Tensor of int64 or int32, the rows of the table")
        if pos.device.type == "cpu" and not torch.compiler.is_compiling() and pos.numel():
            low, high = pos.aminmax()
            if low < 0 or high >= self.max_positions:
                raise ValueError(
                    f"pos lies between {int(low)} and {int(high)}; expected 0 to {self.max_positions - 1}, or a larger "
                    "max_positions"
                )
        return F.embedding(pos, self.weight)

    def extra_repr(self) -> str:
        return f"{self.max_positions}, {self.channels}"
