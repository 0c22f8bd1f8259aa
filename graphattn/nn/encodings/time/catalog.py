"""The time encodings by name, so that a configuration can swap one for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from graphattn._names import nearest
from graphattn.nn.encodings.time.base import TimeEncoding
from graphattn.nn.encodings.time.bochner import BochnerEncoding
from graphattn.nn.encodings.time.bochner_family import FamilyBochnerEncoding
from graphattn.nn.encodings.time.bochner_inverse_cdf import InverseCDFBochnerEncoding
from graphattn.nn.encodings.time.bochner_normal import NormalBochnerEncoding
from graphattn.nn.encodings.time.bochner_random import RandomBochnerEncoding
from graphattn.nn.encodings.time.graphmixer import GraphMixerEncoding
from graphattn.nn.encodings.time.mercer import MercerEncoding
from graphattn.nn.encodings.time.mercer_flex import MercerFlexEncoding
from graphattn.nn.encodings.time.mercer_sum import MercerSumEncoding
from graphattn.nn.encodings.time.tgat import TGATEncoding

TIME_ENCODINGS: Mapping[str, Callable[..., TimeEncoding]] = {
    "bochner": BochnerEncoding,
    "bochner_normal": NormalBochnerEncoding,
    "bochner_inverse_cdf": InverseCDFBochnerEncoding,
    "bochner_family": FamilyBochnerEncoding,
    "bochner_random": RandomBochnerEncoding,
    "mercer": MercerEncoding,
    "mercer_sum": MercerSumEncoding,
    "mercer_flex": MercerFlexEncoding,
    "tgat": TGATEncoding,
    "pyg_tgn": partial(TGATEncoding, compat="pyg"),
    "graphmixer": GraphMixerEncoding,
}


def make_time_encoding(name: str, channels: int, **options: Any) -> TimeEncoding:
    """Make a time encoding by its name.

    Args:
        name: ``"bochner"``, ``"bochner_normal"``, ``"bochner_inverse_cdf"``, ``"bochner_family"``,
            ``"bochner_random"``, ``"mercer"``, ``"mercer_sum"``, ``"mercer_flex"``, ``"tgat"``, ``"pyg_tgn"`` (the
            one before with the first values of PyG) or ``"graphmixer"``.
        channels: Width of an encoding.
        **options: What the encoding has of its own, such as ``harmonics=10``.

    Returns:
        The encoding.

    Raises:
        ValueError: If the name is unknown or an option is out of range.
        TypeError: If the encoding does not have an option.

    Example:
        >>> make_time_encoding("mercer", 6, harmonics=1)
        MercerEncoding(6, harmonics=1, tie=True)
    """
    if name not in TIME_ENCODINGS:
        near = nearest(name, TIME_ENCODINGS)
        raise ValueError(f"time is {name!r}; did you mean {near!r}? Expected one of {', '.join(TIME_ENCODINGS)}")
    return TIME_ENCODINGS[name](channels, **options)
