"""What networks over streams of events share: which past they see, what they remember, and time encodings by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from graphattn.models.network import Network
from graphattn.nn.encodings.time import (
    BochnerEncoding,
    FamilyBochnerEncoding,
    GraphMixerEncoding,
    InverseCDFBochnerEncoding,
    MercerEncoding,
    MercerFlexEncoding,
    MercerSumEncoding,
    NormalBochnerEncoding,
    RandomBochnerEncoding,
    TGATEncoding,
    TimeEncoding,
)

# Each encoding with the number that its channels are a multiple of.
_ENCODINGS: dict[str, tuple[Callable[[int], TimeEncoding], int]] = {
    "bochner": (BochnerEncoding, 2),
    "bochner_normal": (NormalBochnerEncoding, 2),
    "bochner_inverse_cdf": (InverseCDFBochnerEncoding, 2),
    "bochner_family": (FamilyBochnerEncoding, 2),
    "bochner_random": (RandomBochnerEncoding, 2),
    "mercer": (MercerEncoding, 11),
    "mercer_sum": (MercerSumEncoding, 1),
    "mercer_flex": (MercerFlexEncoding, 1),
    "tgat": (TGATEncoding, 1),
    "pyg_tgn": (partial(TGATEncoding, compat="pyg"), 1),
    "graphmixer": (GraphMixerEncoding, 1),
}
TIME_ENCODINGS = tuple(_ENCODINGS)


class EventNetwork(Network):
    """A network that embeds nodes at a time from what had happened to them before.

    It is called with a sample ``past`` of the kind that :attr:`past` names, and returns a row for each of its rows:

    - ``"pairs"``: the pairs of a node and a time of :class:`~graphattn.training.TemporalSampler`;
    - ``"last"``: nodes, and the last events of those that are asked for, as PyG's ``LastNeighborLoader`` keeps them;
    - ``"graph"``: all nodes, and all events of the training as the edges of one graph.

    A network with a memory reads events in their order: after a batch is predicted, :meth:`update_state` tells it what
    has happened.
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


def make_time_encoding(name: str, channels: int) -> TimeEncoding:
    """Return an encoding of time, at least as wide as asked for.

    Args:
        name: One of ``TIME_ENCODINGS``.
        channels: Width; it is rounded up to one that the encoding can have.

    Raises:
        ValueError: If there is no encoding of that name, or ``channels`` is below 1.

    Example:
        >>> make_time_encoding("mercer", 16).channels
        22
    """
    if name not in _ENCODINGS:
        raise ValueError(f"time_encoding is {name!r}; expected one of {', '.join(map(repr, _ENCODINGS))}")
    if channels < 1:
        raise ValueError(f"time_channels is {channels}; expected at least 1")
    make, multiple = _ENCODINGS[name]
    return make(-(-channels // multiple) * multiple)
