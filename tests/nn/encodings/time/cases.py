"""The time encodings by name, and the tolerance of sums of waves."""

from __future__ import annotations

from collections.abc import Callable

import torch

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

EPS = torch.finfo(torch.float64).eps
CHANNELS = 12

RANDOM: dict[str, Callable[[], TimeEncoding]] = {
    "normal": lambda: NormalBochnerEncoding(CHANNELS),
    "inverse_cdf": lambda: InverseCDFBochnerEncoding(CHANNELS),
    "random": lambda: RandomBochnerEncoding(CHANNELS),
    **{
        f"family_{family}": lambda family=family: FamilyBochnerEncoding(CHANNELS, family=family, learn_scale=True)  # type: ignore[misc]
        for family in ("normal", "cauchy", "laplace", "uniform")
    },
}
INVARIANT: dict[str, Callable[[], TimeEncoding]] = {
    "bochner": lambda: BochnerEncoding(CHANNELS),
    "mercer": lambda: MercerEncoding(CHANNELS, harmonics=1),
    **RANDOM,
}
XU2019: dict[str, Callable[[], TimeEncoding]] = {
    "bochner": lambda: BochnerEncoding(CHANNELS, compat="xu2019"),
    "normal": lambda: NormalBochnerEncoding(CHANNELS, compat="xu2019"),
    "inverse_cdf": lambda: InverseCDFBochnerEncoding(CHANNELS, compat="xu2019"),
    "random": lambda: RandomBochnerEncoding(CHANNELS, compat="xu2019"),
}
ALL: dict[str, Callable[[], TimeEncoding]] = {
    **INVARIANT,
    **{f"xu2019_{name}": build for name, build in XU2019.items()},
    "mercer_free": lambda: MercerEncoding(CHANNELS, harmonics=1, tie=False),
    "mercer_sum": lambda: MercerSumEncoding(CHANNELS),
    "mercer_flex": lambda: MercerFlexEncoding(CHANNELS),
    "tgat": lambda: TGATEncoding(CHANNELS),
    "tgat_pyg": lambda: TGATEncoding(CHANNELS, compat="pyg"),
    "graphmixer": lambda: GraphMixerEncoding(CHANNELS),
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
