"""Personalized PageRank."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphattn.affinity import Affinity
from graphattn.diffusion.inputs import as_tensor, check_fraction, finish, prepare, spread
from graphattn.diffusion.neumann import check_hops
from graphattn.diffusion.resolvent import resolvent


def pagerank(A: Affinity, x: Tensor, teleport: float | Tensor = 0.1, hops: float = 10) -> Tensor:
    r"""Propagate features by personalized PageRank: hop by hop, a share of the start comes back.

    .. math::
        \mathbf{Z}_0 = \mathbf{X}, \quad
        \mathbf{Z}_{t+1} = (1 - \alpha)\,\mathbf{A}\,\mathbf{Z}_t + \alpha\,\mathbf{X}, \quad
        \mathbf{Z}_\infty = \alpha\,(\mathbf{I} - (1 - \alpha)\,\mathbf{A})^{-1}\,\mathbf{X}

    The affinity is taken as it is, so normalize it first (``"row"``, ``"symmetric"``): its spectral radius must not
    exceed 1. With PyG's ``gcn_norm`` weights this is ``torch_geometric.nn.APPNP(hops, teleport)``.

    Args:
        A: A square affinity.
        x: Node features.
        teleport: Share :math:`\alpha` of the start, in (0, 1); one for all or one for each head.
        hops: Number of hops, at least 0, or ``math.inf`` for the limit by :func:`resolvent`.

    Shapes:
        - **input:** ``x`` :math:`(N,)`, :math:`(N, C)` or :math:`(N, H, C)`
        - **output:** that of ``A @ x``

    Returns:
        The propagated features, in the dtype of ``A @ x``, computed in at least float32.

    Raises:
        ValueError: If a shape or a device does not fit, or ``teleport`` or ``hops`` is out of range.
        TypeError: If ``A`` is not an affinity or ``x`` not a floating-point tensor.

    Example:
        >>> ring = Affinity.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
        >>> pagerank(ring, torch.tensor([1.0, 0.0, 0.0]), teleport=0.5, hops=1).tolist()
        [0.5, 0.5, 0.0]

    Reference:
        Gasteiger et al., "Predict then Propagate: Graph Neural Networks meet Personalized PageRank", 2019.
    """
    if hops != math.inf:
        check_hops(hops)
    A, start, dtype = prepare(A, x)
    check_fraction("teleport", teleport, start)
    share = spread(as_tensor(teleport, start))
    if hops == math.inf:
        return finish(share * resolvent(A, start, 1 - teleport, radius=1.0), x, dtype)
    z, restart = start, share * start
    for _ in range(int(hops)):
        z = torch.addcmul(restart, A.matmul(z), 1 - share)
    return finish(z, x, dtype)
