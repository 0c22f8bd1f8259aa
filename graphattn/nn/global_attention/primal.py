"""Primal attention: the scores of a kernel singular value decomposition, without its kernel matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.global_attention.padding import Padding, places_of
from graphattn.ops.inputs import check_float, widen, without_autocast

_LOSS_REDUCES = ("batch", "sample")


class _Scores(NamedTuple):
    """What forward, loss and objective read: both scores ``[B, H, n, s]``, 0 where there is no node, and the nodes."""

    e: Tensor
    r: Tensor
    mask: Tensor  # [B, n]
    places: Padding


class PrimalAttention(nn.Module):
    r"""Represent nodes by both projections of an asymmetric kernel onto few directions, in linear time.

    .. math::
        \mathbf{e}_i = \mathbf{W}_{e|X}^\top \phi(\mathbf{q}_i), \quad
        \mathbf{r}_i = \mathbf{W}_{r|X}^\top \phi(\mathbf{k}_i), \quad
        \mathbf{o}_i = \mathbf{W}_O\,[\mathbf{e}_i ; \mathbf{r}_i] + \mathbf{b}_O, \qquad
        \phi(\mathbf{x}) = \mathbf{x} / \lVert\mathbf{x}\rVert

    with :math:`\mathbf{W}_{e|X} = f(\mathbf{X})^\top \mathbf{W}_e`, where the rows of :math:`f(\mathbf{X})` are evenly
    spaced nodes of the graph, their channels split into heads. Where weights :math:`\mathbf{W}_e, \mathbf{W}_r` and
    :math:`\boldsymbol\Lambda` make the objective stationary,

    .. math::
        J = \tfrac12 \sum_i \mathbf{e}_i^\top \boldsymbol\Lambda\, \mathbf{e}_i
        + \tfrac12 \sum_j \mathbf{r}_j^\top \boldsymbol\Lambda\, \mathbf{r}_j
        - \operatorname{tr}(\mathbf{W}_e^\top \mathbf{W}_r),

    the scores are left and right singular vectors of the kernel
    :math:`K_{ij} = \langle f(\mathbf{X})\phi(\mathbf{q}_i), f(\mathbf{X})\phi(\mathbf{k}_j) \rangle` times singular
    values :math:`\boldsymbol\Lambda^{-1}`, and :math:`J = 0`. Softmax attention is :math:`\mathbf{e}` alone, with the
    values for right singular vectors. To come near, add the ``loss`` to that of the task.

    Time is :math:`O(N p s + n p s)` for each head of :math:`p` channels, :math:`s` directions and :math:`n` rows. The
    order of the nodes of a graph matters only as to which of them are rows, and under ``causal``.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        low_rank: Number of directions :math:`s`.
        rows: Number of rows :math:`n` of :math:`f(\mathbf{X})`, repeated where a graph has fewer nodes; 0 for weights
            :math:`\mathbf{W}_{e|X}` that do not depend on the data. By default ten times ``low_rank``, and 0 under
            ``causal``.
        eta: Weight of the loss.
        loss_reduce: ``"sample"`` squares the objective of each graph, ``"batch"`` its mean over the batch.
        bias: Whether the projections have biases.
        causal: Whether a node sees only itself and the nodes of its graph before it: queries and keys are running means
            over them.
        compat: ``"primal"`` for the released code: :math:`\boldsymbol\Lambda` is unconstrained and enters squared, the
            weights start with norm 1 in each head instead of in each direction, and the places of a padded batch that
            no node takes count as nodes of zeros, among the rows and in the loss. ``None`` for the above.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown, out of range, or does not go with another.

    Example:
        >>> attend = PrimalAttention(8, heads=2, low_rank=3)
        >>> x, batch = torch.rand(5, 8), torch.tensor([0, 1, 0, 1, 1])
        >>> out, loss = attend(x, batch, return_loss=True)
        >>> torch.allclose(out[[0, 2]], attend(x[[0, 2]]), atol=1e-6)
        True

    Reference:
        Chen et al., "Primal-Attention: Self-attention through Asymmetric Kernel SVD in Primal Representation", 2023.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        low_rank: int = 20,
        rows: int | None = None,
        eta: float = 0.1,
        loss_reduce: str = "sample",
        bias: bool = True,
        causal: bool = False,
        compat: str | None = None,
    ) -> None:
        super().__init__()
        rows = (0 if causal else 10 * low_rank) if rows is None else rows
        for name, size in (("channels", channels), ("heads", heads), ("low_rank", low_rank)):
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if channels % heads:
            raise ValueError(f"heads is {heads}, which does not divide channels={channels}")
        if rows < 0:
            raise ValueError(f"rows is {rows}; expected at least 0")
        if causal and rows:
            raise ValueError(f"rows is {rows}, but causal is True and later nodes would be among them; pass rows=0")
        if not eta >= 0:
            raise ValueError(f"eta is {eta}; expected a weight of at least 0")
        if loss_reduce not in _LOSS_REDUCES:
            raise ValueError(f"loss_reduce is {loss_reduce!r}; expected 'batch' or 'sample'")
        if compat not in (None, "primal"):
            raise ValueError(f"compat is {compat!r}; expected None or 'primal'")
        self.channels = channels
        self.heads = heads
        self.head_channels = channels // heads
        self.low_rank = low_rank
        self.rows = rows
        self.eta = eta
        self.loss_reduce = loss_reduce
        self.causal = causal
        self.compat = compat
        self.qk = nn.Linear(channels, 2 * channels, bias=bias)
        self.weight_e = nn.Parameter(torch.empty(heads, rows or self.head_channels, low_rank))
        self.weight_r = nn.Parameter(torch.empty(heads, rows or self.head_channels, low_rank))
        self.raw_lambda = nn.Parameter(torch.empty(heads, low_rank))
        self.join = nn.Linear(2 * low_rank, self.head_channels, bias=bias)
        self.proj = nn.Linear(channels, channels, bias=bias)
        self.reset_parameters()

    @property
    def inverse_singular_values(self) -> Tensor:
        r"""Diagonal of :math:`\boldsymbol\Lambda` as it weighs the objective, ``[H, s]``."""
        return F.softplus(self.raw_lambda) if self.compat is None else self.raw_lambda.square()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        nn.init.xavier_uniform_(self.qk.weight)
        self.join.reset_parameters()
        self.proj.reset_parameters()
        for bias in (self.qk.bias, self.proj.bias):
            if bias is not None:
                nn.init.zeros_(bias)
        if self.compat is not None:
            nn.init.orthogonal_(self.weight_e)
            nn.init.orthogonal_(self.weight_r)
            nn.init.uniform_(self.raw_lambda)
            return
        for weight in (*self.weight_e, *self.weight_r):
            nn.init.orthogonal_(weight)
        nn.init.uniform_(self.raw_lambda, 0.01, 1.0)
        self.raw_lambda.copy_(self.raw_lambda.expm1().log())  # softplus gives the drawn numbers back

    def forward(self, x: Tensor, batch: Tensor | None = None, *, return_loss: bool = False, **graphs: Any) -> Any:
        r"""Represent every node by its scores within its graph.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            return_loss: Whether to return :math:`\eta\,L^2` too, to be added to the loss of the task, averaged over
                layers. :math:`L` is the mean over heads of an objective in which the sums over nodes are means.
            **graphs: ``ptr``, ``num_graphs`` and ``max_nodes``, as in :meth:`GlobalAttention.forward`.

        Returns:
            The nodes, in their order; with ``return_loss`` also the loss, a scalar, averaged over graphs with nodes.

        Raises:
            ValueError: If shapes, devices or graphs do not fit.
            TypeError: If a dtype does not fit.
        """
        scores = self._scores(x, batch, **graphs)
        both = torch.cat([scores.e, scores.r], dim=-1).to(self.join.weight.dtype)
        out = self.proj(self.join(scores.places.unpad(both.transpose(1, 2))).flatten(1))
        return (out, self._loss(scores)) if return_loss else out

    def ksvd_objective(self, x: Tensor, batch: Tensor | None = None, **graphs: Any) -> Tensor:
        """Compute the objective :math:`J`, which is 0 where the scores are those of a singular value decomposition.

        Args:
            x: Nodes of all graphs.
            batch: Graph of each node, in any order; by default all belong to one.
            **graphs: As in :meth:`forward`.

        Returns:
            The objective of each graph and head, ``[B, H]``, in at least float32.

        Raises:
            ValueError: If shapes, devices or graphs do not fit.
            TypeError: If a dtype does not fit.

        Example:
            >>> PrimalAttention(8, heads=2, low_rank=3).ksvd_objective(torch.rand(5, 8)).shape
            torch.Size([1, 2])
        """
        energy, trace = self._terms(self._scores(x, batch, **graphs))
        return energy - trace

    def extra_repr(self) -> str:
        causal = ", causal=True" if self.causal else ""
        return f"{self.channels}, heads={self.heads}, low_rank={self.low_rank}, rows={self.rows}{causal}"

    def _scores(self, x: Tensor, batch: Tensor | None, **graphs: Any) -> _Scores:
        check_float("x", x)
        if x.dim() != 2 or x.size(1) != self.channels:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected [nodes, {self.channels}]")
        places = places_of(x, batch=batch, **graphs)
        padded = places.pad(x)
        everywhere = torch.ones(padded.shape[:2], dtype=torch.bool, device=x.device)
        mask = everywhere if places.mask is None or self.compat is not None else places.mask
        q, k = self.qk(padded).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        (q, k, padded, weight_e, weight_r), _ = widen(q, k, padded, self.weight_e, self.weight_r)
        with without_autocast(x.device):
            if self.causal:
                seen = torch.arange(1, q.size(2) + 1, dtype=q.dtype, device=q.device).unsqueeze(1)
                q, k = q.cumsum(2) / seen, k.cumsum(2) / seen
            if self.rows:
                rows = self._rows(padded, mask)
                weight_e, weight_r = rows @ weight_e, rows @ weight_r
            outside = ~mask[:, None, :, None]
            e = (_unit(q) @ weight_e).masked_fill(outside, 0.0)
            r = (_unit(k) @ weight_r).masked_fill(outside, 0.0)
        return _Scores(e, r, mask, places)

    def _rows(self, padded: Tensor, mask: Tensor) -> Tensor:
        """Take evenly spaced nodes of each graph, split into heads: :math:`f(X)^T`, ``[B, H, p, n]``."""
        last = mask.sum(1, keepdim=True) - 1
        step = torch.arange(self.rows, device=mask.device)
        chosen = (step * last // max(self.rows - 1, 1)).clamp_min(0)
        if padded.size(1) == 0:
            return padded.new_zeros(padded.size(0), self.heads, self.head_channels, self.rows)
        rows = padded.gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.channels))
        return rows.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)

    def _terms(self, scores: _Scores) -> tuple[Tensor, Tensor]:
        r"""Return the sum of both energies, ``[B, H]``, and the trace, ``[H]``."""
        (e, r, weight_e, weight_r, inverse), _ = widen(
            scores.e, scores.r, self.weight_e, self.weight_r, self.inverse_singular_values
        )
        energy = 0.5 * ((e.square() + r.square()).sum(2) * inverse).sum(-1)
        return energy, (weight_e * weight_r).sum((1, 2))

    def _loss(self, scores: _Scores) -> Tensor:
        energy, trace = self._terms(scores)
        count = scores.mask.sum(1)
        present = (count > 0).to(energy.dtype)
        level = (energy / count.clamp_min(1).unsqueeze(1) - trace).mean(1) * present
        num_graphs = present.sum().clamp_min(1)
        if self.loss_reduce == "batch":
            return self.eta * (level.sum() / num_graphs).square()
        return self.eta * level.square().sum() / num_graphs


def _unit(x: Tensor) -> Tensor:
    """Divide vectors by their norm; 0 stays."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1.0)
