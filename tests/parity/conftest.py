"""Parity with PyG runs on tiny graphs, like the tests of the layers."""

from tests.nn.conftest import one_thread

__all__ = ["one_thread"]
