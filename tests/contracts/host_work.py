"""What is public and works with the host: encodings by SciPy, solvers, re-rankers, selectors, and listed edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from graphattn import diffusion, models, retrieval, selection
from graphattn.affinity import SparseAffinity
from graphattn.engine import Recipe
from graphattn.nn import candidate_graph, datapoint_pairs
from graphattn.nn.encodings import heat_kernel_encoding, laplacian_encoding, random_walk_encoding
from tests.contracts.cases import edges
from tests.retrieval.cases import Problem, problem

Place = Callable[[Any], Any]


@dataclass(frozen=True)
class Work:
    """A public object and one call of it.

    Args:
        covers: The public object.
        call: Makes the call with inputs that a function puts in their place; returns a tensor of the results.
    """

    covers: Any
    call: Callable[[Place], Tensor]


def _encode(function: Callable[..., Any], place: Place, *options: Any) -> Tensor:
    found = function(place(edges(7, 15)["edge_index"]), *options, num_nodes=7)
    return found[0] if isinstance(found, tuple) else found


def _solve(place: Place) -> Tensor:
    A = SparseAffinity(place(edges(7, 15)["edge_index"]), None, (7, 7))
    return diffusion.solve(A, place(torch.linspace(0, 1, 7)), 0.5).value


def _join(place: Place) -> Tensor:
    x = torch.randn(2, 5, 3)
    return candidate_graph(place(x @ x.mT), 2)[1]


def _pairs_of_cells(place: Place) -> Tensor:
    return datapoint_pairs(7, 3, SparseAffinity(place(edges(7, 15)["edge_index"]), None, (7, 7))).edge_index


def _mask(place: Place) -> Tensor:
    return torch.cat(models.mask_labels(place(torch.arange(9)), place(torch.arange(5)), 0.0)).float()


def _select(estimator: Any, place: Place) -> Tensor:
    X, y = torch.rand(30, 7).numpy(), (torch.arange(30) % 3).numpy()
    return torch.as_tensor(estimator(device=place(torch.empty(0)).device).fit(X, y).scores_)


def _rerank(make: Callable[[], retrieval.Reranker], place: Place) -> Tensor:
    case = problem(dtype=torch.float32)
    return Problem(place(case.queries), place(case.gallery), place(case.indices)).rerank(make()).scores


def _rerank_trained(place: Place) -> Tensor:
    reranker = retrieval.ContextualReranker(num_anchors=8, width=8, depth=1, heads=2)
    labels = torch.arange(40) % 5
    reranker.fit(problem(dtype=torch.float32).gallery, labels=labels, recipe=Recipe(epochs=1), validation=0)
    reranker.encoder_ = place(reranker.encoder_)
    return _rerank(lambda: reranker, place)


_METHODS: dict[str, Callable[..., retrieval.Reranker]] = {
    "AffinityFeatures": partial(retrieval.AffinityFeatures, 8),
    "Auto": partial(retrieval.Auto, 4),
    "Diffusion": partial(retrieval.Diffusion, 5, 3),
    "GNNRerank": partial(retrieval.GNNRerank, 4, 2),
    "GraphConvolution": partial(retrieval.GraphConvolution, 4),
    "KReciprocal": partial(retrieval.KReciprocal, 5, 3),
    "QueryExpansion": partial(retrieval.QueryExpansion, k=3),
    "RankDiffusion": partial(retrieval.RankDiffusion, 4),
    "SuperGlobal": partial(retrieval.SuperGlobal, 3),
}
_OVER_GALLERY = ("Diffusion", "GraphConvolution", "KReciprocal")

HOST_WORK: dict[str, Work] = {
    "laplacian": Work(laplacian_encoding, lambda place: _encode(laplacian_encoding, place, 3)),
    "heat-kernel": Work(heat_kernel_encoding, lambda place: _encode(heat_kernel_encoding, place)),
    "random-walk": Work(random_walk_encoding, lambda place: _encode(random_walk_encoding, place, 3)),
    "candidate-graph": Work(candidate_graph, _join),
    "datapoint-pairs": Work(datapoint_pairs, _pairs_of_cells),
    "solve": Work(diffusion.solve, _solve),
    "mask-labels": Work(models.mask_labels, _mask),
    **{
        estimator.__name__: Work(estimator, partial(_select, estimator))
        for estimator in (selection.ECFS, selection.ILFS, selection.InfFS, selection.InfFSSupervised)
    },
    **{name: Work(getattr(retrieval, name), partial(_rerank, make)) for name, make in _METHODS.items()},
    **{
        f"{name}-gallery": Work(getattr(retrieval, name), partial(_rerank, partial(_METHODS[name], scope="gallery")))
        for name in _OVER_GALLERY
    },
    "ContextualReranker": Work(retrieval.ContextualReranker, _rerank_trained),
}
