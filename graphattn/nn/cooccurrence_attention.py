"""Attention whose weights are counts: how often two tokens stand near one another in a corpus."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphattn.affinity import Affinity, SparseAffinity
from graphattn.affinity.cooccurrence import TRANSFORMS, transform_counts
from graphattn.affinity.normalize import NORMALIZATIONS, DenseSupport, normalize_scores
from graphattn.nn.global_attention.padding import places_of
from graphattn.ops.inputs import check_float


class CooccurrenceAttention(nn.Module):
    r"""Let the tokens of a sequence attend to one another by an affinity over the vocabulary; nothing is learned.

    .. math::
        \mathbf{M} = \mathbf{Q} \mathbf{S} \mathbf{Q}^\top, \quad \mathbf{O} = \operatorname{normalize}(\mathbf{M})\,
        \mathbf{X}, \quad \mathbf{X} = \mathbf{Q} \mathbf{S} \text{ unless given}

    where :math:`\mathbf{S}` is the affinity over V tokens, as :func:`~graphattn.affinity.cooccurrence` counts it, and
    :math:`\mathbf{Q}` has a one in each row, at the token of that place. With :math:`\mathbf{S} = \mathbf{B}
    \mathbf{W}_Q \mathbf{W}_K^\top \mathbf{B}^\top` the :math:`\mathbf{M}` are the scores of dot-product attention over
    embeddings :math:`\mathbf{B}`. Entries of 0 are no edges: a token that has none gets 0.

    Several heads share out the singular triplets of :math:`\mathbf{S}`, the strongest to the first head, so that their
    influences sum to that of one head; channels are shared out too. This takes a dense decomposition once, in
    :math:`O(V^3)` time and :math:`O(V^2)` memory; one head keeps the entries of :math:`\mathbf{S}` alone, and a call
    takes :math:`O(n^2 \log E)` for sequences of n tokens.

    Args:
        affinity: The affinity over the vocabulary, or its matrix ``[V, V]``; row i draws on its context.
        transform: What becomes of the entries: ``"log1p"``, ``"raw"`` or ``"ppmi"``, as in
            :func:`~graphattn.affinity.cooccurrence`.
        normalize: How influences are normalized: ``"row"``, ``"softmax"``, ``"none"`` or another of those of
            :class:`~graphattn.nn.AttentionConv`.
        heads: Heads :math:`H`.

    Shapes:
        - **input:** ``ids`` :math:`(N,)`, ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`, or :math:`(N, V)` without ``x``

    Raises:
        ValueError: If the affinity is not square, has heads or, with a transform of counts, negative entries; or if an
            option is unknown or out of range.
        TypeError: If ``affinity`` is neither an affinity nor a floating-point tensor.

    Example:
        >>> from graphattn.affinity import cooccurrence
        >>> counts = cooccurrence([[0, 1, 2, 1]], window=1)
        >>> attend = CooccurrenceAttention(counts, transform="raw")
        >>> attend(torch.tensor([0, 1, 2]), torch.tensor([[1.0], [2.0], [4.0]])).flatten().tolist()
        [2.0, 3.0, 2.0]

    Reference:
        Mehta, arXiv 2511.13780, 2025, which states neither a transform nor a normalization nor heads.
    """

    key: Tensor
    value: Tensor
    factors: Tensor | None

    def __init__(
        self, affinity: Affinity | Tensor, *, transform: str = "log1p", normalize: str = "row", heads: int = 1
    ) -> None:
        super().__init__()
        for name, given, known in (("transform", transform, TRANSFORMS), ("normalize", normalize, NORMALIZATIONS)):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; expected one of {', '.join(map(repr, known))}")
        sparse = _read(affinity, transform)
        if not 1 <= heads <= max(sparse.shape[0], 1):
            raise ValueError(f"heads is {heads}; expected 1 to {sparse.shape[0]}, the number of tokens")
        self.num_tokens = sparse.shape[0]
        self.transform = transform
        self.normalize = normalize
        self.heads = heads
        # Entries are found by the number of their pair, target * V + source, which rises along the edges.
        self.register_buffer("key", sparse.edge_index[1].long() * self.num_tokens + sparse.edge_index[0].long())
        self.register_buffer("value", sparse.weights().detach())
        self.register_buffer("factors", None if heads == 1 else _factors(sparse.to_dense().matrix, heads))

    def forward(
        self,
        ids: Tensor,
        x: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        ptr: Tensor | None = None,
        num_graphs: int | None = None,
        max_nodes: int | None = None,
    ) -> Tensor:
        """Attend within each sequence.

        Args:
            ids: Token at each place.
            x: Features of each place; by default the rows of the affinity, a channel for each token.
            batch: Sequence of each place, in any order; by default all belong to one.
            ptr: In place of ``batch``, for sequences one after the other: the first place of each and, last, their
                number.
            num_graphs: Number of sequences, found by default.
            max_nodes: A number of places that no sequence exceeds, found by default.

        Returns:
            What the places gather, in their order.

        Raises:
            ValueError: If a shape does not fit, or an id is none of a token.
            TypeError: If a dtype does not fit.
        """
        self._check(ids)
        if x is None:
            x = self._entries(ids.unsqueeze(1), torch.arange(self.num_tokens, device=ids.device))
        check_float("x", x)
        if x.dim() != 2 or x.size(0) != ids.size(0) or x.size(1) % self.heads:
            multiple = f"a multiple of {self.heads} heads" if self.heads > 1 else "channels"
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [{ids.size(0)}, {multiple}]")
        places = places_of(x, batch=batch, ptr=ptr, num_graphs=num_graphs, max_nodes=max_nodes)
        # A place that is padding reads as token 0, which the mask takes out again.
        influence, edges = self._influence(places.pad(ids))
        if places.mask is not None:
            edges = edges & (places.mask.unsqueeze(2) & places.mask.unsqueeze(1)).unsqueeze(1)
        weights = normalize_scores(self.normalize, influence, DenseSupport(edges.expand_as(influence)))
        values = places.pad(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return places.unpad((weights.to(x.dtype) @ values).transpose(1, 2).flatten(2))

    def influence(self, ids: Tensor) -> Tensor:
        """Tell how strongly the places of one sequence draw on one another, before normalization.

        Args:
            ids: Token at each place, ``[n]``.

        Returns:
            The matrices ``[H, n, n]``, whose sum over heads is the entries of the affinity for each pair of tokens.

        Raises:
            ValueError: If an id is none of a token.
            TypeError: If ids are no integers.
        """
        self._check(ids)
        return self._influence(ids.unsqueeze(0))[0].squeeze(0)

    def extra_repr(self) -> str:
        return f"{self.num_tokens}, transform={self.transform!r}, normalize={self.normalize!r}, heads={self.heads}"

    def _influence(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Influences [B, H, n, n] of sequences [B, n], and which pairs are edges [B, 1, n, n]."""
        whole = self._entries(ids.unsqueeze(2), ids.unsqueeze(1)).unsqueeze(1)
        edges = whole != 0
        if self.factors is None:
            return whole, edges
        left, right = self.factors[:, :, ids]  # [H, B, n, R] each
        return (left @ right.transpose(2, 3)).transpose(0, 1), edges

    def _entries(self, target: Tensor, source: Tensor) -> Tensor:
        """Entries of the affinity for pairs of tokens; 0 where there is none."""
        wanted = target.long() * self.num_tokens + source.long()
        if self.key.numel() == 0:
            return self.value.new_zeros(wanted.shape)
        at = torch.searchsorted(self.key, wanted).clamp(max=self.key.numel() - 1)
        return self.value[at].masked_fill(self.key[at] != wanted, 0.0)

    def _check(self, ids: Tensor) -> None:
        if ids.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"ids has dtype {ids.dtype}; expected int64 or int32")
        if ids.dim() != 1:
            raise ValueError(f"ids has shape {tuple(ids.shape)}; expected [places]")
        if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.num_tokens:
                unknown = low if low < 0 else high
                raise ValueError(f"ids contains {unknown}; expected tokens in [0, {self.num_tokens})")


def _read(affinity: Affinity | Tensor, transform: str) -> SparseAffinity:
    """The transformed affinity without parallel edges, listed by (target, source)."""
    if isinstance(affinity, Tensor):
        affinity = Affinity.from_dense(affinity)
    elif not isinstance(affinity, Affinity):
        raise TypeError(f"affinity is a {type(affinity).__name__}; expected an Affinity or a floating-point Tensor")
    n, m = affinity.shape
    if n != m or affinity.has_heads:
        heads = f" with {affinity.num_heads} heads" if affinity.has_heads else ""
        raise ValueError(f"affinity is {n} x {m}{heads}; expected a square one without heads")
    sparse = affinity.to_sparse().coalesce()
    if transform == "raw":
        return sparse
    if bool((sparse.weights() < 0).any()):
        low = sparse.weights().min().item()
        raise ValueError(f"affinity has the entry {low:.4g} but transform is {transform!r}, of counts; pass 'raw'")
    counts = transform_counts(sparse.to_scipy().astype("float64"), transform, sparse.symmetric)
    return Affinity.from_scipy(counts).to(sparse.device, sparse.dtype).coalesce()


def _factors(matrix: Tensor, heads: int) -> Tensor:
    """Left and right factors [2, H, V, R] of the shares of the heads in the singular triplets."""
    u, sigma, vh = torch.linalg.svd(matrix.detach().double())
    size = -(-sigma.numel() // heads)
    sides = [side * sigma.sqrt() for side in (u, vh.mT)]
    shares = [side.tensor_split(heads, dim=1) for side in sides]
    padded = [[nn.functional.pad(share, (0, size - share.size(1))) for share in side] for side in shares]
    return torch.stack([torch.stack(side) for side in padded]).to(matrix.dtype)
