"""Database augmentation: every vector of the gallery is replaced by the mean of itself and its neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphattn.affinity._vectors import Vectors
from graphattn.affinity.gallery import GalleryGraph
from graphattn.nn.rerank_conv import RerankConv
from graphattn.retrieval.query_expansion import check_expansion, neighbor_weights


class DatabaseAugmentation:
    r"""Replace every gallery vector by the sum of itself and its nearest others, once, before any search.

    .. math:: \mathbf{x}'_i = \operatorname{norm}\Bigl(\mathbf{x}_i + \sum_{j=1}^{k} w_j \mathbf{x}_{n_j(i)}\Bigr)

    with :math:`n_1(i), n_2(i), \ldots` the other items by similarity to item :math:`i` and the weights of
    :class:`QueryExpansion`. The search takes :math:`O(N^2 D)` time in blocks and :math:`O(N k)` memory.

    Args:
        k: Neighbours :math:`k`, the item itself not counted.
        kind: ``"average"``, ``"weighted"`` or ``"alpha"``; 32 neighbours are usual with the last.
        alpha: Exponent of ``"alpha"``.
        normalize: Whether vectors are brought to unit length, before and after.

    Attributes:
        graph_: The neighbours of every item, from :meth:`fit`.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> DatabaseAugmentation(k=1).fit_transform(gallery)[0]
        tensor([0.9487, 0.3162])

    Reference:
        Turcot and Lowe, "Better Matching with Fewer Features", 2009; Arandjelović and Zisserman, "Three Things Everyone
        Should Know to Improve Object Retrieval", 2012.
    """

    graph_: GalleryGraph

    def __init__(self, k: int = 4, kind: str = "average", *, alpha: float = 3.0, normalize: bool = True) -> None:
        self.k = check_expansion(kind, k, alpha)
        self.kind = kind
        self.alpha = alpha
        self.normalize = normalize

    def fit(self, gallery: Tensor | np.ndarray) -> DatabaseAugmentation:
        """Find the neighbours of every item, block by block.

        Args:
            gallery: Vectors ``[N, D]``; an array may be memory-mapped.

        Raises:
            ValueError: If a shape does not fit or a vector is not finite.
            TypeError: If ``gallery`` is not a floating-point tensor or array.
        """
        self.graph_ = GalleryGraph.build(gallery, max(1, self.k), normalize=self.normalize)
        return self

    @torch.no_grad()
    def transform(self, gallery: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Return the augmented vectors ``[N, D]`` of the gallery that this was fitted to.

        Args:
            gallery: The vectors that :meth:`fit` has seen.

        Returns:
            New vectors, a tensor or an array as ``gallery``, in its dtype; computed in at least float32.

        Raises:
            ValueError: If there was no :meth:`fit`, or it saw another number of items.
        """
        graph = getattr(self, "graph_", None)
        if graph is None:
            raise ValueError("there are no neighbours yet; call fit(gallery) first")
        vectors = Vectors(gallery, normalize=self.normalize)
        if vectors.size != graph.num_items:
            raise ValueError(f"gallery has {vectors.size} items but was fitted with {graph.num_items}; call fit anew")
        x, _ = vectors.all()
        neighbors, similarity = graph.ids[:, : self.k], graph.similarity[:, : self.k].to(x.dtype)
        weight = neighbor_weights(self.kind, similarity, neighbors >= 0, self.alpha)
        own = torch.arange(x.size(0), device=x.device).unsqueeze(1)
        source = torch.cat([own, neighbors], dim=1)
        weight = torch.cat([torch.ones_like(own, dtype=x.dtype), weight], dim=1)
        found = source >= 0
        edge_index = torch.stack([source[found], own.expand_as(source)[found]])
        new = RerankConv(l2_normalize=self.normalize)(x, edge_index, weight[found])
        if isinstance(gallery, np.ndarray):
            return new.numpy().astype(gallery.dtype)
        return new.to(gallery.dtype)

    def fit_transform(self, gallery: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Call :meth:`fit`, then :meth:`transform`."""
        return self.fit(gallery).transform(gallery)
