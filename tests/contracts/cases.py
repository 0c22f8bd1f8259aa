"""One table of everything public that computes on tensors: a small instance of each, and inputs of any size for it.

What holds for all of them is tested over this table: devices, precision and compilation. A public name that is neither
here nor among the exceptions of ``test_complete.py``, which say why, fails there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data, TemporalData
from torch_geometric.nn.models.tgn import TimeEncoder

from graphattn import diffusion, models, ops, retrieval
from graphattn.affinity import Affinity, SparseAffinity
from graphattn.models import AttentionNet
from graphattn.nn import (
    GAT,
    AttentionConv,
    CooccurrenceAttention,
    Cosine,
    DiffusionConv,
    DotProduct,
    GATv2,
    Gaussian,
    GraphTransformerLayer,
    HyperAttention,
    HyperFeatureAttention,
    RerankConv,
    TableAttention,
    TemporalAttentionConv,
    VirtualNode,
)
from graphattn.nn import global_attention as attend
from graphattn.nn.encodings import LearnedEncoding, RotaryEncoding, SignNet, SinusoidalEncoding, degree_encoding, time
from graphattn.training import TemporalSampler

WIDTH, OUT, EDGE_DIM, HEADS, NUM_GRAPHS, POSITIONS = 6, 4, 3, 2, 3, 64
CATEGORIES = (0, 3, 2)  # columns of a table: numbers, and categories by how many there are
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A public object and how to run it.

    Args:
        covers: The public object.
        make: Builds a module whose inputs are named tensors and numbers.
        inputs: Parts of the inputs, each made for so many nodes and edges; floating-point ones are of float64.
        also: Further public objects that the case stands for.
        dtype: The widest dtype that it works in.
    """

    covers: Any
    make: Callable[[], nn.Module]
    inputs: tuple[Callable[[int, int], Inputs], ...]
    also: tuple[Any, ...] = ()
    dtype: torch.dtype = torch.float64

    def build(self) -> nn.Module:
        """A module in evaluation mode whose parameters are all random: zero biases hide mistakes."""
        module = self.make().to(self.dtype).eval()
        with torch.no_grad():
            # Encodings of time keep the frequencies that they start with: no others make sense.
            encodings = [part for part in module.modules() if isinstance(part, (time.TimeEncoding, TimeEncoder))]
            kept = {id(parameter) for encoding in encodings for parameter in encoding.parameters()}
            for parameter in module.parameters():
                if id(parameter) not in kept:
                    parameter.copy_(0.5 * torch.randn(parameter.shape))
        return module

    def draw(self, num_nodes: int, num_edges: int) -> Inputs:
        """Random inputs."""
        drawn = {name: value for part in self.inputs for name, value in part(num_nodes, num_edges).items()}
        return cast(drawn, self.dtype)


class Function(nn.Module):
    """A function of named inputs as a module, so that everything in the table is run alike."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.function = function
        self.options = options

    def forward(self, **inputs: Any) -> Any:
        return self.function(**inputs, **self.options)


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Inputs whose floating-point tensors have another dtype."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


# Inputs ###############################################################################################################


def edges(n: int, e: int) -> Inputs:
    """Random edges, the first of them a loop and the next two parallel."""
    edge_index = torch.randint(n, (2, e))
    edge_index[:, 0] = 1
    edge_index[:, 2] = edge_index[:, 1]
    return {"edge_index": edge_index}


def nodes(n: int, e: int) -> Inputs:
    return {"x": torch.randn(n, WIDTH).double()}


def heads(*names: str, of_edges: bool = False) -> Callable[[int, int], Inputs]:
    """Vectors of every head of every node, or values of every head of every edge."""
    return lambda n, e: {name: torch.randn((e, HEADS) if of_edges else (n, HEADS, OUT)).double() for name in names}


def edge_attr(n: int, e: int) -> Inputs:
    return {"edge_attr": torch.randn(e, EDGE_DIM).double()}


def edge_weight(n: int, e: int) -> Inputs:
    return {"edge_weight": 0.2 + torch.rand(e).double()}


def edge_time(n: int, e: int) -> Inputs:
    return {"edge_time": torch.randint(100, (e,))}


def edge_proj(n: int, e: int) -> Inputs:
    return {"edge_proj": torch.randn(HEADS, OUT, EDGE_DIM).double()}


def vector(n: int, e: int) -> Inputs:
    return {"vector": torch.randn(HEADS, OUT).double()}


def num_nodes(n: int, e: int) -> Inputs:
    return {"num_nodes": n}


def num_rows(n: int, e: int) -> Inputs:
    return {"num_rows": n}


def batch(n: int, e: int) -> Inputs:
    return {"batch": torch.arange(n) % NUM_GRAPHS}


def one_graph(n: int, e: int) -> Inputs:
    return {"batch": torch.zeros(n, dtype=torch.long)}


def num_graphs(n: int, e: int) -> Inputs:
    return {"num_graphs": NUM_GRAPHS}


def max_nodes(n: int, e: int) -> Inputs:
    """The size of the largest graph; where it is known nothing has to be read back from the device."""
    return {"max_nodes": -(-n // NUM_GRAPHS)}


def pos(n: int, e: int) -> Inputs:
    return {"pos": torch.randint(POSITIONS, (n,))}


def real_pos(n: int, e: int) -> Inputs:
    """Real positions, which all dtypes hold."""
    return {"pos": torch.randint(POSITIONS, (n,)).double()}


def per_head_pos(n: int, e: int) -> Inputs:
    return {"pos": torch.randint(POSITIONS, (n, 1))}


def pe(n: int, e: int) -> Inputs:
    return {"pe": torch.randn(n, EDGE_DIM).double()}


def labels(n: int, e: int) -> Inputs:
    return {"labels": torch.arange(n) % (OUT + 1) - 1}


def ids(n: int, e: int) -> Inputs:
    return {"ids": torch.randint(OUT, (n,))}


def categories(n: int, e: int) -> Inputs:
    return {"x": torch.randint(3, (n, 2))}


def pairs(n: int, e: int) -> Inputs:
    return {"pairs": torch.randint(n, (2, e))}


def times(n: int, e: int) -> Inputs:
    return {"t": torch.randint(1000, (n,))}


def eigenvectors(n: int, e: int) -> Inputs:
    return {"vectors": torch.randn(n, OUT).double(), "values": 0.1 + torch.rand(OUT).double()}


def the_edges(n: int, e: int) -> Inputs:
    return {"A": edges(n, e)["edge_index"]}


def logits(n: int, e: int) -> Inputs:
    return {"first": torch.randn(n, OUT).double(), "second": torch.randn(n, OUT).double()}


def lists(n: int, e: int) -> Inputs:
    """Lists of n nodes and their similarities to anchors, in which the last node of the first list is not there."""
    mask = torch.ones(2, n, dtype=torch.bool)
    mask[0, -1] = False
    return {"affinity": torch.randn(2, n, WIDTH).double(), "mask": mask}


def heads_of_lists(n: int, e: int) -> Inputs:
    """A query and the n best of its list, which are all there."""
    x = torch.randn(2, n + 1, WIDTH).double()
    return {"queries": x[:, 0], "candidates": x[:, 1:], "mask": torch.ones(2, n, dtype=torch.bool)}


def event_sequences(n: int, e: int) -> Inputs:
    """Two sequences of n events, of which the first lacks one at its start and one in between."""
    event_type = torch.randint(1, OUT + 1, (2, n))
    event_type[0, 0] = event_type[0, 2] = 0
    return {"event_type": event_type, "t": torch.randint(20, (2, n)).cumsum(1)}


def cells(n: int, e: int) -> Inputs:
    return {"h": torch.randn(n, len(CATEGORIES), WIDTH).double()}


def num_context(n: int, e: int) -> Inputs:
    return {"num_context": n // 2}


def table(n: int, e: int) -> Inputs:
    """A table with hidden cells, and a category that is not known."""
    columns = [torch.randint(number, (n,)).double() if number else torch.randn(n).double() for number in CATEGORIES]
    x, hidden = torch.stack(columns, dim=1), torch.rand(n, len(CATEGORIES)) < 0.3
    x[0, 1] = -1
    return {"x": x, "hidden": hidden}


def past(n: int, e: int) -> Inputs:
    """What two hops of a sampler find for n nodes after e events; only the times of these are random."""
    event = torch.arange(e)
    t = torch.randint(1, 10, (e,)).cumsum(0)
    events = TemporalData(src=event % n, dst=(event + 1 + event // n) % n, t=t)
    found = TemporalSampler(events, [2, 2], num_nodes=n).sample(torch.arange(n), t[-1:].expand(n) + 1)
    names = ("n_id", "edge_index", "edge_time", "e_id", "num_sampled_nodes", "num_sampled_edges")
    return {name: found[name] for name in names}


def met(n: int, e: int) -> Inputs:
    """All nodes, and events as edges between them, with the time of each."""
    return {"n_id": torch.arange(n), **edges(n, e), "edge_t": torch.randint(100, (e,))}


def event_attr(n: int, e: int) -> Inputs:
    return {"msg": torch.randn(e, EDGE_DIM).double()}


def asked(n: int, e: int) -> Inputs:
    return {"src": torch.randint(n, (e,)), "dst": torch.randint(n, (e,))}


GRAPH = (nodes, edges)
BATCH = (nodes, batch, num_graphs, max_nodes)

# Functions that take an affinity or a layout ##########################################################################


def over_edges(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A rule of diffusion as a function of edges and their weights."""

    def run(x: Tensor, edge_index: Tensor, edge_weight: Tensor, **options: Any) -> Tensor:
        A = SparseAffinity(edge_index, edge_weight, (x.size(0), x.size(0)))
        return rule(A.normalize("row"), x, **options)

    return run


def edge_distance(q: Tensor, k: Tensor, edge_index: Tensor) -> Tensor:
    layout = ops.Layout(edge_index, q.size(0), k.size(0))
    return ops.edge_scores(lambda q_i, k_j, e_ij: -(q_i - k_j).square().sum(-1), q, k, None, layout)


class Appended(nn.Module):
    """Virtual nodes, of whose affinity the edges are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.virtual_node = VirtualNode(WIDTH)

    def forward(self, **inputs: Any) -> tuple[Any, ...]:
        x, A, graph = self.virtual_node(**inputs)
        return x, A.edge_index, A.edge_type, graph


class OverEvents(nn.Module):
    """A network over events, of whose sample every part is an input by itself."""

    def __init__(self, net: models.EventNetwork) -> None:
        super().__init__()
        self.net = net

    def forward(self, msg: Tensor | None = None, e_id: Tensor | None = None, **inputs: Any) -> Tensor:
        pairs = {name: inputs.pop(name) for name in ("src", "dst") if name in inputs}
        seen = Data(**inputs)
        if msg is not None:
            seen.msg = msg if e_id is None else msg.index_select(0, e_id)
        out: Tensor = self.net(seen, **pairs)
        return out


class NextEvents(nn.Module):
    """All that a network of event sequences predicts."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.model = models.EventSequenceModel(OUT, WIDTH, heads=HEADS, **options)

    def forward(self, **inputs: Any) -> tuple[Tensor, ...]:
        x = self.model(**inputs)
        return x, self.model.type_scores(x), *self.model.gap_distribution(x)


class AlongRows(nn.Module):
    """Attention between the rows of a table that edges name."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = _table(width="shared")

    def forward(self, h: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        out: Tensor = self.attend(h, SparseAffinity(edge_index, edge_weight, (h.size(0), h.size(0))))
        return out


def remembering(net: models.EventNetwork) -> OverEvents:
    """A network with a memory that is not empty."""
    some = torch.arange(POSITIONS)
    net.eval().update_state(some, some.flip(0), 5 * some, torch.randn(POSITIONS, EDGE_DIM))
    return OverEvents(net)


def disagreement(first: Tensor, second: Tensor) -> Tensor:
    return models.consistency_loss([first, second])


# The table ############################################################################################################

_conv = partial(AttentionConv, WIDTH, OUT, HEADS)
_full_conv = partial(_conv, edge_dim=EDGE_DIM, add_self_loops=True)
_diffusion = partial(DiffusionConv, WIDTH, OUT)
_net = partial(AttentionNet, WIDTH, WIDTH, OUT, heads=HEADS)
_table = partial(TableAttention, len(CATEGORIES), WIDTH, HEADS)
_tgat = partial(models.TGAT, 0, WIDTH, OUT, 2, edge_dim=EDGE_DIM)
_PAST = (past, event_attr)
_counts = partial(Affinity.from_dense, torch.tensor([[0, 2, 1, 1], [2, 1, 0, 3], [1, 0, 0, 0], [1, 3, 0, 2]]).double())

CASES: dict[str, Case] = {
    # Attention over edges
    "conv-dot": Case(AttentionConv, partial(_full_conv, score="dot"), (*GRAPH, edge_attr), also=(DotProduct,)),
    "conv-cosine": Case(AttentionConv, partial(_full_conv, score="cosine"), (*GRAPH, edge_attr), also=(Cosine,)),
    "conv-gaussian": Case(AttentionConv, partial(_full_conv, score="gaussian"), (*GRAPH, edge_attr), also=(Gaussian,)),
    "conv-gat": Case(AttentionConv, partial(_full_conv, score="gat"), (*GRAPH, edge_attr), also=(GAT,)),
    "conv-gatv2": Case(AttentionConv, partial(_full_conv, score="gatv2"), (*GRAPH, edge_attr), also=(GATv2,)),
    **{
        f"conv-{kind}": Case(AttentionConv, partial(_conv, normalize=kind), GRAPH)
        for kind in ("row", "symmetric", "sigmoid", "sinkhorn", "relu_frobenius", "none")
    },
    "conv-hops": Case(AttentionConv, partial(_conv, hops=3, learn_decay=True), GRAPH),
    "conv-all-hops": Case(AttentionConv, partial(_conv, hops=math.inf, learn_decay=True), GRAPH),
    "conv-rotary": Case(AttentionConv, lambda: _conv(rotary=RotaryEncoding(OUT)), (*GRAPH, pos)),
    "conv-time": Case(
        AttentionConv,
        lambda: _conv(edge_dim=EDGE_DIM, time_encoding=time.TGATEncoding(4)),
        (*GRAPH, edge_attr, edge_time),
    ),
    "temporal-conv": Case(
        TemporalAttentionConv,
        lambda: TemporalAttentionConv(WIDTH, OUT, time.TGATEncoding(4)),
        (*GRAPH, edge_time),
    ),
    "temporal-conv-map": Case(
        TemporalAttentionConv,
        lambda: TemporalAttentionConv(WIDTH, OUT, time.TGATEncoding(5), edge_dim=EDGE_DIM, mode="map"),
        (*GRAPH, edge_time, edge_attr),
    ),
    # Diffusion
    "diffusion-ppr": Case(DiffusionConv, partial(_diffusion, hops=3, learn_decay=True), (*GRAPH, edge_weight)),
    "diffusion-ppr-all": Case(
        DiffusionConv, partial(_diffusion, hops=math.inf, learn_decay=True), (*GRAPH, edge_weight)
    ),
    "diffusion-sgc": Case(DiffusionConv, partial(_diffusion, kernel="sgc", hops=2), GRAPH),
    "diffusion-katz": Case(DiffusionConv, partial(_diffusion, kernel="katz", hops=3), GRAPH),
    "diffusion-katz-all": Case(DiffusionConv, partial(_diffusion, kernel="katz", hops=math.inf), GRAPH),
    "diffusion-heat": Case(DiffusionConv, partial(_diffusion, kernel="heat"), (*GRAPH, edge_weight)),
    "neumann": Case(
        diffusion.neumann,
        lambda: Function(over_edges(diffusion.neumann), decay=0.6, hops=3, radius=1.0),
        (*GRAPH, edge_weight),
    ),
    "resolvent": Case(
        diffusion.resolvent,
        lambda: Function(over_edges(diffusion.resolvent), decay=0.6, radius=1.0),
        (*GRAPH, edge_weight),
    ),
    "pagerank": Case(
        diffusion.pagerank,
        lambda: Function(over_edges(diffusion.pagerank), teleport=0.4, hops=3),
        (*GRAPH, edge_weight),
    ),
    "heat": Case(diffusion.heat, lambda: Function(over_edges(diffusion.heat), radius=1.0), (*GRAPH, edge_weight)),
    "rerank-conv": Case(RerankConv, partial(RerankConv, "row"), (*GRAPH, edge_weight, one_graph)),
    # Attention within whole graphs
    "softmax": Case(attend.SoftmaxAttention, partial(attend.SoftmaxAttention, WIDTH, HEADS), BATCH),
    "linear": Case(attend.LinearAttention, partial(attend.LinearAttention, WIDTH, HEADS), BATCH),
    "performer": Case(attend.PerformerAttention, partial(attend.PerformerAttention, WIDTH, HEADS), BATCH),
    "nystrom": Case(
        attend.NystromAttention, partial(attend.NystromAttention, WIDTH, HEADS, num_landmarks=2, iterations=2), BATCH
    ),
    "primal": Case(attend.PrimalAttention, partial(attend.PrimalAttention, WIDTH, HEADS, low_rank=2), BATCH),
    "infsa": Case(attend.InfSA, partial(attend.InfSA, WIDTH, HEADS, hops=3), BATCH),
    "infsa-all": Case(attend.InfSA, partial(attend.InfSA, WIDTH, HEADS, hops=math.inf), BATCH),
    "linear-infsa": Case(attend.LinearInfSA, partial(attend.LinearInfSA, WIDTH, HEADS), BATCH),
    **{
        f"{name}-causal": Case(method, partial(method, WIDTH, HEADS, causal=True), BATCH)
        for name, method in {
            "softmax": attend.SoftmaxAttention,
            "linear": attend.LinearAttention,
            "performer": attend.PerformerAttention,
            "primal": partial(attend.PrimalAttention, low_rank=2, rows=0),
        }.items()
    },
    "pattern": Case(
        attend.PatternAttention,
        partial(attend.PatternAttention, WIDTH, HEADS, patterns={"window": {"width": 1}}),
        (nodes,),
    ),
    "hyper": Case(HyperAttention, partial(HyperAttention, WIDTH, OUT, 3), BATCH),
    "hyper-feature": Case(HyperFeatureAttention, partial(HyperFeatureAttention, WIDTH, OUT, rank=3), BATCH),
    "cooccurrence": Case(CooccurrenceAttention, lambda: CooccurrenceAttention(_counts(), heads=HEADS), (ids, *BATCH)),
    # Attention within a table
    "table-full": Case(TableAttention, _table, (cells,)),
    "table-shared": Case(TableAttention, partial(_table, width="shared", compat="npt"), (cells,)),
    "table-attributes": Case(TableAttention, partial(_table, between="attributes", compat="saint"), (cells,)),
    "table-context": Case(TableAttention, _table, (cells, num_context)),
    "table-rows": Case(TableAttention, AlongRows, (cells, edges, edge_weight)),
    # Parts of networks
    "transformer-layer": Case(
        GraphTransformerLayer,
        lambda: GraphTransformerLayer(WIDTH, AttentionConv(WIDTH, WIDTH), attend.SoftmaxAttention(WIDTH)),
        GRAPH,
    ),
    "virtual-node": Case(VirtualNode, Appended, (*GRAPH, batch, num_graphs)),
    "category-embedding": Case(models.CategoryEmbedding, partial(models.CategoryEmbedding, [3, 4], OUT), (categories,)),
    "input-encoder": Case(models.InputEncoder, partial(models.InputEncoder, "linear", WIDTH, OUT), (nodes,)),
    # Encodings
    "degree": Case(degree_encoding, lambda: Function(degree_encoding), (the_edges, edge_weight, num_nodes)),
    "learned": Case(LearnedEncoding, partial(LearnedEncoding, POSITIONS, OUT), (pos,)),
    "rotary": Case(RotaryEncoding, partial(RotaryEncoding, OUT), (heads("x"), per_head_pos)),
    "signnet": Case(SignNet, partial(SignNet, OUT, OUT, hidden_channels=5), (eigenvectors,)),
    "signnet-gin": Case(SignNet, partial(SignNet, OUT, OUT, hidden_channels=5, phi="gin"), (eigenvectors, the_edges)),
    "sinusoidal": Case(SinusoidalEncoding, partial(SinusoidalEncoding, OUT), (real_pos,)),
    **{
        f"time-{name}": Case(encoding, partial(encoding, OUT, **options), (times,))
        for name, encoding, options in (
            ("bochner", time.BochnerEncoding, {}),
            ("family", time.FamilyBochnerEncoding, {"learn_scale": True}),
            ("inverse-cdf", time.InverseCDFBochnerEncoding, {}),
            ("normal", time.NormalBochnerEncoding, {}),
            ("random", time.RandomBochnerEncoding, {}),
            ("graphmixer", time.GraphMixerEncoding, {}),
            ("mercer", time.MercerEncoding, {"harmonics": 0}),
            ("mercer-flex", time.MercerFlexEncoding, {"harmonics": 2}),
            ("mercer-sum", time.MercerSumEncoding, {"harmonics": 2}),
            ("tgat", time.TGATEncoding, {}),
        )
    },
    # Networks
    "attention-net": Case(AttentionNet, partial(_net, norm="layer", edge_dim=EDGE_DIM), (*GRAPH, edge_attr)),
    "attention-net-hops": Case(AttentionNet, partial(_net, hops=3, residual=True, jump="cat"), GRAPH),
    "graph-transformer": Case(models.GraphTransformer, partial(models.GraphTransformer, WIDTH, WIDTH, OUT, 1), GRAPH),
    "inf-diffusion-net": Case(
        models.InfDiffusionNet, partial(models.InfDiffusionNet, WIDTH, WIDTH, OUT, label_input=True), (*GRAPH, labels)
    ),
    "inf-diffusion-net-raw": Case(
        models.InfDiffusionNet, partial(models.InfDiffusionNet, WIDTH, WIDTH, OUT, encoder=None, norm="layer"), GRAPH
    ),
    "inf-diffusion-net-learned": Case(
        models.InfDiffusionNet,
        partial(models.InfDiffusionNet, WIDTH, WIDTH, OUT, affinity="learned", heads=HEADS),
        GRAPH,
    ),
    "contextual-encoder": Case(
        models.ContextualEncoder, partial(models.ContextualEncoder, WIDTH, 8, depth=1, heads=HEADS), (lists,)
    ),
    "npt": Case(
        models.NonParametricTransformer,
        partial(models.NonParametricTransformer, CATEGORIES, WIDTH, depth=2, heads=HEADS),
        (table,),
    ),
    "event-sequences": Case(models.EventSequenceModel, NextEvents, (event_sequences,)),
    "event-sequences-kernel": Case(
        models.EventSequenceModel, partial(NextEvents, fusion="kernel", head="ranking"), (event_sequences,)
    ),
    "tgat": Case(models.TGAT, lambda: OverEvents(_tgat()), _PAST),
    "tgat-map": Case(models.TGAT, lambda: OverEvents(_tgat(mode="map")), _PAST),
    "temporal-net": Case(
        models.TemporalNet,
        lambda: remembering(models.TemporalNet(POSITIONS, 0, WIDTH, OUT, 2, edge_dim=EDGE_DIM)),
        _PAST,
    ),
    "tgn": Case(models.TGN, lambda: remembering(models.TGN(POSITIONS, WIDTH, edge_dim=EDGE_DIM)), (met, event_attr)),
    "static-net": Case(models.StaticNet, lambda: OverEvents(models.StaticNet(_net(), POSITIONS, WIDTH)), (met,)),
    "event-head": Case(models.EventHead, lambda: OverEvents(models.EventHead(_tgat(), OUT)), (*_PAST, asked)),
    "graph-head": Case(
        models.GraphHead, lambda: models.GraphHead(_net(num_layers=1), OUT, 1), (*GRAPH, batch, num_graphs)
    ),
    "link-head": Case(
        models.LinkHead, lambda: models.LinkHead(_net(num_layers=1), OUT, decoder="mlp"), (*GRAPH, pairs)
    ),
    **{
        f"peer-{conv}": Case(
            models.MessagePassingNet,
            partial(models.MessagePassingNet, conv, WIDTH, WIDTH, OUT),
            GRAPH,
        )
        for conv in ("gcn", "sage", "gat", "gatv2")
    },
    "peer-appnp": Case(models.APPNPNet, partial(models.APPNPNet, WIDTH, WIDTH, OUT, hops=3), GRAPH),
    "peer-gps": Case(models.GPSNet, partial(models.GPSNet, WIDTH, WIDTH, OUT, 1, heads=HEADS), GRAPH),
    "peer-sgformer": Case(
        models.SGFormerNet,
        partial(models.SGFormerNet, WIDTH, WIDTH, OUT),
        (*GRAPH, one_graph),
        dtype=torch.float32,
    ),
    "consistency-loss": Case(models.consistency_loss, lambda: Function(disagreement), (logits,)),
    # Ops
    "edge-attention": Case(
        ops.edge_attention,
        lambda: Function(ops.edge_attention),
        (heads("q", "k", "v"), edges, heads("bias", of_edges=True), edge_attr, edge_proj),
    ),
    "additive-attention": Case(
        ops.additive_attention,
        lambda: Function(ops.additive_attention),
        (heads("q", "k", "v"), vector, edges, heads("bias", of_edges=True), edge_attr, edge_proj),
    ),
    "edge-aggregate": Case(
        ops.edge_aggregate,
        lambda: Function(ops.edge_aggregate),
        (heads("scores", of_edges=True), heads("v"), edges, num_rows),
    ),
    "edge-softmax": Case(
        ops.edge_softmax, lambda: Function(ops.edge_softmax), (heads("scores", of_edges=True), edges, num_rows)
    ),
    "sddmm": Case(ops.sddmm, lambda: Function(ops.sddmm), (heads("q", "k"), edges)),
    "spmm": Case(ops.spmm, lambda: Function(ops.spmm), (heads("weights", of_edges=True), heads("x"), edges, num_rows)),
    "edge-scores": Case(ops.edge_scores, lambda: Function(edge_distance), (heads("q", "k"), edges)),
    # Retrieval
    "expand-query": Case(retrieval.expand_query, lambda: Function(retrieval.expand_query), (heads_of_lists,)),
}

# Runs #################################################################################################################


def floats(tree: Any) -> list[Tensor]:
    """The floating-point tensors of an output."""
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()]


def run(module: nn.Module, inputs: Inputs, forward: AbstractContextManager[Any] | None = None) -> dict[str, Tensor]:
    """Outputs, and the gradients of all floating-point inputs and parameters, by name.

    Args:
        module: What is called.
        inputs: Its inputs.
        forward: A context that the forward pass alone runs in.
    """
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    with forward or nullcontext():
        outputs = floats(module(**{**inputs, **leaves}))
    leaves |= {name.removeprefix("_orig_mod."): p for name, p in module.named_parameters() if p.requires_grad}
    found = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    outputs = [output for output in outputs if output.requires_grad]
    if outputs:
        generator = torch.Generator().manual_seed(3)
        # Small integers, which all dtypes hold.
        cotangents = [torch.randint(-4, 5, y.shape, generator=generator).to(y) for y in outputs]
        grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
        found |= {f"gradient of {name}": g for name, g in zip(leaves, grads, strict=True) if g is not None}
    return found
