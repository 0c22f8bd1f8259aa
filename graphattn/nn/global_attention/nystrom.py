"""Nystromformer attention: softmax attention in linear time, through means of segments of the nodes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.global_attention.base import GlobalAttention
from graphattn.nn.global_attention.padding import Padding
from graphattn.nn.global_attention.softmax import masked_softmax
from graphattn.ops.inputs import widen, without_autocast

_PINV = ("iterative", "exact")
_COMPAT = ("nystromformer",)


class NystromAttention(GlobalAttention):
    r"""Approximate softmax attention through landmarks, in linear time.

    .. math::
        \mathbf{O} = \operatorname{softmax}(\mathbf{Q} \tilde{\mathbf{K}}^\top)\,
        \operatorname{softmax}(\tilde{\mathbf{Q}} \tilde{\mathbf{K}}^\top)^{+}\,
        \operatorname{softmax}(\tilde{\mathbf{Q}} \mathbf{K}^\top)\,\mathbf{V}

    with queries and keys scaled by :math:`d^{-1/4}`, and landmarks :math:`\tilde{\mathbf{Q}}, \tilde{\mathbf{K}}` that
    are the means of :math:`m` segments of consecutive nodes, of sizes that differ by at most 1: the order of the nodes
    matters. The pseudoinverse of the :math:`m \times m` matrix :math:`\mathbf{B}` in the middle comes from

    .. math::
        \mathbf{Z} \leftarrow \tfrac14 \mathbf{Z}\,(13\,\mathbf{I} - \mathbf{P}\,(15\,\mathbf{I} - \mathbf{P}\,
        (7\,\mathbf{I} - \mathbf{P}))), \quad \mathbf{P} = \mathbf{B} \mathbf{Z}, \quad
        \mathbf{Z}_0 = \mathbf{B}^\top / (\|\mathbf{B}\|_1 \|\mathbf{B}\|_\infty)

    A graph of at most :math:`m` sources gets exact softmax attention. Of 6 iterations an error of a few percent stays.

    Args:
        channels: Width of the nodes :math:`C`.
        heads: Number of heads :math:`H`.
        head_channels: Width of a head :math:`d`; by default ``channels / heads``.
        num_landmarks: Number of segments :math:`m` of a graph.
        pinv: ``"iterative"``, or ``"exact"`` by singular value decomposition.
        iterations: Number of iterations.
        conv_kernel: Odd width of a convolution over the values of consecutive nodes, one kernel a head, which is added
            to the output; ``None`` for none.
        dropout: Probability of dropping an output channel in training.
        bias: Whether the projections have biases.
        compat: ``"nystromformer"`` follows the authors' code: :math:`\mathbf{Z}_0` is divided by one maximum over all
            graphs and heads and padding is averaged into landmarks, so that the results of a graph depend on the
            others; the largest graph must have :math:`m` nodes or a multiple.

    Shapes:
        - **input:** ``x`` :math:`(N, C)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> from graphattn.nn.global_attention import SoftmaxAttention
        >>> attend = NystromAttention(8, heads=2, num_landmarks=4)
        >>> exact = SoftmaxAttention(8, heads=2)
        >>> _ = exact.load_state_dict(attend.state_dict())
        >>> x = torch.rand(12, 8)
        >>> torch.allclose(attend(x[:4]), exact(x[:4]), atol=1e-6), torch.allclose(attend(x), exact(x), atol=0.05)
        (True, True)

    Reference:
        Xiong et al., "Nyströmformer: A Nyström-based Algorithm for Approximating Self-Attention", 2021.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        head_channels: int | None = None,
        num_landmarks: int = 64,
        pinv: str = "iterative",
        iterations: int = 6,
        conv_kernel: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        compat: str | None = None,
    ) -> None:
        super().__init__(channels, heads, head_channels=head_channels, dropout=dropout, bias=bias)
        if pinv not in _PINV:
            raise ValueError(f"pinv is {pinv!r}; expected one of {', '.join(map(repr, _PINV))}")
        if compat is not None and compat not in _COMPAT:
            raise ValueError(f"compat is {compat!r}; expected None or {_COMPAT[0]!r}")
        for name, number in (("num_landmarks", num_landmarks), ("iterations", iterations)):
            if number < 1:
                raise ValueError(f"{name} is {number}; expected at least 1")
        if conv_kernel is not None and (conv_kernel < 1 or conv_kernel % 2 == 0):
            raise ValueError(f"conv_kernel is {conv_kernel}; expected an odd number, so that it has a middle")
        self.num_landmarks = num_landmarks
        self.pinv = pinv
        self.iterations = iterations
        self.compat = compat
        self.conv: nn.Conv2d | None = None
        if conv_kernel is not None:
            padding = (conv_kernel // 2, 0)
            self.conv = nn.Conv2d(heads, heads, (conv_kernel, 1), padding=padding, groups=heads, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.conv is not None:
            self.conv.reset_parameters()

    def project(
        self, x: Tensor, context: Tensor | None, targets: Padding, sources: Padding
    ) -> tuple[Tensor, Tensor, Tensor]:
        if context is not None and self.conv is not None:
            raise ValueError("context is given, but conv_kernel adds the values of sources to targets; pass one")
        return super().project(x, context, targets, sources)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> Tensor:
        (q, k, v), dtype = widen(q, k, v)
        there = None if key_mask is None else key_mask[:, None, None, :]
        with without_autocast(q.device):
            if self.compat is not None and (q.size(-2) % self.num_landmarks or k.size(-2) % self.num_landmarks):
                raise ValueError(
                    f"the largest graph has {q.size(-2)} nodes and {k.size(-2)} sources, but compat={self.compat!r} "
                    f"takes multiples of num_landmarks={self.num_landmarks} only; pass max_nodes or compat=None"
                )
            if k.size(-2) <= self.num_landmarks:
                out = F.scaled_dot_product_attention(q, k, v, there)
            else:
                scale = self.head_channels**-0.25
                out = self._approximate(scale * q, scale * k, v, query_mask, key_mask)
            if self.conv is not None and k.size(-2) > 0:
                kernel = self.conv.weight.to(v.dtype)
                v = v if there is None else v.masked_fill(~there.transpose(-2, -1), 0.0)
                out = out + F.conv2d(v, kernel, padding=self.conv.padding, groups=self.heads)
            return out.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_landmarks={self.num_landmarks}"

    def _approximate(
        self, q: Tensor, k: Tensor, v: Tensor, query_mask: Tensor | None, key_mask: Tensor | None
    ) -> Tensor:
        """Go from queries over the landmarks of both sides to the values."""
        means = segment_means if self.compat is None else _means_with_padding
        q_means, q_there = means(q, query_mask, self.num_landmarks)
        k_means, k_there = means(k, key_mask, self.num_landmarks)
        rows, columns = q_there[:, None, :, None], k_there[:, None, None, :]
        near = masked_softmax(q @ k_means.transpose(-2, -1), columns)
        middle = masked_softmax(q_means @ k_means.transpose(-2, -1), rows & columns)
        there = None if key_mask is None else key_mask[:, None, None, :]
        far = masked_softmax(q_means @ k.transpose(-2, -1), there)
        gathered = self._pseudoinverse(middle) @ (far @ v)
        if key_mask is not None and self.compat is None:
            # A graph of few sources has each for a landmark, so that the softmax over landmarks is the exact one.
            few = key_mask.sum(dim=1) <= self.num_landmarks
            v_means, _ = segment_means(v, key_mask, self.num_landmarks)
            gathered = torch.where(few[:, None, None, None], v_means, gathered)
        return near @ gathered

    def _pseudoinverse(self, matrix: Tensor) -> Tensor:
        """Invert matrices whose rows sum to 1; rows and columns of zeros stay so."""
        if self.pinv == "exact":
            return torch.linalg.pinv(matrix)
        norm = matrix.sum(dim=-2).amax(dim=-1) if self.compat is None else matrix.sum(dim=-2).max()
        inverse = matrix.transpose(-2, -1) / norm[..., None, None].clamp_min(torch.finfo(matrix.dtype).tiny)
        identity = torch.eye(matrix.size(-2), dtype=matrix.dtype, device=matrix.device)
        for _ in range(self.iterations):
            product = matrix @ inverse
            inner = 15 * identity - product @ (7 * identity - product)
            inverse = 0.25 * inverse @ (13 * identity - product @ inner)
        return inverse


def segment_means(x: Tensor, mask: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    r"""Average consecutive nodes in segments whose sizes differ by at most 1.

    Args:
        x: Padded nodes.
        mask: Which nodes are there; ``None`` means all.
        num_segments: Number of segments :math:`m`.

    Shapes:
        - **input:** ``x`` :math:`(B, H, N, d)`, ``mask`` :math:`(B, N)`
        - **output:** :math:`(B, H, m, d)`, and which segments there are, :math:`(B, m)` or :math:`(1, m)`

    Returns:
        The means, and which segments there are: all, or one for each node where there are fewer nodes than segments.

    Example:
        >>> segment_means(torch.arange(5.0).view(1, 1, 5, 1), None, 2)[0].flatten().tolist()
        [1.0, 3.5]
    """
    if mask is None:
        mask = torch.ones(1, x.size(-2), dtype=torch.bool, device=x.device)
    num_nodes = mask.sum(dim=1, keepdim=True)
    taken = num_nodes.clamp(max=num_segments)
    segment = (mask.cumsum(dim=1) - 1) * taken // num_nodes.clamp(min=1)
    number = torch.arange(num_segments, device=x.device)
    members = ((segment.unsqueeze(1) == number.unsqueeze(1)) & mask.unsqueeze(1)).to(x.dtype)
    members = members / members.sum(dim=-1, keepdim=True).clamp(min=1.0)
    return members.unsqueeze(1) @ x, number < taken


def _means_with_padding(x: Tensor, mask: Tensor | None, num_segments: int) -> tuple[Tensor, Tensor]:
    """Average padding as if it were nodes, in segments of equal size."""
    means = x.unflatten(-2, (num_segments, -1)).mean(dim=-2)
    return means, torch.ones(1, num_segments, dtype=torch.bool, device=x.device)
