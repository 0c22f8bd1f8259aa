"""graphattn: attention as message passing over affinity graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphattn.affinity import Affinity, DenseAffinity, ImplicitAffinity, SparseAffinity
from graphattn.nn import AttentionConv, DiffusionConv, RerankConv, accelerate, from_pyg
from graphattn.ops import edge_attention

if TYPE_CHECKING:
    from graphattn.training import load_model

__version__ = "0.1.0"

__all__ = [
    "Affinity",
    "AttentionConv",
    "DenseAffinity",
    "DiffusionConv",
    "ImplicitAffinity",
    "RerankConv",
    "SparseAffinity",
    "accelerate",
    "edge_attention",
    "from_pyg",
    "load_model",
]


def __getattr__(name: str) -> Any:
    """Import ``load_model`` when it is asked for, since what trains takes its time to import."""
    if name == "load_model":
        from graphattn.training import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
