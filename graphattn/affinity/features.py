"""Affinities between features, whose long paths rank them: what Inf-FS, ILFS and EC-FS are built on.

None but :func:`inf_fs_u` looks at pairs of features: the others are sums of outer products and of pairwise maxima,
which multiply in :math:`O(F \\log F)` time and :math:`O(F)` memory. All are symmetric but the directed
:func:`inf_fs_s`, all multiply in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.sparse import coo_array
from torch import Tensor
from tqdm import tqdm

from graphattn.affinity.columns import min_max
from graphattn.affinity.convert import from_scipy
from graphattn.affinity.dispersion import MaxProduct, dispersion
from graphattn.affinity.implicit import ImplicitAffinity, Product, Rows
from graphattn.affinity.sparse import SparseAffinity
from graphattn.affinity.spearman import Redundancy

_BLOCK_BYTES = 64 << 20


def inf_fs_u(
    x: Any,
    alpha: float = 0.5,
    *,
    dtype: torch.dtype = torch.float32,
    store: str = "auto",
    block_size: int = 1024,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> ImplicitAffinity:
    r"""Join features that vary much and do not repeat each other; ``alpha`` weighs the former.

    .. math:: A_{ij} = \alpha \max(a_i, a_j) + (1 - \alpha) (1 - |\rho_{ij}|)

    with :math:`a` of :func:`~graphattn.affinity.dispersion.dispersion` and Spearman's correlation :math:`\rho`, taken
    as 0 for a constant feature.

    Args:
        x: Samples by features: a tensor, a NumPy array or a SciPy sparse matrix.
        alpha: Weight of the dispersion, in [0, 1].
        dtype: Precision of the correlations; whatever it is, sums and products are float64.
        store: ``"stored"`` keeps the correlations (half of the matrix), ``"blocked"`` computes them anew for every
            product, ``"auto"`` stores up to 2 GiB.
        block_size: Features that are correlated with as many others at a time.
        progress: Whether to show the progress of computing correlations, on standard error.
        device: Where to compute; the CPU if not given.

    Shapes:
        - **input:** ``x`` :math:`(T, F)`
        - **output:** an affinity of shape :math:`(F, F)`

    Returns:
        A symmetric affinity; its product takes :math:`O(T F^2)` time blocked and :math:`O(F^2)` stored.

    Raises:
        ValueError: If an argument is out of range or ``x`` has fewer than two samples.
        TypeError: If ``x`` is none of the three.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 0.0], [2.0, 2.0, 8.0]])
        >>> inf_fs_u(x, dtype=torch.float64).row_sums()
        tensor([1.0000, 0.7500, 1.7500], dtype=torch.float64)

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020.
    """
    _check_share(alpha)
    redundancy = Redundancy(x, dtype=dtype, store=store, block_size=block_size, progress=progress, device=device)
    spread = MaxProduct(dispersion(x, device=device))

    def product(v: Tensor) -> Tensor:
        return alpha * spread(v) + (1 - alpha) * redundancy(v)

    def rows(start: int, stop: int) -> Tensor:
        return alpha * spread.rows(start, stop) + (1 - alpha) * redundancy.rows(start, stop)

    return _implicit(product, rows, x.shape[1], device)


def inf_fs_s(
    fisher: Tensor,
    information: Tensor,
    spread: Tensor,
    alpha: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    *,
    symmetrize: bool = True,
) -> ImplicitAffinity:
    r"""Join features by what they tell about the classes and how much they vary.

    .. math::
        G_{ij} = \alpha_1 \frac{\hat m_j + \hat f_i}{2} + \alpha_2 \frac{\hat m_j + \max(a_i, a_j)}{2}
        + \alpha_3 \frac{\max(a_i, a_j) + \hat f_i}{2}, \qquad A = (G + G^{\top}) / 2

    with Fisher score :math:`\hat f` and mutual information :math:`\hat m`, each scaled to [0, 1] here.

    Args:
        fisher: Fisher scores, see :func:`~graphattn.affinity.relevance.fisher_score`.
        information: Mutual information, see :func:`~graphattn.affinity.relevance.mutual_information`.
        spread: Dispersion, see :func:`~graphattn.affinity.dispersion.dispersion`.
        alpha: Three weights, not negative and not all 0; they are divided by their sum.
        symmetrize: Whether to take :math:`A`; otherwise the directed :math:`G`, whose row sums do not depend on how
            the mutual information is distributed.

    Shapes:
        - **input:** three vectors :math:`(F,)`
        - **output:** an affinity of shape :math:`(F, F)`

    Returns:
        An affinity with products in :math:`O(F \log F)`.

    Raises:
        ValueError: If ``alpha`` or a shape does not fit.

    Example:
        >>> f, m, a = torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0])
        >>> inf_fs_s(f, m, a).to_dense().matrix.tolist()
        [[0.3333333333333333, 0.6666666666666666], [0.6666666666666666, 0.6666666666666666]]

    Reference:
        Roffo et al., "Infinite Feature Selection: A Graph-based Feature Filtering Approach", TPAMI 2020.
    """
    fisher, information, spread = _check_vectors(fisher=fisher, information=information, spread=spread)
    weights = torch.tensor([float(a) for a in alpha], dtype=torch.float64)
    if weights.shape != (3,) or not bool((weights >= 0).all() & (weights.sum() > 0) & weights.isfinite().all()):
        raise ValueError(f"alpha is {tuple(alpha)}; expected three weights, not negative and not all 0")
    first, second, third = (weights / weights.sum()).tolist()
    pull = ((first + third) / 2 * min_max(fisher)).unsqueeze(1)
    push = ((first + second) / 2 * min_max(information)).unsqueeze(1)
    if symmetrize:
        pull = push = (pull + push) / 2
    maximum, weight = MaxProduct(spread), (second + third) / 2

    def product(v: Tensor) -> Tensor:
        return _rank_two(pull, push, v) + weight * maximum(v)

    def transposed(v: Tensor) -> Tensor:
        return _rank_two(push, pull, v) + weight * maximum(v)

    def rows(start: int, stop: int) -> Tensor:
        return pull[start:stop] + push.t() + weight * maximum.rows(start, stop)

    return _implicit(product, rows, fisher.numel(), fisher.device, None if symmetrize else transposed)


def ec_fs(relevance: Tensor, spread: Tensor, alpha: float = 0.5) -> ImplicitAffinity:
    r"""Join features that are both relevant, or of which one varies much; ``alpha`` weighs the former.

    .. math:: A_{ij} = \alpha \frac{v_i v_j - \min_k v_k^2}{\max_k v_k^2 - \min_k v_k^2} + (1 - \alpha) \max(a_i, a_j)

    It is the affinity of EC-FS and, with Fisher scores for :math:`v`, of the supervised Inf-FS of 2015.

    Args:
        relevance: How relevant each feature is, :math:`v \ge 0`; if all are equal, that term is 0.
        spread: Dispersion :math:`a`, see :func:`~graphattn.affinity.dispersion.dispersion`.
        alpha: Weight of the relevance, in [0, 1].

    Shapes:
        - **input:** two vectors :math:`(F,)`
        - **output:** an affinity of shape :math:`(F, F)`

    Returns:
        A symmetric affinity with products in :math:`O(F \log F)`.

    Raises:
        ValueError: If ``alpha`` is out of range, a shape does not fit or ``relevance`` is negative.

    Example:
        >>> ec_fs(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), alpha=0.75).to_dense().matrix.tolist()
        [[0.25, 0.5], [0.5, 0.75]]

    Reference:
        Roffo and Melzi, "Features Selection via Eigenvector Centrality", NFMCP 2016.
    """
    _check_share(alpha)
    relevance, spread = _check_vectors(relevance=relevance, spread=spread)
    if bool((relevance < 0).any()):
        raise ValueError(f"relevance has the value {relevance.min().item():.6g}; expected none below 0")
    # v_i v_j - l^2 = l (d_i + d_j) + d_i d_j with l the least value and d_i = v_i - l: no difference of near equals.
    # Divided by the largest value, squares cannot overflow.
    top = relevance.max() if relevance.numel() else relevance.new_zeros(())
    scaled = relevance / top if top > 0 else torch.zeros_like(relevance)
    low = scaled.min() if scaled.numel() else top
    above = (scaled - low).unsqueeze(1)
    span = (1 - low) * (1 + low)
    share = alpha / span if span > 0 else torch.zeros_like(span)
    maximum = MaxProduct(spread)

    def product(v: Tensor) -> Tensor:
        joint = _rank_two(low * above, low * above, v) + above * (above.t() @ v.to(above.dtype))
        return share * joint + (1 - alpha) * maximum(v)

    def rows(start: int, stop: int) -> Tensor:
        joint = low * (above[start:stop] + above.t()) + above[start:stop] * above.t()
        return share * joint + (1 - alpha) * maximum.rows(start, stop)

    return _implicit(product, rows, relevance.numel(), relevance.device)


def ilfs(relevance: Tensor) -> ImplicitAffinity:
    r"""Join features that are both relevant, :math:`A_{ij} = z_i z_j`: a matrix of rank one.

    Args:
        relevance: Probability :math:`z` that each feature is relevant.

    Shapes:
        - **input:** :math:`(F,)`
        - **output:** an affinity of shape :math:`(F, F)`

    Returns:
        A symmetric affinity with products in :math:`O(F)`.

    Raises:
        ValueError: If the shape does not fit.

    Example:
        >>> ilfs(torch.tensor([0.5, 1.0])).row_sums().tolist()
        [0.75, 1.5]

    Reference:
        Roffo et al., "Infinite Latent Feature Selection: A Probabilistic Latent Graph-Based Ranking Approach",
        ICCV 2017.
    """
    z = _check_vectors(relevance=relevance)[0].unsqueeze(1)
    return _implicit(
        lambda v: z * (z.t() @ v.to(z.dtype)), lambda start, stop: z[start:stop] * z.t(), z.size(0), z.device
    )


def nearest_features(A: ImplicitAffinity, n_neighbors: int, *, progress: bool = False) -> SparseAffinity:
    r"""Keep the strongest partners of every feature, so that longer paths tell more than the first hop.

    Each row keeps its ``n_neighbors`` largest entries off the diagonal, ties going to the lowest column; the result is
    made symmetric by the larger of :math:`A_{ij}` and :math:`A_{ji}`. Rows are computed a block at a time:
    :math:`O(F k)` memory.

    Args:
        A: A square affinity that can compute its rows, as all of this module can.
        n_neighbors: How many entries :math:`k` to keep, at least 1; all where there are fewer.
        progress: Whether to show the progress, on standard error.

    Returns:
        A symmetric affinity with at most :math:`2 F k` edges, in float64.

    Raises:
        ValueError: If ``n_neighbors`` is not positive.

    Example:
        >>> A = nearest_features(ilfs(torch.tensor([0.5, 1.0, 0.25])), 1)
        >>> A.to_dense().matrix.tolist()
        [[0.0, 0.5, 0.0], [0.5, 0.0, 0.25], [0.0, 0.25, 0.0]]
    """
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors is {n_neighbors}; expected at least 1")
    size = A.shape[0]
    step = max(1, _BLOCK_BYTES // (8 * max(size, 1)))
    kept = []
    for start in tqdm(range(0, size, step), desc="nearest features", leave=False, disable=not progress):
        rows = A.rows(start, min(start + step, size))
        column = torch.arange(size, device=rows.device)
        rows = rows.masked_fill(column == column[start : start + rows.size(0)].unsqueeze(1), 0.0)
        count = min(n_neighbors, size)
        least = rows.topk(count, dim=1).values[:, -1:]
        larger, equal = rows > least, rows == least
        keep = larger | (equal & (equal.cumsum(1) <= count - larger.sum(1, keepdim=True)))
        kept.append((rows * keep).to_sparse_coo().cpu())
    index = [part.indices() + torch.tensor([[i * step], [0]]) for i, part in enumerate(kept)]
    i, j = torch.cat(index, dim=1).numpy() if index else torch.empty(2, 0, dtype=torch.int64).numpy()
    weight = torch.cat([part.values() for part in kept]).numpy() if kept else torch.empty(0).numpy()
    matrix = coo_array((weight, (i, j)), shape=A.shape).tocsr()
    edges = from_scipy(matrix.maximum(matrix.T), symmetric=True)
    return edges.to(A.device)


def _rank_two(left: Tensor, right: Tensor, v: Tensor) -> Tensor:
    """Multiply by ``left 1^T + 1 right^T``."""
    v = v.to(left.dtype)
    return left * v.sum(0) + right.t() @ v


def _implicit(
    product: Product, rows: Rows, size: int, device: torch.device | str | None, transposed: Product | None = None
) -> ImplicitAffinity:
    return ImplicitAffinity(
        product,
        (size, size),
        rmatvec=transposed,
        rows=rows,
        symmetric=transposed is None,
        dtype=torch.float64,
        device=device,
    )


def _check_share(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha!r}; expected a number in [0, 1]")


def _check_vectors(**vectors: Tensor) -> list[Tensor]:
    """The vectors in float64; raise unless they are of one length."""
    first = next(iter(vectors.values()))
    for name, vector in vectors.items():
        if vector.dim() != 1 or vector.shape != first.shape:
            shape = f"[{first.size(0)}]" if first.dim() == 1 else "[F]"
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; expected {shape}: one value per feature")
    return [vector.double() for vector in vectors.values()]
