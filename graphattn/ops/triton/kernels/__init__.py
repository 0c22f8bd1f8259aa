"""The fused kernels of the triton backend: attention over CSR rows, its gradients, and sampled products.

One program serves one head of one row, or of one segment of a row too long for a program. It walks the row's slots in
tiles of ``BLOCK_E`` neighbours by ``BLOCK_C`` channels and sums each tile position by position, so that the tile is
reduced once a row and a warp needs no shared memory. A score is either a dot product or additive,

    s = scale * sum_c q_c k_c + bias      or      s = sum_c vector_c * LeakyReLU(q_c + k_c + (W e)_c) + bias,

with features e of an edge. Features in dot products are attended as well, o = sum P (v + W e), and never projected:
q . (W e) = (W^T q) . e and sum P (W e) = W (sum P e). They lie in a tile beside the channels of keys and values, and
W^T q, the ``edge_query``, and the row's sum of e, ``edge_sums``, beside the channels of the query and the result.

Of the softmax a row's maximum and sum are kept, from which the backward computes weights anew; a log-sum-exp in their
place would be rounded in proportion to its size, and the weights with it.
Gradients of queries are sums over rows, those of keys and values sums over columns of the transposed pattern, those of
edges' features sums over the heads in one program; in additive scores, theirs and those of their projection are
products of matrices, of some edges at a time: no atomics, the same bits every time.

Options of a call are run-time numbers, uniform over a program, so that few kernels serve all calls: a kernel is
compiled per dtype and per power of two of channels. Widths come in units of eight channels, which lets every load and
store move 16 bytes.
"""

from graphattn.ops.triton.kernels.attend import combine as combine
from graphattn.ops.triton.kernels.attend import forward as forward
from graphattn.ops.triton.kernels.dots import products as products
from graphattn.ops.triton.kernels.edges import backward_edges as backward_edges
from graphattn.ops.triton.kernels.edges import backward_pairs as backward_pairs
from graphattn.ops.triton.kernels.gradients import backward_columns as backward_columns
from graphattn.ops.triton.kernels.gradients import backward_rows as backward_rows
