"""The report on Hugging Face models: encoders, classifiers and decoders, and what they say without some tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from graphattn import _optional
from graphattn.analysis import faithfulness, rollout
from graphattn.cli import main
from graphattn.cli._inspect_measures import measure
from graphattn.cli._inspect_transformer import read_transformer


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


def test_the_extra_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    _optional._attempt.cache_clear()
    status = main(["inspect", str(bert), "--text", "a b"])
    _optional._attempt.cache_clear()
    assert status == 2
    assert "pip install 'graphattn[inspect]'" in capsys.readouterr().err
