"""What the attentions of higher order share: nodes of many graphs go in, are padded, and come out in their order."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from graphattn.nn.global_attention.padding import Padding, places_of
from graphattn.ops.inputs import check_float


class Interaction(nn.Module, ABC):
    """Let every node attend to its graph; what distinguishes the methods is :meth:`attend`.

    Args:
        in_channels: Width of the nodes :math:`D`.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(
        self,
        x: Tensor,
        batch: Tensor | None = None,
        *,
        ptr: Tensor | None = None,
        num_graphs: int | None = None,
        max_nodes: int | None = None,
    ) -> Tensor:
        """Attend within each graph.

        Args:
            x: Nodes.
            batch: Graph of each node, in any order; by default all belong to one.
            ptr: In place of ``batch``, for nodes sorted by graph: the first of each and, last, their number.
            num_graphs: Number of graphs, found by default.
            max_nodes: A number of nodes that no graph exceeds, found by default.

        Returns:
            What the nodes gather, in their order.

        Raises:
            ValueError: If shapes or graphs do not fit.
            TypeError: If a dtype does not fit.
        """
        check_float("x", x)
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [nodes, {self.in_channels}]")
        places = places_of(x, batch=batch, ptr=ptr, num_graphs=num_graphs, max_nodes=max_nodes)
        return places.unpad(self.attend(places.pad(x), places))

    @abstractmethod
    def attend(self, x: Tensor, places: Padding) -> Tensor:
        """Gather within each graph of a padded batch.

        Args:
            x: Nodes ``[B, n, D]``, 0 where there is none.
            places: Where the nodes stand.

        Returns:
            Gathered nodes ``[B, n, C]``, anything where there is none.
        """
