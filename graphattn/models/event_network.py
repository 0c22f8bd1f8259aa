"""What networks over streams of events share: which past they see, and what they remember."""

from __future__ import annotations

from torch import Tensor

from graphattn.models.network import Network


class EventNetwork(Network):
    """A network that embeds nodes at a time from what had happened to them before.

    It is called with a sample ``past`` of the kind that :attr:`past` names, and returns a row for each of its rows:

    - ``"pairs"``: the pairs of a node and a time of :class:`~graphattn.training.TemporalSampler`;
    - ``"last"``: nodes, and the last events of those that are asked for, as PyG's ``LastNeighborLoader`` keeps them;
    - ``"graph"``: all nodes, and all events of the training as the edges of one graph.

    A network with a memory reads events in their order: after a batch is predicted, :meth:`update_state` tells it what
    has happened.

    Example:
        >>> from graphattn.models import TGAT, TGN, MessagePassingNet, StaticNet
        >>> static = StaticNet(MessagePassingNet("gat", 4, 8, 5), num_nodes=3, channels=4)
        >>> [net.past for net in (TGAT(0, 8, 4), TGN(3, 8), static)]
        ['pairs', 'last', 'graph']
    """

    past = "pairs"  #: What the network is called with.
    num_layers: int  #: How many events in a row a node sees.

    def reset_state(self) -> None:
        """Forget all events."""

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, msg: Tensor | None = None) -> None:
        """Remember events.

        Args:
            src: Their sources ``[B]``.
            dst: Their destinations ``[B]``.
            t: Their times ``[B]``, none before those of the call before.
            msg: Their features ``[B, D]``.
        """
