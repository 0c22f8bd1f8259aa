"""The sections of the report against their definitions: similarity, flow, influence, flow between parts, the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from graphattn.analysis import AttentionMaps, capture
from graphattn.cli import main
from graphattn.cli._inspect_sections import control, flow
from graphattn.cli._inspect_transformer import read_transformer
from tests.cli.inspect.pages import random_maps, write


def attention_of(bert: Path, text: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return attention and head outputs of each layer, for a text or a pair of texts with a tab between them."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModel.from_pretrained(bert, attn_implementation="eager")
    batch = transformers.AutoTokenizer.from_pretrained(bert)(*text.split("\t"), return_tensors="pt")
    values = []
    for layer in model.encoder.layer:
        layer.attention.self.value.register_forward_hook(lambda *call: values.append(call[2][0].detach().double()))
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions
    weights = [each[0].double() for each in weights]
    gathered = [A @ v.unflatten(1, (2, -1)).movedim(1, 0) for A, v in zip(weights, values, strict=True)]
    return [each.numpy() for each in weights], [each.numpy() for each in gathered]


def test_similarity_of_head_outputs(report, bert: Path) -> None:
    texts = ["a b a b . c", "d e f"]
    found = report(bert, "--text", texts[0], "--text", texts[1], "--no-check")[0]["models"][0]["similarity"]
    assert found["inputs"] == 2
    cosines, equal, distances = [], [], []
    for text in texts:
        names = ["[CLS]", *text.replace(".", "[UNK]").split(), "[SEP]"]
        first, second = np.triu_indices(len(names), 1)
        for outputs in attention_of(bert, text)[1]:
            for vectors in outputs:
                unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
                cosines.append((unit @ unit.T)[first, second].mean())
                S = (vectors @ vectors.T)[first, second]
                top = np.quantile(S, 0.95) <= S
                distances.append((second - first)[top].mean())
                equal.append(np.mean([names[i] == names[j] for i, j in zip(first[top], second[top], strict=True)]))
    for name, values, rtol in (
        ("mean_cosine", cosines, 1e-4),
        ("same_token", equal, 0),
        ("mean_distance", distances, 0),
    ):
        assert_allclose(found[name], np.mean(np.reshape(values, (2, 2, 2)), axis=0), rtol=rtol)


def test_similarity_on_graphs_is_of_all_nodes(report, trained: Path) -> None:
    found = report(trained, "--data", "karate", "--no-check")[0]["models"][0]["similarity"]
    assert sorted(found) == ["inputs", "mean_cosine"]
    assert (np.abs(found["mean_cosine"]) <= 1).all()


def test_saved_maps_have_no_outputs(report, tmp_path: Path) -> None:
    found = report(write(tmp_path / "maps.npz", attention=random_maps(4)))[0]["models"][0]
    assert "what heads gather is known of models" in found["similarity"]["missing"]


def test_flow_is_the_maximum_flow(report, tmp_path: Path) -> None:
    attention = random_maps(5)
    found = report(write(tmp_path / "maps.npz", attention=attention), "--node", 2)[0]["models"][0]["flow"]
    graph = nx.DiGraph()
    for layer, heads in enumerate(attention):
        A = (heads.mean(axis=0) + np.eye(5)) / 2
        for i, j in np.ndindex(5, 5):
            graph.add_edge((layer + 1, i), (layer, j), capacity=A[i, j])
    values = np.array([nx.maximum_flow_value(graph, (2, 2), (0, j)) for j in range(5)])
    tokens = found["inputs"][0]["tokens"]
    # Capacities are rounded to 2^-20, and at most 10 edges are in a cut.
    assert_allclose([each["relevance"] for each in tokens], values / values.sum(), atol=10 * 2.0**-20)


def test_flow_of_some_targets_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = AttentionMaps.from_arrays(random_maps(9))
    work = 9 * 2 * 9**2  # of one target
    monkeypatch.setattr(flow, "_WORK", 3 * work)
    expected = np.mean([flow.flow_of(maps, target) for target in (0, 4, 8)], axis=0)
    assert_allclose(flow.flow_of(maps, None), expected, rtol=1e-12)
    monkeypatch.setattr(flow, "_WORK", work - 1)
    with pytest.raises(ValueError, match="flow over 9 nodes and 162 edges would take too long"):
        flow.flow_of(maps, None)


def test_influence_is_the_resolvent(report, tmp_path: Path) -> None:
    attention = random_maps(6)
    found = report(write(tmp_path / "maps.npz", attention=attention))[0]["models"][0]["influence"]
    c = found["decay"]
    resolvents = [(1 - c) * np.linalg.inv(np.eye(6) - c * heads.mean(axis=0)) for heads in attention]
    assert_allclose(found["reach"]["values"], [M.mean(axis=0) for M in resolvents], atol=1e-9)
    relevance = [each["relevance"] for each in found["inputs"][0]["tokens"]]
    assert_allclose(relevance, (resolvents[1] @ resolvents[0]).mean(axis=0), atol=1e-9)


def test_flow_between_the_texts_of_a_pair(report, bert: Path) -> None:
    found, page = report(bert, "--text", "a b\tc d e", "--text", "f g", "--no-check")
    found = found["models"][0]["modality"]
    assert found["groups"] == ["first text", "second text", "special"]
    assert found["sizes"] == [2, 3, 3]
    assert found["inputs"] == 1
    names = np.array(["special", *["first text"] * 2, "special", *["second text"] * 3, "special"])
    heads = np.concatenate(attention_of(bert, "a b\tc d e")[0])
    mass = [
        [
            [A[np.ix_(names == g, names == h)].sum() / (names == g).sum() for h in found["groups"]]
            for g in found["groups"]
        ]
        for A in heads
    ]
    assert_allclose(found["mass"], np.mean(mass, axis=0), rtol=1e-5)
    other = [np.where(names[:, None] != names, A, 0).sum() / len(names) for A in heads]
    assert_allclose(np.ravel(found["total"]), other, rtol=1e-5)
    assert "a b | c d e" in page.words


def test_parts_of_saved_maps(report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attention = np.zeros((1, 1, 4, 4))
    attention[..., :3, :3] = [[1, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5]]
    parts = np.array(["image", "image", "words", "padding"])
    path = write(tmp_path / "maps.npz", attention=attention, mask=np.array([1, 1, 1, 0]), parts=parts)
    found = report(path)[0]["models"][0]["modality"]
    assert found["groups"] == ["image", "words"]
    assert found["mass"] == [[1.0, 0.0], [0.5, 0.5]]
    path = write(tmp_path / "short.npz", attention=attention[..., :3, :3], parts=parts[:2])
    assert main(["inspect", str(path), "--out", str(tmp_path / "none")]) == 2
    assert "parts has shape (2,); expected one for each of 3 nodes" in capsys.readouterr().err


def test_an_input_without_parts(report, bert: Path) -> None:
    found = report(bert, "--text", "a b", "--no-check")[0]["models"][0]
    assert "no input has parts" in found["modality"]["missing"]


def test_an_attribution_that_ignores_the_weights_is_found_out(
    report, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_place(maps: AttentionMaps, target: int | None) -> np.ndarray:
        return np.arange(maps.num_nodes, dtype=np.float64)

    monkeypatch.setitem(control._ATTRIBUTIONS, "flow", by_place)
    found = report(trained, "--data", "karate", "--node", 3)[0]["models"][0]["control"]
    assert_allclose(found["correlation"]["flow"], 1.0, rtol=1e-12)
    assert (np.array(found["correlation"]["rollout"]) < 1).all()


def test_the_causal_graph_is_put_to_the_test(report, bert: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig.from_pretrained(bert)).eval()
    model.save_pretrained(tmp_path / "model")
    transformers.BertTokenizer(str(bert / "vocab.txt")).save_pretrained(tmp_path / "model")
    # So many samples that every pair stays adjacent.
    found = report(tmp_path / "model", "--text", "a b c d", "--n-samples", 10**9)[0]["models"][0]["causal"]
    masking = found["masking"]
    assert masking["nodes"] == [1, 2, 3, 4]
    ids = torch.tensor([[2, 5, 6, 7, 8, 3]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits.softmax(-1)[0]
        rest = model(input_ids=ids, attention_mask=torch.tensor([[1, 0, 0, 0, 0, 1]])).logits.softmax(-1)[0]
    best = int(whole.argmax())
    assert masking["drop"] == pytest.approx(float(whole[best] - rest[best]), abs=1e-5)


def test_outputs_are_kept_of_the_first_inputs_alone(bert: Path) -> None:
    texts = ["a b"] * 7
    subject = read_transformer(bert, texts, 128, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert [sample.outputs is not None for sample in subject.samples] == [True] * 5 + [False] * 2
    outputs: Any = subject.samples[0].outputs
    assert_allclose(outputs[1], attention_of(bert, "a b")[1][1], atol=1e-6)


def test_networks_of_events_can_be_captured() -> None:
    from torch_geometric.data import TemporalData

    from graphattn.models import TGAT
    from graphattn.training import TemporalSampler

    met = torch.tensor([10, 20, 30])
    events = TemporalData(src=torch.tensor([0, 1, 0]), dst=torch.tensor([1, 2, 2]), t=met)
    past = TemporalSampler(events, [10, 10]).sample(torch.tensor([0, 2]), torch.tensor([35, 35]))
    captured = capture(TGAT(0, 8, 4, num_layers=2), (past,))
    assert [layer.cross for layer in captured.layers] == [True, True]
