"""What is captured of PyTorch's and of graph layers: their own weights, exactly, and a model that is left as it was."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv, GPSConv, TransformerConv
from torch_geometric.utils import to_torch_csc_tensor

from graphattn.affinity import DenseAffinity, SparseAffinity
from graphattn.analysis import Capture, LayerAttention, capture, stream_attention
from graphattn.nn import AttentionConv, TemporalAttentionConv
from graphattn.nn.encodings.time import BochnerEncoding
from graphattn.nn.global_attention import SoftmaxAttention

EDGES = torch.tensor([[0, 1, 2, 3, 4, 1, 3], [1, 2, 3, 4, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def hooks(model: nn.Module) -> int:
    """Count the hooks of any kind that a model has."""
    return sum(
        len(value)
        for module in model.modules()
        for name, value in vars(module).items()
        if "hooks" in name and isinstance(value, dict)
    )


def assert_close(result: Tensor, truth: Tensor) -> None:
    """Compare two float64 tensors whose sums have some ten terms."""
    assert result.dtype == truth.dtype == torch.float64
    torch.testing.assert_close(
        result, truth, rtol=0, atol=64 * torch.finfo(torch.float64).eps * truth.abs().max().item()
    )


# torch.nn.MultiheadAttention ##########################################################################################


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 4}])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_multihead_weights_are_its_own_and_gather_its_output(options: dict[str, Any], extra: dict[str, Any]) -> None:
    module = nn.MultiheadAttention(8, 2, dropout=0.5, dtype=torch.float64, **options, **extra).eval()
    shape = (3, 5) if options.get("batch_first") else (5, 3)
    query = torch.randn(*shape, 8, dtype=torch.float64)
    key, value = (torch.randn(*shape, options.get(name, 8), dtype=torch.float64) for name in ("kdim", "vdim"))
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    inputs = {"query": query, "key": key, "value": value, "key_padding_mask": padding, "need_weights": False}
    with torch.no_grad():
        output, weights = module(**inputs | {"need_weights": True, "average_attn_weights": False})
    (layer,) = capture(module.train(), inputs).layers
    assert torch.equal(layer.weights, weights)
    assert torch.equal(layer.mask, ~padding)
    assert layer.cross
    assert layer.heads == 2
    assert layer.num_samples == 3
    joined = layer.head_outputs.transpose(1, 2).flatten(2)
    output = output if options.get("batch_first") else output.transpose(0, 1)
    assert_close(module.out_proj(joined).detach(), output)


def test_query_and_key_weights_make_the_scores_of_multihead_attention() -> None:
    module = nn.MultiheadAttention(8, 2, bias=False, batch_first=True, dtype=torch.float64)
    x = torch.randn(1, 4, 8, dtype=torch.float64)
    (layer,) = capture(module, (x, x, x)).layers
    q, k = ((x[0] @ weight).view(4, 2, 4).transpose(0, 1) for weight in (layer.query_weight, layer.key_weight))
    assert_close(layer.weights[0], (q @ k.transpose(1, 2) / 2).softmax(dim=-1))
    assert not layer.cross


def test_unbatched_input_has_a_batch_of_one() -> None:
    module = nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 8)
    assert capture(module, (x, x, x)).layers[0].weights.shape == (1, 2, 5, 5)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("average", [False, True])
def test_the_caller_of_multihead_attention_gets_what_it_asked_for(need_weights: bool, average: bool) -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            result = self.attention(x, x, x, None, need_weights, average_attn_weights=average)
            self.returned = result[1]
            return result[0]

    model, x = Caller().eval(), torch.randn(2, 5, 8)
    with torch.no_grad():
        model(x)
    before = model.returned
    capture(model, x)
    after = model.returned
    if need_weights:
        torch.testing.assert_close(after, before)
    else:
        assert before is None
        assert after is None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoders_of_pytorch_give_maps_although_their_fast_path_has_none(padded: bool, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first, dtype=torch.float64)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=not norm_first).eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    inputs = {"src": x, "src_key_padding_mask": padding}
    captured = capture(model, inputs)
    assert torch.backends.mha.get_fastpath_enabled()
    assert [layer.name for layer in captured.layers] == [f"layers.{number}.self_attn" for number in range(3)]
    h = x
    for number, layer in enumerate(captured.layers):
        block = model.layers[number]
        with torch.enable_grad():  # keeps torch from its fused kernels
            given = block.norm1(h) if norm_first else h
            _, weights = block.self_attn(given, given, given, padding, average_attn_weights=False)
            h = block(h, src_key_padding_mask=padding)
        torch.testing.assert_close(layer.weights, weights, rtol=0, atol=1e-15)
    maps = captured.maps(sample=1)
    assert (maps.num_layers, maps.num_nodes) == (3, 3 if padded else 5)
    torch.testing.assert_close(
        torch.from_numpy(maps.dense(2)), captured.layers[2].weights[1, :, : maps.num_nodes, : maps.num_nodes]
    )


def test_decoders_tell_cross_attention_apart() -> None:
    model = nn.Transformer(8, 2, 1, 2, 16, batch_first=True)
    causal = nn.Transformer.generate_square_subsequent_mask(4)
    captured = capture(model, {"src": torch.randn(1, 6, 8), "tgt": torch.randn(1, 4, 8), "tgt_mask": causal})
    assert [layer.num_nodes for layer in captured.layers if layer.cross] == [(4, 6), (4, 6)]
    assert captured.maps(prefix="decoder").causal
    assert not captured.maps(prefix="encoder").causal
    with pytest.raises(ValueError, match=r"different nodes \(encoder.layers.0.self_attn 6 x 6, .* prefix="):
        captured.maps()
    with pytest.raises(
        ValueError, match="no layer of self-attention has a name that starts with 'head'; there are: enc"
    ):
        captured.maps(prefix="head")


# Graph layers #########################################################################################################


@pytest.mark.parametrize("cls", [GATConv, GATv2Conv, TransformerConv])
@pytest.mark.parametrize("options", [{}, {"heads": 3}, {"heads": 2, "concat": False}, {"heads": 2, "flow": "reverse"}])
def test_weights_of_pyg_layers_are_their_own(cls: Any, options: dict[str, Any]) -> None:
    options = {name: "target_to_source" if name == "flow" else value for name, value in options.items()}
    module = cls(4, 6, dropout=0.5, **options).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    (layer,) = capture(module, (x, EDGES)).layers
    with torch.no_grad():
        out, (edge_index, weights) = module.eval()(x, EDGES, return_attention_weights=True)
    assert torch.equal(layer.weights, weights)
    assert torch.equal(layer.edge_index, edge_index.flip(0) if "flow" in options else edge_index)
    value = getattr(module, "lin_value", None) or getattr(module, "lin_l", None) or module.lin
    values = value(x).detach().view(5, module.heads, 6)
    gathered = torch.stack([layer.affinity(head=head) @ values[:, head] for head in range(module.heads)], dim=1)
    assert_close(layer.head_outputs, gathered)
    joined = gathered.flatten(1) if module.concat else gathered.mean(dim=1)
    rest = module.lin_skip(x).detach() if cls is TransformerConv else module.bias.detach()
    assert_close(joined + rest, out)


def test_query_and_key_weights_of_a_transformer_conv_make_its_scores() -> None:
    module = TransformerConv(4, 6, heads=2, bias=False).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    (layer,) = capture(module, (x, EDGES)).layers
    q, k = ((x @ weight).view(5, 2, 6) for weight in (layer.query_weight, layer.key_weight))
    scores = (q[EDGES[1]] * k[EDGES[0]]).sum(-1) / 6**0.5
    expected = SparseAffinity(EDGES, scores, (5, 5)).normalize("softmax")
    assert_close(layer.weights, expected.weight)
    assert capture(GATConv(4, 6), (x.float(), EDGES)).layers[0].query_weight is None


def test_bipartite_and_sparse_edges_of_pyg() -> None:
    x, edges = (torch.randn(5, 4), torch.randn(3, 4)), torch.tensor([[0, 4, 2], [1, 1, 0]])
    (layer,) = capture(TransformerConv((4, 4), 6), (x, edges)).layers
    assert layer.num_nodes == (3, 5)
    assert layer.cross
    assert layer.affinity().shape == (3, 5)
    module, square = TransformerConv(4, 6, heads=2), torch.randn(5, 4)
    (listed,) = capture(module, (square, EDGES)).layers
    (sparse,) = capture(module, (square, to_torch_csc_tensor(EDGES, size=(5, 5)).t())).layers
    torch.testing.assert_close(sparse.affinity().to_dense().matrix, listed.affinity().to_dense().matrix)


@pytest.mark.parametrize("score", ["dot", "gat", "gatv2", "cosine"])
@pytest.mark.parametrize("options", [{}, {"hops": 3}, {"add_self_loops": True, "concat": False}, {"edge_dim": 3}])
def test_weights_of_attention_conv_are_its_own(score: str, options: dict[str, Any]) -> None:
    module = AttentionConv(4, 6, heads=2, score=score, dropout=0.5, **options).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    inputs = {"x": x, "edge_index": EDGES}
    if "edge_dim" in options:
        inputs["edge_attr"] = torch.randn(7, 3, dtype=torch.float64)
    with torch.no_grad():
        module.eval()
        _, (edge_index, weights) = module(**inputs, return_attention_weights=True)
        projected = module.score.project(x, x, inputs.get("edge_attr"))
    (fused,) = capture(module, inputs, head_outputs=False).layers
    assert torch.equal(fused.weights, weights)
    assert torch.equal(fused.edge_index, edge_index)
    assert fused.head_outputs is None
    (layer,) = capture(module, inputs).layers
    assert_close(layer.weights, weights)
    values = projected[2][edge_index[0]]
    if "edge_dim" in options and module.score.edge_values:
        values = values + module.score.lift(inputs["edge_attr"]).detach()
    gathered = torch.zeros(5, 2, 6, dtype=torch.float64).index_add_(0, edge_index[1], weights[..., None] * values)
    assert_close(layer.head_outputs, gathered)
    assert (layer.query_weight is not None) == (score in ("dot", "cosine"))


def test_weights_of_temporal_and_softmax_attention_are_their_own() -> None:
    x, batch = torch.randn(5, 8, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 1])
    module = SoftmaxAttention(8, 2).double()
    captured = capture(module, (x, batch))
    with torch.no_grad():
        out, weights = module(x, batch, return_attention_weights=True)
    (layer,) = captured.layers
    assert torch.equal(layer.weights, weights)
    assert captured.maps(0).num_nodes == 2
    assert captured.maps(1).num_nodes == 3
    joined = layer.head_outputs.transpose(1, 2).flatten(2)[torch.tensor([[True, True, False], [True] * 3])]
    assert_close(module.proj(joined).detach(), out)
    times = torch.tensor([60, 3, 9, 1, 2, 8, 5])
    timed = TemporalAttentionConv(8, 6, heads=2, time_encoding=BochnerEncoding(4)).double()
    with torch.no_grad():
        _, (_, alpha) = timed(x, EDGES, times, return_attention_weights=True)
    assert torch.equal(capture(timed, (x, EDGES, times)).layers[0].weights, alpha)


def test_gps_has_edges_and_dense_attention_of_each_graph() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gps = GPSConv(8, GATConv(8, 4, heads=2), heads=2)

        def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
            return self.gps(x, edge_index, batch)

    edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 4]])
    captured = capture(Model(), (torch.randn(5, 8), edges, torch.tensor([0, 0, 1, 1, 1])))
    conv, attention = captured.layers
    assert (conv.name, attention.name) == ("gps.conv", "gps.attn")
    assert attention.weights.shape == (2, 2, 3, 3)
    assert captured.maps(0, prefix="gps.attn").num_nodes == 2
    assert captured.maps(1, prefix="gps.attn").num_nodes == 3
    assert captured.maps(prefix="gps.conv").is_sparse(0)


# What the model keeps #################################################################################################


class Mixed(nn.Module):
    """A model whose modules are in different modes, one of them frozen, that draws random numbers and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.first = TransformerConv(8, 4, heads=2)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.MultiheadAttention(8, 2, batch_first=True)
        self.third = AttentionConv(8, 4, heads=2)
        self.norm.eval()
        self.first.requires_grad_(False)
        self.fails = False

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.norm(self.first(x, edge_index)) + torch.rand(8)
        h = self.second(h[None], h[None], h[None])[0][0]
        if self.fails:
            raise RuntimeError("broken")
        return self.third(h, edge_index)


@pytest.mark.parametrize("end", ["returns", "fails", "callback fails"])
def test_the_model_is_left_as_it_was(end: str) -> None:
    model = Mixed()
    model.fails = end == "fails"
    model.third.register_forward_hook(lambda *arguments: None)
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, flag, count = torch.random.get_rng_state(), torch.backends.mha.get_fastpath_enabled(), hooks(model)

    def callback(layer: LayerAttention) -> None:
        assert not layer.weights.requires_grad
        if end == "callback fails":
            raise RuntimeError("broken")

    if end == "returns":
        stream_attention(model, (torch.randn(5, 8), EDGES), callback)
    else:
        with pytest.raises(RuntimeError, match="broken"):
            stream_attention(model, (torch.randn(5, 8), EDGES), callback)
        random = None
    if random is not None:
        torch.random.set_rng_state(random)
        x = torch.randn(5, 8)
        expected = torch.rand(3)
        torch.random.set_rng_state(random)
        x = torch.randn(5, 8)
        stream_attention(model, (x, EDGES), callback)
        assert torch.equal(torch.rand(3), expected)
    assert hooks(model) == count == 1
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == flag
    assert torch.is_grad_enabled()


def test_what_is_captured_does_not_change_with_the_model() -> None:
    module = nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 1, 8)
    (layer,) = capture(module, (x, x, x)).layers
    before = [tensor.clone() for tensor in (layer.weights, layer.head_outputs, layer.query_weight, layer.key_weight)]
    nn.init.zeros_(module.in_proj_weight)
    after = layer.weights, layer.head_outputs, layer.query_weight, layer.key_weight
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_streaming_keeps_one_layer_at_a_time() -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 8, 32, batch_first=True), 24, enable_nested_tensor=False
    )
    sizes: list[int] = []
    alive: list[int] = []
    earlier: list[weakref.ref[Tensor]] = []

    def callback(layer: LayerAttention) -> None:
        gc.collect()
        alive.append(sum(reference() is not None for reference in earlier))
        earlier.append(weakref.ref(layer.weights))
        size = layer.weights.shape[2:].numel()
        # Maps of earlier layers, the library's own tensors too; the current one, its copy and its factors may be there.
        found = [o for o in gc.get_objects() if isinstance(o, Tensor) and o.dim() >= 3 and o.shape[-2:].numel() == size]
        sizes.append(len(found))

    stream_attention(model, torch.randn(1, 200, 32), callback)
    assert len(alive) == 24
    assert max(alive) <= 1
    assert max(sizes[1:]) <= sizes[0] + 1


# Errors ###############################################################################################################


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(
        ValueError, match="Linear has no attention layer that is known: AttentionConv, SoftmaxAttention"
    ):
        capture(nn.Linear(3, 3), torch.rand(2, 3))
    with pytest.raises(TypeError, match=r"model is a \w+; expected an nn\.Module"):
        capture(torch.relu_, torch.rand(2))  # type: ignore[arg-type]

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ValueError, match="none of the 1 attention layers of Unused was called"):
        capture(Unused(), torch.rand(2, 3))


def test_samples_and_heads_that_do_not_exist() -> None:
    layer = LayerAttention("a", torch.full((2, 3, 4, 4), 0.25), (4, 4))
    with pytest.raises(ValueError, match="sample is 2 but there are 2; pass a number of 0 to 1"):
        layer.affinity(2)
    with pytest.raises(ValueError, match="head is -1 but there are 3"):
        layer.affinity(head=-1)
    with pytest.raises(ValueError, match="sample is 5 but there are 2"):
        Capture((layer,)).maps(5)
    with pytest.raises(ValueError, match="sample is 1 but there are 1"):
        capture(AttentionConv(4, 6), (torch.randn(5, 4), EDGES)).maps(1)
    assert isinstance(layer.affinity(1), DenseAffinity)
    assert torch.equal(layer.affinity(1, head=2).to_dense().matrix, layer.weights[1, 2])


def test_weights_that_do_not_sum_to_one_are_named() -> None:
    module = AttentionConv(4, 6, normalize="sigmoid")
    captured = capture(module, (torch.randn(5, 4), EDGES))
    with pytest.raises(ValueError, match=r"layer 0, head 0: row . sums to .*validate=False"):
        captured.maps()
    torch.testing.assert_close(
        captured.maps(validate=False).dense(0)[0],
        captured.layers[0].affinity(head=0).to_dense().matrix.double().numpy(),
    )


def test_attention_that_is_not_finite_is_named() -> None:
    module = nn.MultiheadAttention(8, 2)
    x = torch.full((5, 1, 8), torch.nan)
    with pytest.raises(ValueError, match="layer 0 has weights that are NaN or infinite"):
        capture(module, (x, x, x)).maps()


def test_attention_that_is_no_weight_per_head_is_refused() -> None:
    class Odd(GATConv):
        def forward(self, x: Tensor, edge_index: Any, return_attention_weights: bool | None = None) -> Any:
            return (x, (edge_index, torch.ones(7, 2, 3))) if return_attention_weights else x

    with pytest.raises(ValueError, match=r"layer  ?has attention \(7, 2, 3\); expected \[E, H\]"):
        capture(Odd(4, 6), (torch.randn(5, 4), EDGES))
