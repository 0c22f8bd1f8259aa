"""Linear attention: scores that are products of positive features, so that no pair of nodes is ever formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.ops.inputs import widen, without_autocast

# Nodes whose pairs are formed at once in causal attention: scores take as much memory as 64 channels would.
_CHUNK = 64
_EPS = 1e-6
# Above any logarithm, and still finite when another is subtracted.
_HIGHEST = 1e30


class LinearAttention(GlobalAttention):
    r"""Attend by products of positive features of queries and keys, in linear time.

    .. math::
        \mathbf{o}_i = \frac{\phi(\mathbf{q}_i)^\top \sum_j \phi(\mathbf{k}_j)\,\mathbf{v}_j^\top}
        {\phi(\mathbf{q}_i)^\top \sum_j \phi(\mathbf{k}_j) + 10^{-6}}, \qquad \phi(x) = \operatorname{elu}(x) + 1

    These are the weights :math:`\phi(\mathbf{q}_i)^\top \phi(\mathbf{k}_j)`, normalized over :math:`j`; queries and
    keys are not scaled. The projections are those of :class:`GlobalAttention`. A causal call sums chunks of 64 nodes.
    Time and memory grow with the nodes of the largest graph, not with their square.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        feature_map: Map :math:`\phi` from ``[..., d]`` to positive features of any width.
        dropout: Probability of dropping an output channel in training.
        bias: Whether the projections have biases.
        causal: Whether a node attends only to itself and the nodes of its graph before it.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> attend = LinearAttention(8, heads=2, causal=True)
        >>> x = torch.rand(5, 8)
        >>> torch.allclose(attend(x)[:3], attend(x[:3]), atol=1e-6)
        True

    Reference:
        Katharopoulos et al., "Transformers are RNNs", 2020.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        feature_map: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__(channels, heads, head_channels=head_channels, dropout=dropout, bias=bias, causal=causal)
        self.feature_map = elu_features if feature_map is None else feature_map
        self.reset_parameters()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        (q, k, v), dtype = widen(q, k, v)
        with without_autocast(q.device):
            q, k = self.feature_map(q), self.feature_map(k)
            if key_mask is not None:
                k = k.masked_fill(~key_mask[:, None, :, None], 0.0)
            return linear_attention(q, k, v, causal=self.causal, eps=_EPS).to(dtype)


def elu_features(x: Tensor) -> Tensor:
    r"""Map to :math:`\operatorname{elu}(x) + 1`, without the rounding to 0 of very negative numbers.

    Example:
        >>> elu_features(torch.tensor([-30.0, 2.0]))
        tensor([9.3576e-14, 3.0000e+00])
    """
    return torch.where(x >= 0.0, x + 1.0, x.clamp(max=0.0).exp())


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, eps: float = 0.0, top: Tensor | None = None
) -> Tensor:
    r"""Average values by products of features.

    .. math::
        \mathbf{o}_i = \frac{\sum_j (\mathbf{q}_i^\top \mathbf{k}_j)\,\mathbf{v}_j}
        {\sum_j \mathbf{q}_i^\top \mathbf{k}_j + \epsilon}

    Args:
        q: Features of queries.
        k: Features of keys, 0 for sources that are not there.
        v: Values.
        causal: Whether sums end at :math:`j = i`.
        eps: Added to the denominator.
        top: Logarithm of the number that the features of each key were divided by, if these numbers differ; it must
            not fall from key to key. For causal sums only.

    Shapes:
        - **input:** ``q`` :math:`(B, H, N, F)`, ``k`` :math:`(B, H, M, F)`, ``v`` :math:`(B, H, M, D)`, ``top``
          :math:`(B, H, M, 1)`
        - **output:** :math:`(B, H, N, D)`

    Returns:
        The averages; 0 where the denominator is 0.

    Example:
        >>> q, k, v = torch.ones(1, 1, 2, 1), torch.tensor([1.0, 3.0]).view(1, 1, 2, 1), torch.eye(2).view(1, 1, 2, 2)
        >>> linear_attention(q, k, v, causal=True).squeeze().tolist()
        [[1.0, 0.0], [0.25, 0.75]]
    """
    v = F.pad(v, (0, 1), value=1.0)  # the sum of ones is the denominator
    sums = _causal_sums(q, k, v, top) if causal else q @ (k.transpose(-2, -1) @ v)
    total = sums[..., -1:] + eps
    return sums[..., :-1] / total.masked_fill(total == 0.0, 1.0)


def _causal_sums(q: Tensor, k: Tensor, v: Tensor, top: Tensor | None) -> Tensor:
    """Sum ``(q_i . k_j) v_j`` over ``j <= i``: pairs within a chunk, one matrix for all chunks before."""
    num_nodes = q.size(-2)
    chunks = num_nodes // _CHUNK + 1
    behind = (0, 0, 0, chunks * _CHUNK - num_nodes)
    q, k, v = (F.pad(x, behind).unflatten(-2, (chunks, _CHUNK)) for x in (q, k, v))
    pairs = (q @ k.transpose(-2, -1)).tril()
    if top is None:
        carried = (k.transpose(-2, -1) @ v).cumsum(dim=-3)
        return (pairs @ v + q @ _delay(carried)).flatten(-3, -2)[..., :num_nodes, :]
    # Every factor below is the exponential of a difference to a later top, so that it is at most 1.
    top = F.pad(top, behind, value=_HIGHEST).unflatten(-2, (chunks, _CHUNK))
    last = top[..., -1:, :]
    pairs = pairs * (top.transpose(-2, -1) - top).clamp(max=0.0).exp()
    carried = _decayed_sums((k * (top - last).exp()).transpose(-2, -1) @ v, last)
    before = q @ _delay(carried) * (_delay(last) - top).clamp(max=0.0).exp()
    return (pairs @ v + before).flatten(-3, -2)[..., :num_nodes, :]


def _decayed_sums(x: Tensor, top: Tensor) -> Tensor:
    """Sum chunks up to each, ``s_c = exp(top_{c-1} - top_c) s_{c-1} + x_c``, in a logarithmic number of steps."""
    step = 1
    while step < x.size(-3):
        grown = (top[..., :-step, :, :] - top[..., step:, :, :]).exp()
        x = torch.cat([x[..., :step, :, :], x[..., step:, :, :] + grown * x[..., :-step, :, :]], dim=-3)
        step *= 2
    return x


def _delay(x: Tensor) -> Tensor:
    """Give each chunk what the one before had, the first 0."""
    return F.pad(x[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
