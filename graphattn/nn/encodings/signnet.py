"""A network over eigenvectors that does not see their signs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.affinity import Affinity
from graphattn.nn.encodings.inputs import read_graph

_PHI = ("mlp", "gin")


class SignNet(nn.Module):
    r"""Map eigenvectors to features that do not change when an eigenvector changes its sign.

    .. math:: \mathrm{PE} = \rho\big(\big[\phi(\mathbf{s}_m) + \phi(-\mathbf{s}_m)\big]_{m = 1}^{k}\big), \quad
        \mathbf{s}_m = \sqrt{n}\,\mathbf{u}_m

    The same :math:`\phi` serves every eigenvector: a perceptron for each entry, or a graph isomorphism network
    :math:`\mathbf{h} \leftarrow \mathrm{MLP}((1 + \epsilon)\,\mathbf{h} + \mathbf{A}\,\mathbf{h})` for each vector;
    :math:`\rho` is a perceptron for each node. Entries are scaled to a mean square of 1 over the :math:`n` nodes of the
    graph: the even part of a network of ReLUs is flat near 0, where those of a large graph lie. Vectors that are not
    there contribute 0. The output does depend on the basis of a repeated eigenvalue.

    Args:
        k: Number of eigenvectors.
        out_channels: Columns of the output :math:`C`.
        hidden_channels: Width of :math:`\phi` and :math:`\rho`.
        num_layers: Layers of :math:`\phi`.
        phi: ``"mlp"`` or ``"gin"``, which needs the edges.

    Shapes:
        - **input:** ``vectors`` :math:`(N, k)`, ``values`` :math:`(k,)` or :math:`(B, k)`, ``batch`` :math:`(N,)`
        - **output:** :math:`(N, C)`

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> from graphattn.nn.encodings import laplacian_encoding
        >>> vectors, values = laplacian_encoding(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 4)
        >>> net = SignNet(4, 16)
        >>> torch.allclose(net(vectors, values), net(-vectors, values))
        True

    Reference:
        Lim et al., "Sign and Basis Invariant Networks for Spectral Graph Representation Learning", 2023.
    """

    def __init__(
        self, k: int, out_channels: int, *, hidden_channels: int = 64, num_layers: int = 2, phi: str = "mlp"
    ) -> None:
        super().__init__()
        sizes = {"k": k, "out_channels": out_channels, "hidden_channels": hidden_channels, "num_layers": num_layers}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; expected at least 1")
        if phi not in _PHI:
            raise ValueError(f"phi is {phi!r}; expected one of {', '.join(map(repr, _PHI))}")
        self.k = k
        self.out_channels = out_channels
        self.phi = phi
        widths = [1] + [hidden_channels] * num_layers
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Linear(after, after))
            for before, after in pairwise(widths)
        )
        self.eps = nn.Parameter(torch.empty(num_layers)) if phi == "gin" else None
        self.rho = nn.Sequential(
            nn.Linear(k * hidden_channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, out_channels)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if self.eps is not None:
            nn.init.zeros_(self.eps)

    def forward(self, vectors: Tensor, values: Tensor, batch: Tensor | None = None, *, A: Any = None) -> Tensor:
        """Encode the nodes by their entries in all eigenvectors.

        Args:
            vectors: Eigenvectors as columns.
            values: Their eigenvalues; vectors whose value is 0 or NaN are not there, as
                :func:`~graphattn.nn.encodings.laplacian_encoding` fills up.
            batch: Graph of each node, if each graph has a row of values.
            A: The graph for ``phi="gin"``: an affinity, a torch sparse matrix (row = target) or ``edge_index``.

        Returns:
            The encodings.

        Raises:
            ValueError: If a shape does not fit, or a graph is missing or not used.
        """
        n = vectors.size(0)
        if vectors.dim() != 2 or vectors.size(1) != self.k:
            raise ValueError(f"vectors has shape {tuple(vectors.shape)}; expected [nodes, {self.k}]")
        if batch is None and tuple(values.shape) != (self.k,):
            raise ValueError(f"values has shape {tuple(values.shape)}; expected [{self.k}] without batch")
        if batch is not None and (values.dim() != 2 or values.size(1) != self.k or tuple(batch.shape) != (n,)):
            raise ValueError(
                f"values has shape {tuple(values.shape)} and batch {tuple(batch.shape)}; expected [graphs, {self.k}] "
                f"and [{n}]"
            )
        if (A is None) == (self.phi == "gin"):
            raise ValueError(f"A is {'missing' if A is None else 'given'}, but phi is {self.phi!r}")
        graph = None if A is None else read_graph(A, None, None if isinstance(A, Affinity) else n)
        if graph is not None and graph.shape[0] != n:
            raise ValueError(f"A has {graph.shape[0]} nodes, but vectors has {n} rows; expected as many")
        if batch is None:
            batch, values = vectors.new_zeros(n, dtype=torch.long), values.unsqueeze(0)
        one = torch.ones(n, dtype=torch.promote_types(vectors.dtype, torch.float32), device=vectors.device)
        size = one.new_zeros(values.size(0)).index_add(0, batch, one).index_select(0, batch)
        there = values.index_select(0, batch) > 0
        s = (vectors.masked_fill(~there, 0.0) * size.sqrt().unsqueeze(1)).to(vectors.dtype).unsqueeze(-1)
        h = self._phi(s, graph) + self._phi(-s, graph)
        return self.rho(h.masked_fill(~there.unsqueeze(-1), 0.0).flatten(1))

    def _phi(self, h: Tensor, graph: Affinity | None) -> Tensor:
        for m, layer in enumerate(self.layers):
            h = h if m == 0 else h.relu()
            if graph is not None and self.eps is not None:
                h = (1.0 + self.eps[m]) * h + graph.matmul(h)
            h = layer(h)
        return h

    def extra_repr(self) -> str:
        return f"{self.k}, {self.out_channels}, phi={self.phi!r}"
