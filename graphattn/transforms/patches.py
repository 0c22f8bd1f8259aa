"""Images as graphs of their patches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Batch

from graphattn.affinity import SparseAffinity, complete
from graphattn.affinity.grids import grid
from graphattn.transforms.tokens import checked

_PATTERNS: dict[str, Callable[[int, int], SparseAffinity]] = {
    "complete": lambda rows, cols: complete(rows * cols),
    "grid": grid,
    "window": lambda rows, cols: grid(rows, cols, diagonal=True),
}


def patches_to_graph(
    images: Tensor,
    patch_size: int | tuple[int, int],
    pattern: str | Callable[[int, int], SparseAffinity] = "complete",
) -> Batch:
    r"""Cut images into patches, as a vision transformer does, and make a graph of those of each image.

    Patches are numbered row by row. Each is flattened as (channel, row, column), so that a linear layer on them is the
    convolution with stride ``patch_size`` that begins a vision transformer.

    Args:
        images: Images.
        patch_size: Size :math:`P` of a patch, or its height and width; it divides the size of the images.
        pattern: Which patches attend to which: ``"complete"``; ``"grid"``, to itself and the four patches that it
            shares a side with; ``"window"``, to the eight around it; or a function of the numbers of rows and columns,
            as ``lambda rows, cols: grid(rows, cols, radius=3)`` with the patterns of :mod:`graphattn.affinity`.

    Shapes:
        - **input:** ``images`` :math:`(B, C, H, W)`
        - **output:** ``x`` :math:`(N, C P^2)` of :math:`N = B H W / P^2`, ``pos`` :math:`(N, 2)`, ``edge_index``
          :math:`(2, E)`, ``edge_type`` :math:`(E,)`, ``batch`` :math:`(N,)`

    Returns:
        A PyG batch of a graph per image, ``pos`` being the row and the column of each patch.

    Raises:
        ValueError: If a shape or size does not fit, or the pattern is unknown or of another size.
        TypeError: If the pattern does not return a ``SparseAffinity``.

    Example:
        >>> graphs = patches_to_graph(torch.rand(2, 3, 8, 8), patch_size=4, pattern="grid")
        >>> graphs.x.shape, graphs.pos[:4].tolist()
        (torch.Size([8, 48]), [[0, 0], [0, 1], [1, 0], [1, 1]])

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021.
    """
    if isinstance(pattern, str):
        if pattern not in _PATTERNS:
            names = ", ".join(map(repr, _PATTERNS))
            raise ValueError(f"pattern is {pattern!r}; expected one of {names}, or a function of rows and columns")
        pattern = _PATTERNS[pattern]
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    if images.dim() != 4 or images.size(0) == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}; expected [images, channels, height, width]")
    if height < 1 or width < 1 or images.size(2) % height or images.size(3) % width:
        sizes = f"images of {images.size(2)} x {images.size(3)}"
        raise ValueError(f"patch_size is {patch_size}, which does not divide {sizes}")
    rows, cols = images.size(2) // height, images.size(3) // width
    edges = checked(pattern(rows, cols), rows * cols).to(images.device)
    pos = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).to(images.device)
    graphs = []
    for patches in F.unfold(images, (height, width), stride=(height, width)).transpose(1, 2):
        graph = edges.to_data()
        graph.x, graph.pos = patches, pos
        graphs.append(graph)
    return Batch.from_data_list(graphs)
