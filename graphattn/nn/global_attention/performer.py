"""Performer attention (FAVOR+): softmax attention in linear time, by positive random features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.nn.global_attention.linear import linear_attention
from graphattn.ops.inputs import widen, without_autocast

_FEATURES = ("positive", "hyperbolic")
_COMPAT = ("performer-pytorch", "idiap", "pyg")
# Stands for the logarithm of 0: lower than any score, and still finite when another is subtracted.
_LOWEST = -1e30


class PerformerAttention(GlobalAttention):
    r"""Approximate softmax attention by positive random features (FAVOR+), in linear time.

    .. math::
        \phi(\mathbf{x}) = \tfrac{1}{\sqrt{m}} \exp\left(\mathbf{W} \mathbf{x} - \tfrac12 \|\mathbf{x}\|^2\right),
        \qquad \mathbb{E}_{\mathbf{W}}\,\phi(\mathbf{q} d^{-1/4})^\top \phi(\mathbf{k} d^{-1/4})
        = \exp(\mathbf{q}^\top \mathbf{k} / \sqrt{d})

    with rows of :math:`\mathbf{W}` that are normally distributed and, in blocks of :math:`d`, orthogonal; then
    :class:`LinearAttention` by these features, without a constant in the denominator. All heads share
    :math:`\mathbf{W}`, a buffer that only :meth:`redraw` changes. The largest exponent is subtracted (of each query; of
    all keys of a graph, in a causal call of those so far), which cancels in the quotient. The error falls as
    :math:`m^{-1/2}` and grows with the norms of queries and keys.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        num_features: Number of features :math:`m`; by default :math:`d \ln d` rounded down, at least 1.
        features: ``"positive"``, or ``"hyperbolic"``: both signs of half as many draws, which is more precise;
            by default positive.
        orthogonal: Whether rows are orthogonal in blocks of :math:`d`, and not independent.
        dropout: Probability of dropping an output channel in training.
        bias: Whether the projections have biases.
        causal: Whether a node attends only to itself and the nodes of its graph before it.
        compat: Follow another code base, mistakes included: ``"performer-pytorch"`` adds :math:`10^{-4}` to the
            exponentials; ``"pyg"`` has the features :math:`\operatorname{relu}(\mathbf{W} \mathbf{x}) + 10^{-3}` of
            unscaled queries and keys, rows of norm 1. In both padding counts as keys of 0, so that the results of a
            graph depend on the others. ``"idiap"`` has hyperbolic features from which nothing is subtracted and
            adds :math:`10^{-6}` to the denominator.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown, out of range, or does not go with another.

    Example:
        >>> from graphattn.nn.global_attention import SoftmaxAttention
        >>> attend = PerformerAttention(8, heads=2, num_features=4096)
        >>> attend.redraw(torch.Generator().manual_seed(0))
        >>> exact = SoftmaxAttention(8, heads=2)
        >>> _ = exact.load_state_dict(attend.state_dict(), strict=False)
        >>> x = torch.rand(5, 8)
        >>> torch.allclose(attend(x), exact(x), atol=0.05)
        True

    Reference:
        Choromanski et al., "Rethinking Attention with Performers", 2021.
    """

    projection: Tensor

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        num_features: int | None = None,
        features: str | None = None,
        orthogonal: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
        compat: str | None = None,
    ) -> None:
        super().__init__(channels, heads, head_channels=head_channels, dropout=dropout, bias=bias, causal=causal)
        if compat is not None and compat not in _COMPAT:
            raise ValueError(f"compat is {compat!r}; expected None or one of {', '.join(map(repr, _COMPAT))}")
        if features is not None and features not in _FEATURES:
            raise ValueError(f"features is {features!r}; expected one of {', '.join(map(repr, _FEATURES))}")
        if compat is not None and features is not None:
            raise ValueError(f"features is {features!r}, but compat={compat!r} has its own; pass one of them")
        if compat is not None and causal:
            raise ValueError(f"causal is True, but compat={compat!r} is for sums over all nodes only")
        if compat == "pyg" and not orthogonal:
            raise ValueError("orthogonal is False, but compat='pyg' has orthogonal rows only")
        self.features = "hyperbolic" if compat == "idiap" else features or "positive"
        self.orthogonal = orthogonal
        self.compat = compat
        signs = 2 if self.features == "hyperbolic" else 1
        if num_features is None:
            num_features = signs * max(1, int(self.head_channels * math.log(self.head_channels)) // signs)
        if num_features < 1 or num_features % signs:
            even = "an even number" if signs == 2 else "a number"
            raise ValueError(f"num_features is {num_features}; expected {even} of at least {signs}")
        self.num_features = num_features
        self.register_buffer("projection", torch.empty(num_features // signs, self.head_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters and the random features anew."""
        super().reset_parameters()
        self.redraw()

    @torch.no_grad()
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Draw the rows of the projection anew.

        Args:
            generator: Source of randomness; by default torch's global one.
        """
        rows, width = self.projection.shape
        device = self.projection.device if generator is None else generator.device
        draws = torch.randn(rows, width, generator=generator, device=device)
        if self.orthogonal:
            blocks = torch.randn(-(-rows // width), width, width, generator=generator, device=device)
            basis, upper = torch.linalg.qr(blocks)
            # Uniform over all rotations only once the signs, a convention of the factorization, are undone.
            basis = basis * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
            rotated = basis.transpose(-2, -1).flatten(0, 1)[:rows]
            draws = rotated if self.compat == "pyg" else rotated * draws.norm(dim=1, keepdim=True)
        self.projection.copy_(draws)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        (q, k, v), dtype = widen(q, k, v)
        there = None if key_mask is None else key_mask[:, None, :, None]
        with without_autocast(q.device):
            if self.compat in ("performer-pytorch", "pyg"):
                v = v if there is None else v.masked_fill(~there, 0.0)
                return linear_attention(*self._shifted_features(q, k), v).to(dtype)
            q, k = (torch.sub(*self._exponents(x)) for x in (q, k))
            if self.compat == "idiap":
                q, k = ((x - 0.5 * math.log(self.num_features)).exp() for x in (q, k))
                k = k if there is None else k.masked_fill(~there, 0.0)
                return linear_attention(q, k, v, eps=1e-6).to(dtype)
            q = (q - q.detach().amax(dim=-1, keepdim=True)).exp()
            top = k.detach().amax(dim=-1, keepdim=True)
            if there is not None:
                top = top.masked_fill(~there, _LOWEST)
                k = k.masked_fill(~there, -torch.inf)
            if self.causal:
                top = top.cummax(dim=-2).values
                return linear_attention(q, (k - top).exp(), v, causal=True, top=top).to(dtype)
            top = F.pad(top, (0, 0, 0, 1), value=_LOWEST).amax(dim=-2, keepdim=True)  # graphs without keys have one
            return linear_attention(q, (k - top).exp(), v).to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_features={self.num_features}"

    def _exponents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the features, but for a constant, as a difference of projections and half square norms."""
        x = x * self.head_channels**-0.25
        u = x @ self.projection.to(x.dtype).T
        if self.features == "hyperbolic":
            u = torch.cat([u, -u], dim=-1)
        return u, 0.5 * x.square().sum(dim=-1, keepdim=True)

    def _shifted_features(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the code bases that add a constant to each."""
        if self.compat == "pyg":
            projection = self.projection.to(q.dtype).T
            return (q @ projection).relu() + 1e-3, (k @ projection).relu() + 1e-3
        (q, q_norm), (k, k_norm) = self._exponents(q), self._exponents(k)
        q_top = q.detach().amax(dim=-1, keepdim=True)
        k_top = F.pad(k.detach(), (0, 0, 0, 1), value=_LOWEST).amax(dim=(-2, -1), keepdim=True)
        return (q - q_norm - q_top).exp() + 1e-4, (k - k_norm - k_top).exp() + 1e-4
