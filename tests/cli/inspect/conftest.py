"""Fixtures of the report: how it is run, and the models and maps that it is run on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graphattn.analysis import AttentionMaps
from graphattn.cli import main
from graphattn.datasets import load
from graphattn.engine import Recipe
from graphattn.models import AttentionNet
from graphattn.training import fit
from tests.cli.inspect.pages import Page, random_maps, safe


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Page]]:
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


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, AttentionMaps]:
    path = tmp_path / "maps.npz"
    maps = AttentionMaps.from_arrays(random_maps(6), tokens=["a", "b", "a", "b", "a", "c"])
    maps.save(path)
    return path, maps


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    task = load("karate")
    net = AttentionNet(task.num_features, 8, task.out_channels)
    fit(net, task, Recipe(epochs=3, batch_size=None, lr=0.02), out=folder, progress=False)
    return folder / "seed-0.pt"


@pytest.fixture(scope="session")
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
