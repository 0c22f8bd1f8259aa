"""Infinite self-attention: walks of any length along a relu affinity of Frobenius norm 1."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphattn.affinity import DenseAffinity
from graphattn.diffusion.neumann import neumann
from graphattn.diffusion.resolvent import resolvent
from graphattn.nn.dropout import drop
from graphattn.nn.global_attention.decayed import EPS, DecayedAttention
from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.hops import check_hops, tolerance
from graphattn.ops.inputs import widen, without_autocast

_NORMALIZATIONS = ("relu_frobenius", "spectral")
_STEPS = 50  # of power iteration: where the second eigenvalue is 0.8 of the first, the bound is within 1e-4
_LEAST_RADIUS = 1e-3  # of an affinity of norm 1: one without cycles has none, and is not to be divided by it


class InfSA(DecayedAttention):
    r"""Attend over walks of any length, by an affinity whose Frobenius norm is 1.

    .. math::
        \mathbf{R} = \operatorname{relu}(\mathbf{Q}\mathbf{K}^\top / d), \quad
        \mathbf{A} = \mathbf{R} / (\lVert\mathbf{R}\rVert_F + 10^{-6}), \quad
        \mathbf{O} = \sum_{t=1}^{T} \rho^t \mathbf{A}^t \mathbf{V}; \qquad
        T = \infty: \; (\mathbf{I} - \rho\mathbf{A})^{-1} \rho\mathbf{A}\,\mathbf{V}

    With :math:`T` = ``hops`` and :math:`\rho` = ``decay``, per graph and head. The sum over all hops exists since
    :math:`\lVert\mathbf{A}\rVert_2 \le \lVert\mathbf{A}\rVert_F \le 1`; it is solved for, with an implicit gradient
    that can be taken once. A hop counts less than :math:`\rho` says: :math:`\rho` times the spectral radius of
    :math:`\mathbf{A}`, see :meth:`effective_decay`. Time and memory are quadratic in the nodes of the largest graph.

    Under ``causal`` the affinity is divided by the norm of what has been seen so far, so that nothing later shows:
    :math:`A_{ij} = R_{ij} / (F_i + 10^{-6})` for :math:`j \le i`, with :math:`F_i^2 = \sum_{b \le a \le i} R_{ab}^2`.
    Its eigenvalues are its diagonal, at most 1.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        hops: Longest walk :math:`T`, or ``math.inf``.
        decay: What a further hop is multiplied by at first, :math:`\rho` in (0, 1).
        learn_decay: Whether :math:`\rho` is learned, one for each head, from ``decay`` on.
        normalize: ``"relu_frobenius"``, or ``"spectral"`` to divide :math:`\mathbf{A}` by its spectral radius, found
            from above by power iteration, which makes :math:`\rho` the decay of a hop.
        out_scale: ``"sqrt_n"`` multiplies the outputs by the square root of the number of nodes of the graph, under
            ``causal`` of those so far: rows of :math:`\mathbf{A}` have a root mean square norm of its inverse. ``None``
            leaves them.
        dropout: Probability of dropping a weight in training, in the first hop.
        bias: Whether the projections have biases.
        causal: Whether a node attends only to itself and the nodes of its graph before it.
        compat: ``"infsa"`` for what the released code computes: one hop, no gradient of the decay, and an error where
            it ignores a mask. ``None`` for the above.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown, out of range, or does not go with another.

    Example:
        >>> attend = InfSA(8, heads=2, hops=math.inf)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1])
        >>> torch.allclose(attend(x, batch)[[0, 2]], attend(x[[0, 2]]), atol=1e-5)
        True

    Reference:
        Roffo et al., "Infinite Self-Attention", arXiv 2603.00175, 2026.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        hops: float = 1,
        decay: float = 0.95,
        learn_decay: bool = True,
        normalize: str = "relu_frobenius",
        out_scale: str | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
        compat: str | None = None,
    ) -> None:
        check_hops(hops, decay)
        if normalize not in _NORMALIZATIONS:
            raise ValueError(f"normalize is {normalize!r}; expected one of {', '.join(map(repr, _NORMALIZATIONS))}")
        if out_scale not in (None, "sqrt_n"):
            raise ValueError(f"out_scale is {out_scale!r}; expected None or 'sqrt_n'")
        if causal and normalize == "spectral":
            raise ValueError("normalize is 'spectral', which reads all nodes, but causal is True; pass one of them")
        options = {"head_channels": head_channels, "dropout": dropout, "bias": bias, "causal": causal}
        super().__init__(channels, heads, decay=decay, learn_decay=learn_decay, compat=compat, **options)
        if compat is not None and (hops != 1 or causal or normalize == "spectral"):
            raise ValueError(
                f"compat is {compat!r}, whose code has one hop, no causal mask and no spectral normalization, but "
                f"hops is {hops}, causal is {causal} and normalize is {normalize!r}; leave them or compat out"
            )
        self.hops = hops
        self.normalize = normalize
        self.out_scale = out_scale
        self.reset_parameters()

    def forward(self, x: Tensor, batch: Tensor | None = None, **graphs: Any) -> Tensor:
        """Attend within each graph.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            **graphs: Further arguments of :meth:`GlobalAttention.forward`; a ``context`` for one hop only.

        Returns:
            What the nodes gather, in their order, computed in at least float32.

        Raises:
            ValueError: If shapes, devices or graphs do not fit, or if there is a ``context`` where targets need to be
                sources.
            TypeError: If a dtype does not fit.

        Warns:
            graphattn.diffusion.ConvergenceWarning: If an infinite number of hops does not converge.
        """
        targets, sources = self.places(x, batch, **graphs)
        q, k, v = self.project(x, graphs.get("context"), targets, sources)
        return self.combine(self.attend(q, k, v, targets.mask, sources.mask), targets)

    def places(self, x: Tensor, batch: Tensor | None = None, **graphs: Any) -> tuple[Padding, Padding]:
        """Find the places of targets and sources, which have to be the same for more than one hop."""
        if graphs.get("context") is not None and (self.hops != 1 or self.normalize == "spectral"):
            raise ValueError(
                f"context is given, but hops is {self.hops} and normalize is {self.normalize!r}; other sources than x "
                "take hops=1 and normalize='relu_frobenius'"
            )
        return super().places(x, batch, **graphs)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Gather values over walks."""
        self.refuse_masks(query_mask, key_mask)
        (q, k, v), dtype = widen(q, k, v)
        with without_autocast(q.device):
            affinity = self._affinity(q, k, query_mask, key_mask)
            first = drop(affinity, self.dropout, self.training) @ v
            decay = self.decay_of_heads(q)
            out = decay.view(-1, 1, 1) * self._further_hops(affinity, first, decay)
            if self.out_scale is not None:
                out = out * self._num_nodes(out, query_mask).sqrt()
        return out.to(dtype)

    @torch.no_grad()
    def effective_decay(self, x: Tensor, batch: Tensor | None = None, **graphs: Any) -> Tensor:
        r"""Tell how much a hop counts in the long run: :math:`\rho` times the spectral radius of :math:`\mathbf{A}`.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            **graphs: Further arguments of :meth:`GlobalAttention.forward`, without a ``context``.

        Returns:
            One number for each graph and head ``[B, H]``, from above within the precision of a power iteration (under
            ``causal`` exactly); 0 for a graph without nodes. It carries no gradient.

        Raises:
            ValueError: If shapes, devices or graphs do not fit, or there is a ``context``.
            TypeError: If a dtype does not fit.

        Example:
            >>> attend = InfSA(4, decay=0.5, normalize="spectral", bias=False)
            >>> round(attend.effective_decay(torch.randn(64, 4)).item(), 3)
            0.5
        """
        if graphs.get("context") is not None:
            raise ValueError("context is given; only an affinity between the same nodes has a spectral radius")
        targets, _ = self.places(x, batch, **graphs)
        (q, k), _ = widen(*self.project(x, None, targets, targets)[:2])
        with without_autocast(q.device):
            affinity = self._affinity(q, k, targets.mask, targets.mask)
            if affinity.size(-1) == 0:
                return affinity.new_zeros(affinity.shape[:2])
            radius = affinity.diagonal(dim1=-2, dim2=-1).amax(-1) if self.causal else _radius(affinity)
            return self.decay * radius

    def extra_repr(self) -> str:
        normalize = "" if self.normalize == "relu_frobenius" else f", normalize={self.normalize!r}"
        return f"{super().extra_repr()}, hops={self.hops}{normalize}"

    def _affinity(self, q: Tensor, k: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Turn queries and keys into :math:`\\mathbf{A}`, ``[B, H, N, M]``; 0 where either is missing."""
        affinity = (q @ k.transpose(-2, -1) / q.size(-1)).relu()
        if query_mask is not None:
            affinity = affinity.masked_fill(~query_mask[:, None, :, None], 0.0)
        if key_mask is not None:
            affinity = affinity.masked_fill(~key_mask[:, None, None, :], 0.0)
        if self.causal:
            affinity = affinity.tril()
        square = torch.linalg.vector_norm(affinity, dim=-1, keepdim=True).square()
        square = square.cumsum(-2) if self.causal else square.sum(-2, keepdim=True)
        # The square root has no gradient at 0; there every entry is 0 and any divisor serves.
        affinity = affinity / (square.masked_fill(square == 0, 1.0).sqrt() + EPS)
        if self.normalize == "relu_frobenius" or affinity.size(-1) == 0:
            return affinity
        return affinity / _radius(affinity).clamp_min(_LEAST_RADIUS)[..., None, None]

    def _further_hops(self, affinity: Tensor, first: Tensor, decay: Tensor) -> Tensor:
        r"""Add the further hops to the first, :math:`\sum_{t<T} (\rho\mathbf{A})^t \mathbf{U}`."""
        if self.hops == 1 or first.numel() == 0:
            return first
        if self.hops == math.inf and self.causal:
            eye = torch.eye(affinity.size(-1), dtype=affinity.dtype, device=affinity.device)
            return torch.linalg.solve_triangular(eye - decay.view(-1, 1, 1) * affinity, first, upper=False)
        # The heads of all graphs are heads of one affinity.
        A, start = DenseAffinity(affinity.flatten(0, 1)), first.flatten(0, 1).transpose(0, 1)
        decay = decay.repeat(first.size(0))
        if self.hops == math.inf:
            total = resolvent(A, start, decay, radius=1.0, tol=tolerance(start.dtype))
        else:
            total = neumann(A, start, decay, int(self.hops) - 1, radius=1.0)
        return total.transpose(0, 1).reshape(first.shape)

    def _num_nodes(self, out: Tensor, query_mask: Tensor | None) -> Tensor:
        """Count the nodes that share the norm of the affinity with a node: all of its graph, or those up to it."""
        size = out.size(-2)
        if self.causal:
            return torch.arange(1, size + 1, dtype=out.dtype, device=out.device).unsqueeze(-1)
        if query_mask is None:
            return torch.full((), size, dtype=out.dtype, device=out.device)
        return query_mask.sum(-1).to(out.dtype)[:, None, None, None]


def _radius(affinity: Tensor) -> Tensor:
    r"""Bound the spectral radius of non-negative matrices from above, with the gradient of the eigenvalue.

    .. math:: \partial\rho = \mathbf{u}^\top \partial\mathbf{A}\, \mathbf{v} / \mathbf{u}^\top \mathbf{v}
    """
    constant_affinity = affinity.detach()
    bound, v = _perron(constant_affinity)
    bound_transposed, u = _perron(constant_affinity.transpose(-2, -1))
    form = (u * (affinity @ v)).sum((-2, -1))
    vanishes = form.detach() == 0
    # 1 in value: however well the vectors are known, the radius grows with the affinity.
    slope = form / form.detach().masked_fill(vanishes, 1.0)
    return torch.minimum(bound, bound_transposed) * slope.masked_fill(vanishes, 1.0)


@torch.library.custom_op("graphattn_nn::perron", mutates_args=())
def _perron(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Return an upper bound of the spectral radius and the vector of the power iteration that found it.

    For every positive vector the largest ratio of an entry after and before a product is such a bound (Collatz and
    Wielandt). A quarter of the growth added to the diagonal ends the oscillation of bipartite graphs. One operator,
    since a compiler would unroll the loop.
    """
    v = affinity.new_ones(*affinity.shape[:-1], 1)
    bound = affinity.new_full(affinity.shape[:-2], torch.inf)
    tiny = torch.finfo(affinity.dtype).tiny
    for _ in range(_STEPS):
        image = affinity @ v
        bound = torch.minimum(bound, (image / v).amax((-2, -1)))
        v = image + 0.25 * image.amax(-2, keepdim=True) * v
        v = (v / v.amax(-2, keepdim=True).clamp_min(tiny)).clamp_min(tiny)
    return bound, v


@_perron.register_fake
def _(affinity: Tensor) -> tuple[Tensor, Tensor]:
    return affinity.new_empty(affinity.shape[:-2]), affinity.new_empty(*affinity.shape[:-1], 1)
