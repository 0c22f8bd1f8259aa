"""Encodings of continuous time: the Bochner family, the Mercer family, and those of well-known temporal networks."""

from graphattn.nn.encodings.time.base import TimeEncoding
from graphattn.nn.encodings.time.bochner import BochnerEncoding
from graphattn.nn.encodings.time.bochner_family import FamilyBochnerEncoding
from graphattn.nn.encodings.time.bochner_inverse_cdf import InverseCDFBochnerEncoding
from graphattn.nn.encodings.time.bochner_normal import NormalBochnerEncoding
from graphattn.nn.encodings.time.bochner_random import RandomBochnerEncoding
from graphattn.nn.encodings.time.catalog import make_time_encoding
from graphattn.nn.encodings.time.graphmixer import GraphMixerEncoding
from graphattn.nn.encodings.time.mercer import MercerEncoding
from graphattn.nn.encodings.time.mercer_flex import MercerFlexEncoding
from graphattn.nn.encodings.time.mercer_sum import MercerSumEncoding
from graphattn.nn.encodings.time.tgat import TGATEncoding

__all__ = [
    "BochnerEncoding",
    "FamilyBochnerEncoding",
    "GraphMixerEncoding",
    "InverseCDFBochnerEncoding",
    "MercerEncoding",
    "MercerFlexEncoding",
    "MercerSumEncoding",
    "NormalBochnerEncoding",
    "RandomBochnerEncoding",
    "TGATEncoding",
    "TimeEncoding",
    "make_time_encoding",
]
