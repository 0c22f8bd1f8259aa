"""The report on attention: what it measures, what it shows, and what broken input does to it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch_geometric.data import Data

from graphattn.analysis import (
    AttentionMaps,
    capture,
    centrality,
    communities,
    faithfulness,
    head_roles,
    pool_roles,
    rollout,
    rollout_rows,
    sinks,
    spectrum,
    symmetry,
)
from graphattn.cli import main
from graphattn.cli._inspect_measures import measure
from graphattn.cli._inspect_sections import SECTIONS
from graphattn.cli._inspect_html import number, text
from graphattn.cli._inspect_svg import heatmap, lines, network
from graphattn.datasets import LinkTask, load
from graphattn.engine import Recipe
from graphattn.models import AttentionNet, GraphHead, LinkHead
from graphattn.training import fit, load_model

SCRIPT = "<script>alert(1)</script>"
TOKENS = [SCRIPT, "b", "a", "b", "a\x00\ud800", '"><img src=x onerror=y>']


class Page(HTMLParser):
    """Read a page: its tags, what it refers to, and the text of each tag."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, f"tags stay open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def safe(page: Page) -> None:
    """Check that a page neither runs nor loads anything."""
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not page.handlers
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source


@pytest.fixture
def report(tmp_path: Path):
    """Run the command; returns the numbers and the page."""

    def run(*words: object) -> tuple[dict[str, Any], Page]:
        out = tmp_path / "out"
        assert main(["inspect", *map(str, words), "--out", str(out)]) == 0
        assert sorted(entry.name for entry in out.iterdir()) == ["report.html", "report.json"]
        assert (out / "report.html").stat().st_size < 3e6
        page = Page(out / "report.html")
        safe(page)

        def refuse(constant: str) -> None:
            raise AssertionError(f"JSON has no {constant}")

        return json.loads((out / "report.json").read_text(encoding="utf-8"), parse_constant=refuse), page

    return run


def random_maps(nodes: int, layers: int = 2, heads: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(nodes, 0.4), size=(layers, heads, nodes))


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, AttentionMaps]:
    path = tmp_path / "maps.npz"
    maps = AttentionMaps.from_arrays(random_maps(6), tokens=["a", "b", "a", "b", "a", "c"])
    maps.save(path)
    return path, maps


def test_numbers_are_those_of_the_measures(report, saved) -> None:
    path, maps = saved
    found = report(path, "--n-samples", 64)[0]["models"][0]
    roles = head_roles(maps, list(maps.tokens))
    assert found["roles"]["labels"] == list(roles.labels())
    for role, scores in roles.scores.items():
        assert_allclose(found["roles"]["scores"][role], scores, rtol=1e-12)
        assert_allclose(found["roles"]["chance"][role], roles.chance[role], rtol=1e-12)
    own = sinks(maps)
    assert_allclose(found["sinks"]["entropy"], [layer.mean(axis=1) for layer in own.entropy], rtol=1e-12)
    assert_allclose(found["sinks"]["first_token_mass"], own.first_token_mass, rtol=1e-12)
    assert found["sinks"]["n_sinks"] == [len(own.found)]
    values = spectrum(maps)
    assert_allclose(found["spectrum"]["effective_rank"], values.effective_rank, rtol=1e-12)
    assert_allclose(found["spectrum"]["stable_rank"], values.stable_rank, rtol=1e-12)
    assert_allclose(found["symmetry"]["maps"], [symmetry(maps.affinity(layer)) for layer in range(2)], rtol=1e-12)
    tokens = found["rollout"]["inputs"][0]["tokens"]
    assert_allclose([each["relevance"] for each in tokens], rollout(maps).relevance[-1].mean(axis=0), rtol=1e-12)
    assert found["structure"]["communities"]["modularity"] == pytest.approx(communities(maps).modularity, rel=1e-12)
    rank = centrality(maps).values["pagerank"]
    assert [each["node"] for each in found["structure"]["centrality"]["nodes"]] == np.argsort(-rank, kind="stable").tolist()
    mean = maps.dense(1).mean(axis=0)
    for edge in found["affinity"]["edges"]:
        assert edge["weight"] == pytest.approx(mean[edge["target"], edge["source"]], rel=1e-12)
    assert found["causal"]["head"] == own.entropy[-1].mean(axis=1).argmin()
    assert found["causal"]["n_samples"] == 64
    assert found["causal"]["n_tests"] > 0


def test_texts_are_escaped(report, tmp_path: Path) -> None:
    tokens = np.array([SCRIPT, "b", "a", "b", "a\x01", '"><img src=x onerror=y>'])
    path = write(tmp_path / f"{'<b>'}.npz", attention=random_maps(6), tokens=tokens)
    page = report(path, "--n-samples", 64)[1]
    assert SCRIPT not in page.source
    assert SCRIPT in page.words
    assert not any("\x01" in words for words in page.words)


def test_text_is_cut_and_escaped() -> None:
    assert text("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"
    assert text("x" * 100) == "x" * 39 + "…"
    assert text("a\x00\nb\ud800") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_pictures_of_degenerate_numbers() -> None:
    assert heatmap([[float("nan"), None], [1.0, 1.0]], "one", 1.0, 1.0).count("<path") == 2
    assert "nothing to draw" in lines({"none": ([0.0], [float("nan")], "red", "")}, "x", "y")
    assert "nan" not in lines({"one": ([0.0], [3.0], "red", "")}, "x", "y")
    assert "nan" not in network({0: "a", 1: "b"}, [(0, 1, float("nan"), "o->")], ring=False)
    assert network({}, [], ring=True).startswith("<svg")


def test_inputs_of_different_lengths(report, tmp_path: Path) -> None:
    path = write(
        tmp_path / "ragged.npz",
        attention_0=random_maps(4),
        attention_1=random_maps(7, seed=1),
        tokens_1=np.array(list("abcabca")),
        attention_2=random_maps(1, seed=2),
    )
    found = report(path)[0]["models"][0]
    assert [each["nodes"] for each in found["inputs"]] == [4, 7, 1]
    pooled = pool_roles(
        [
            head_roles(AttentionMaps.from_arrays(random_maps(4)), range(4)),
            head_roles(AttentionMaps.from_arrays(random_maps(7, seed=1)), list("abcabca")),
        ]
    )
    assert_allclose(found["roles"]["scores"]["induction"], pooled.scores["induction"], rtol=1e-12)
    assert "--n-samples" in found["causal"]["missing"]


def test_a_padded_batch(report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attention = np.zeros((3, 1, 2, 5, 5))
    mask = np.zeros((3, 5), dtype=bool)
    for number, size in enumerate((5, 0, 3)):
        mask[number, :size] = True
        if size:
            attention[number, :, :, :size, :size] = random_maps(size, 1, 2, seed=number)
    path = write(tmp_path / "batch.npz", attention=attention, mask=mask)
    found = report(path)[0]["models"][0]
    assert [each["nodes"] for each in found["inputs"]] == [5, 3]
    assert "input 1 has no tokens and is left out" in capsys.readouterr().err
    assert_allclose(
        [each["relevance"] for each in found["rollout"]["inputs"][1]["tokens"]],
        rollout(AttentionMaps.from_arrays(random_maps(3, 1, 2, seed=2))).relevance[-1].mean(axis=0),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"attention": np.full((1, 1, 3, 3), np.nan)}, "input 0: layer 0 has weights that are NaN or infinite"),
        ({"attention": np.ones((1, 1, 3, 3))}, "--unnormalized reads rows that do not sum to 1"),
        ({"attention": np.zeros((1, 1, 0, 0))}, "no tokens are left of 0"),
        ({"attention": np.zeros((0, 1, 3, 3))}, "layers holds no layer"),
        ({"attention": np.eye(3)[None, None], "mask": np.zeros(3)}, "expected at least one input with one"),
        ({"attention": np.zeros((2, 1, 1, 3, 3)), "mask": np.ones((2, 4))}, "mask has shape (2, 4); expected (2, 3)"),
        ({"attention": np.eye(3)[None, None], "tokens": np.array(["a"])}, "tokens names 1 tokens but the maps have 3"),
        ({"other": np.eye(3)}, "expected an array 'attention'"),
        ({"attention": np.array([[1], [2, 3]], dtype=object)}, "is no .npz file of arrays"),
    ],
)
def test_broken_maps(arrays, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "broken.npz", **arrays)
    assert main(["inspect", str(path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_that_do_not_sum_to_one(report, tmp_path: Path) -> None:
    path = write(tmp_path / "raw.npz", attention=np.random.default_rng(0).normal(size=(2, 2, 4, 4)))
    found, page = report(path, "--unnormalized")
    model = found["models"][0]
    assert "negative weights" in model["sinks"]["missing"]
    assert "negative weights" in model["rollout"]["inputs"][0]["missing"]
    assert len(model["spectrum"]["stable_rank"]) == 2
    assert any("Not measured" in words for words in page.words)


def test_a_large_graph_is_summarized(report, tmp_path: Path) -> None:
    nodes, rng = 10_000, np.random.default_rng(0)
    target = np.repeat(np.arange(nodes), 5)
    source = rng.integers(nodes, size=target.size)
    weights = rng.random((target.size, 2))
    total = np.stack([np.bincount(target, head, minlength=nodes) for head in weights.T], axis=1)
    maps = AttentionMaps.from_arrays([(np.stack([source, target]), weights / total[target])] * 2, num_nodes=nodes)
    path = tmp_path / "large.npz"
    maps.save(path)
    found = report(path, "--n-samples", 64, "--node", 17)[0]["models"][0]
    assert found["inputs"][0]["edges"] == target.size
    assert found["inputs"][0]["degree"]["mean"] == 5
    assert "order of tokens" in found["roles"]["missing"]
    assert found["spectrum"]["truncated"]
    assert "edges" in found["structure"]["communities"]["missing"]
    assert "10000 nodes" in found["causal"]["missing"]
    drawn = [each["node"] for each in found["affinity"]["nodes"]]
    assert 17 in drawn
    assert len(drawn) <= 40
    detail = found["rollout"]["inputs"][0]
    assert len(detail["tokens"]) == 128
    relevance = rollout_rows(maps, [17]).relevance[0, 0]
    for each in detail["tokens"]:
        assert each["relevance"] == pytest.approx(relevance[each["node"]], rel=1e-12)
    assert "no model to ask" in detail["faithfulness"]["missing"]


def test_two_side_by_side(report, saved, tmp_path: Path) -> None:
    path, maps = saved
    other = write(tmp_path / "other.npz", attention=random_maps(6, 3, 2, seed=5))
    found, page = report("--compare", path, other)
    assert [model["layers"] for model in found["models"]] == [2, 3]
    assert_allclose(found["models"][0]["spectrum"]["stable_rank"], spectrum(maps).stable_rank, rtol=1e-12)
    assert "Side by side" in page.words
    assert {"maps.npz", "other.npz"} <= set(page.words)
    assert page.source.count('<div class="pair">') == len(SECTIONS)
    same = report("--compare", path, path)[0]["models"]
    assert [model["name"] for model in same] == [str(path), str(path)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one MODEL, or --compare with two"),
        (["missing.npz"], "missing.npz is not there"),
        (["{maps}", "--compare", "{maps}", "{maps}"], "expected one MODEL"),
        (["{maps}", "--node", "6"], "--node is 6 but input 0 has 6 nodes"),
        (["{maps}", "--max-inputs", "0"], "--max-inputs is 0; expected at least 1"),
        (["{maps}", "--data", "karate"], "--data has no meaning"),
        (["{maps}", "--text", "one two"], "2 names were given but the maps have 6 nodes"),
        (["{maps}", "--texts", "{empty}"], "holds no text"),
        (["{empty}", "--data", "karate"], "cannot be used"),
        (["{folder}"], "needs texts; pass --text or --texts"),
        (["{maps}", "--out", "{empty}"], "cannot be made"),
    ],
)
def test_mistakes_are_named(words, message, saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_text("\n")
    places = {"maps": saved[0], "empty": tmp_path / "empty", "folder": tmp_path}
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert main(["inspect", *(word.format(**places) for word in words), *out]) == 2
    assert message in capsys.readouterr().err


# Networks of this library #############################################################################################


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    task = load("karate")
    net = AttentionNet(task.num_features, 8, task.out_channels)
    fit(net, task, Recipe(epochs=3, batch_size=None, lr=0.02), out=folder, progress=False)
    return folder / "seed-0.pt"


def test_a_network_on_a_graph(report, trained: Path) -> None:
    found = report(trained, "--data", "karate", "--node", 3)[0]["models"][0]
    task, model = load("karate"), load_model(trained)
    captured = capture(model, {"x": task.data.x, "edge_index": task.data.edge_index})
    maps = captured.maps()
    assert found["layers"] == maps.num_layers
    relevance = rollout_rows(maps, [3]).relevance[0, 0]
    detail = found["rollout"]["inputs"][0]
    assert_allclose([each["relevance"] for each in detail["tokens"]], relevance, rtol=1e-6, atol=1e-9)
    check = detail["faithfulness"]
    assert 3 not in check["maskable"]
    with torch.no_grad():
        probability = model(task.data.x, task.data.edge_index)[3].softmax(0)
    assert check["deletion"][0] == pytest.approx(float(probability.max()), rel=1e-5)
    alone = [node for node in range(34) if node not in check["maskable"]]
    kept = task.data.subgraph(torch.tensor(alone))
    with torch.no_grad():
        left = model(kept.x, kept.edge_index)[alone.index(3)].softmax(0)
    assert check["deletion"][-1] == pytest.approx(float(left[probability.argmax()]), rel=1e-5)
    assert [len(values) for values in found["control"]["correlation"].values()] == [3, 3, 3]


def test_a_network_on_several_graphs(report, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graphs = [
        Data(
            x=torch.randn(size, 3),
            edge_index=torch.stack([torch.arange(size), (torch.arange(size) + 1) % size]),
            y=torch.tensor([size % 2]),
        )
        for size in (*range(4, 22), 1)
    ]
    torch.save(graphs, tmp_path / "graphs.pt")
    task = load(f"local:{tmp_path / 'graphs.pt'}", split="random-60-20-20:0")
    net = GraphHead(AttentionNet(3, 8, 8), 8, 2)
    fit(net, task, Recipe(epochs=1, batch_size=4, lr=0.02), out=tmp_path / "run", progress=False)
    found = report(tmp_path / "run" / "seed-0.pt", "--data", f"local:{tmp_path / 'graphs.pt'}", "--max-inputs", 19)[0][
        "models"
    ][0]
    assert [each["nodes"] for each in found["inputs"]] == [len(graph.x) for graph in graphs]
    assert found["example"] == 16
    model = load_model(tmp_path / "run" / "seed-0.pt")
    graph = graphs[0]
    with torch.no_grad():
        out = model(x=graph.x, edge_index=graph.edge_index, batch=torch.zeros(4, dtype=torch.long), num_graphs=1)
    check = found["rollout"]["inputs"][0]["faithfulness"]
    assert check["deletion"][0] == pytest.approx(float(out[0].softmax(0).max()), rel=1e-5)
    assert 0 not in check["maskable"]
    assert "curves need at least 2" in found["rollout"]["inputs"][18]["faithfulness"]["missing"]


def test_a_network_that_scores_pairs(report, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ring = torch.arange(30)
    edges = torch.cat([torch.stack([ring, (ring + step) % 30]) for step in (1, 2, 3)], dim=1)
    data = Data(x=torch.randn(30, 3), edge_index=torch.cat([edges, edges.flip(0)], dim=1))
    torch.save(data, tmp_path / "graph.pt")
    where = f"local:{tmp_path / 'graph.pt'}"
    held = torch.stack([ring, (ring + 5) % 30])
    task = LinkTask(
        name="ring",
        data=data,
        split={"train": data.edge_index, "val": held[:, :6], "test": held[:, 6:12]},
        negatives={"val": torch.tensor([[0, 1], [18, 19]]), "test": torch.tensor([[2, 3], [20, 22]])},
        split_name="own",
        metric="roc_auc",
        licence="none",
    )
    net = LinkHead(AttentionNet(3, 8, 8), 8)
    fit(net, task, Recipe(epochs=1, batch_size=16, lr=0.02), out=tmp_path / "run", progress=False)
    path = tmp_path / "run" / "seed-0.pt"
    found = report(path, "--data", where, "--node", 4)[0]["models"][0]
    check = found["rollout"]["inputs"][0]["faithfulness"]
    model = load_model(path)
    with torch.no_grad():
        scores = {
            j: abs(float(model(x=data.x, edge_index=data.edge_index, pairs=torch.tensor([[4], [j]]))[0]))
            for j in (1, 2, 3, 5, 6, 7)
        }
    partner = next(node for node in scores if node not in check["maskable"])
    assert 4 not in check["maskable"]
    assert check["deletion"][0] == pytest.approx(scores[partner], rel=1e-4)


def test_the_check_can_be_left_out(report, trained: Path) -> None:
    found = report(trained, "--data", "karate", "--no-check")[0]["models"][0]
    assert "--no-check" in found["rollout"]["inputs"][0]["faithfulness"]["missing"]
    assert "--no-check" in found["control"]["missing"]


# Hugging Face #########################################################################################################


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "<", ">", "script", "/"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_an_encoder_on_texts(report, bert: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c a b\n\n<script> d e f\n")
    found = report(bert, "--texts", texts, "--text", "")[0]["models"][0]
    assert [each["nodes"] for each in found["inputs"]] == [2, 7, 8]
    assert [each["token"] for each in found["rollout"]["inputs"][1]["tokens"]] == ["[CLS]", *"abcab", "[SEP]"]
    check = found["rollout"]["inputs"][1]["faithfulness"]
    assert check["maskable"] == [1, 2, 3, 4, 5]
    assert check["deletion"][0] == pytest.approx(1.0, abs=1e-5)
    assert "curves need at least 2" in found["rollout"]["inputs"][0]["faithfulness"]["missing"]
    assert found["rollout"]["checked"]["inputs"] == 2
    both = [detail["faithfulness"]["deletion_p"] for detail in found["rollout"]["inputs"][1:]]
    assert found["rollout"]["checked"]["deletion_p"] == pytest.approx(np.mean(both))
    assert len(found["symmetry"]["query_key"]) == 2
    assert found["causal"]["n_samples"] == 16
    assert "scores" in found["roles"]["probe"]


@pytest.mark.parametrize(("name", "target"), [("BertForSequenceClassification", 0), ("GPT2LMHeadModel", 5)])
def test_what_other_models_say(report, bert: Path, name: str, target: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    if name == "GPT2LMHeadModel":
        config = transformers.GPT2Config(vocab_size=19, n_positions=40, n_embd=8, n_layer=2, n_head=2)
    else:
        config = transformers.BertConfig.from_pretrained(bert)
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(tmp_path / "model")
    transformers.BertTokenizer(str(bert / "vocab.txt")).save_pretrained(tmp_path / "model")
    found = report(tmp_path / "model", "--text", "a b a b")[0]["models"][0]
    assert found["causal_mask"] == (name == "GPT2LMHeadModel")
    detail = found["rollout"]["inputs"][0]
    assert detail["target"] == target
    assert detail["faithfulness"]["maskable"] == [1, 2, 3, 4]
    ids = torch.tensor([[2, 5, 6, 5, 6, 3]])
    with torch.no_grad():
        logits = model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits
        without = model(
            input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=torch.tensor([[1, 0, 0, 0, 0, 1]])
        ).logits
    whole, rest = (each.reshape(-1, each.size(-1))[-1].softmax(0) for each in (logits, without))
    assert detail["faithfulness"]["deletion"][0] == pytest.approx(float(whole.max()), rel=1e-5)
    assert detail["faithfulness"]["deletion"][-1] == pytest.approx(float(rest[whole.argmax()]), rel=1e-5)


def test_what_an_encoder_says_without_tokens(bert: Path) -> None:
    from graphattn.cli._inspect_transformer import read_transformer

    subject = read_transformer(bert, ["a b c d"], 128, torch.device("cpu"), torch.Generator().manual_seed(0))
    sample = subject.samples[0]
    model = subject.model
    assert isinstance(model, nn.Module)
    kept = torch.tensor([[True, True, True, True], [True, False, True, False]])
    ids = torch.tensor([sample.ids])
    with torch.no_grad():
        whole = model(input_ids=ids).last_hidden_state[0].mean(0)
        mask = torch.tensor([[1, 1, 0, 1, 0, 1]])
        part = model(input_ids=ids, attention_mask=mask).last_hidden_state[0][mask[0].bool()].mean(0)
    expected = [1.0, float(nn.functional.cosine_similarity(whole, part, dim=0))]
    assert sample.score is not None
    assert_allclose(sample.score(kept), expected, atol=1e-5)
    found = measure(subject, None, 0, check=True)["rollout"]["inputs"][0]
    curves = faithfulness(
        sample.score,
        rollout(sample.maps).relevance[-1].mean(axis=0)[sample.maskable],
        steps=10,
        samples=10,
        generator=torch.Generator().manual_seed(0),
    )
    assert_allclose(found["faithfulness"]["deletion"], curves.deletion, rtol=1e-6)
    assert found["faithfulness"]["insertion_p"] == curves.insertion_p
