"""The re-ranking methods by name, and how one is made from options that stand in a file or on a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphattn.affinity.gallery import GalleryGraph
from graphattn.retrieval.affinity_features import AffinityFeatures
from graphattn.retrieval.auto import Auto
from graphattn.retrieval.base import Reranker
from graphattn.retrieval.contextual import ContextualReranker
from graphattn.retrieval.diffusion import Diffusion
from graphattn.retrieval.gnn_rerank import GNNRerank
from graphattn.retrieval.graph_convolution import GraphConvolution
from graphattn.retrieval.k_reciprocal import KReciprocal
from graphattn.retrieval.query_expansion import QueryExpansion
from graphattn.retrieval.rank_diffusion import RankDiffusion
from graphattn.retrieval.super_global import SuperGlobal

# Which methods know the gallery beyond their lists, or other queries, stands in their ``scopes`` and
# ``can_be_transductive``.
METHODS: dict[str, type[Reranker]] = {
    "auto": Auto,
    "query-expansion": QueryExpansion,
    "k-reciprocal": KReciprocal,
    "gnn": GNNRerank,
    "graph-convolution": GraphConvolution,
    "diffusion": Diffusion,
    "super-global": SuperGlobal,
    "affinity-features": AffinityFeatures,
    "contextual": ContextualReranker,
    "rank-diffusion": RankDiffusion,
}
NEEDS_CHECKPOINT = frozenset({"contextual"})

# What a fitted re-ranker may be given anew: its state does not depend on them.
_FREE = ("top_k", "blend", "tail", "exclude_self", "duplicates", "min_support", "chunk")


def make_reranker(
    method: str, options: Mapping[str, Any], model: Path | None = None, device: torch.device | str = "cpu"
) -> Reranker:
    """Make a re-ranker, fitted if there is a file of what it has learned or found.

    Args:
        method: Its name, a key of ``METHODS``.
        options: Arguments of its class.
        model: File that its ``save`` has written, or :meth:`GalleryGraph.save` where it has none. Options that stand in
            such a file need not be given; those that the fit depends on cannot be changed.
        device: Where the queries will be.

    Raises:
        ValueError: If the method or an option is unknown, a checkpoint is missing or has no use, or belongs to other
            options.

    Example:
        >>> make_reranker("k-reciprocal", {"k1": 10, "top_k": 100})
        KReciprocal(k1=10, k2=6, compat=None, top_k=100)
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    kind = METHODS[method]
    if model is None and method in NEEDS_CHECKPOINT:
        raise ValueError(f"method {method!r} needs a model; pass a file that {kind.__name__}.save wrote")
    if model is not None and hasattr(kind, "load"):
        return _load(kind, dict(options), model, device)
    try:
        reranker = kind(**options)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} cannot be made: {error}") from error
    if model is not None:
        if not needs_fit(reranker):
            raise ValueError(f"model is {model}, but {reranker!r} has nothing to load; leave it out")
        graph, width = GalleryGraph.load(model).to(device), reranker._graph_width()
        if graph.k != width:
            raise ValueError(f"{model} has {graph.k} neighbours an item; expected {width}, as {reranker!r} needs")
        reranker.graph_ = graph
    return reranker


def needs_fit(reranker: Reranker) -> bool:
    """Tell whether a re-ranker has to know the gallery before it sees a query."""
    return reranker.scope == "gallery" and not reranker.transductive


def save_fit(reranker: Reranker, path: Path) -> None:
    """Write what ``fit`` has found in a gallery, for :func:`make_reranker`."""
    (reranker if isinstance(reranker, Diffusion) else reranker.graph_).save(path)


def _load(kind: Any, options: dict[str, Any], model: Path, device: torch.device | str) -> Reranker:
    """Read a fitted re-ranker and give it the options that are free to change."""
    loaded = kind.load(model, device)
    settings = {name: value for name, value in vars(loaded).items() if name[-1] != "_"}
    for name, value in options.items():
        if name in settings and name not in _FREE and value != settings[name]:
            raise ValueError(f"{name} is {value!r}, but {model} was fitted with {settings[name]!r}; leave it out")
    try:
        reranker: Reranker = kind(**{**settings, **options})
    except TypeError as error:
        raise ValueError(f"{kind.__name__} cannot be made: {error}") from error
    vars(reranker).update({name: value for name, value in vars(loaded).items() if name[-1] == "_"})
    return reranker
