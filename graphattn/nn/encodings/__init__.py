"""Encodings of where a node is: in a sequence, in space or time, and in its graph."""

from graphattn.nn.encodings.degree import degree_encoding
from graphattn.nn.encodings.heat_kernel import heat_kernel_encoding
from graphattn.nn.encodings.laplacian import laplacian_encoding
from graphattn.nn.encodings.learned import LearnedEncoding
from graphattn.nn.encodings.random_walk import random_walk_encoding
from graphattn.nn.encodings.rotary import RotaryEncoding
from graphattn.nn.encodings.signnet import SignNet
from graphattn.nn.encodings.sinusoidal import SinusoidalEncoding

__all__ = [
    "LearnedEncoding",
    "RotaryEncoding",
    "SignNet",
    "SinusoidalEncoding",
    "degree_encoding",
    "heat_kernel_encoding",
    "laplacian_encoding",
    "random_walk_encoding",
]
