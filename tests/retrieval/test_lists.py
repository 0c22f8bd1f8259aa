"""Ranked lists and the TREC run they are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphattn.retrieval import RankedLists


def lists(scores: list[list[float]], indices: list[list[int]] | None = None) -> RankedLists:
    values = torch.tensor(scores)
    order = torch.arange(values.size(1)).expand(values.shape)
    return RankedLists(order if indices is None else torch.tensor(indices), values, order)


def test_arrays_of_everything() -> None:
    ranked = lists([[1.0, 0.5]])
    ranked.diagnostics.update(kept=torch.tensor([True]), method="x")
    arrays = ranked.numpy()
    assert all(isinstance(x, np.ndarray) for x in (arrays.indices, arrays.scores, arrays.order))
    assert arrays.diagnostics["kept"].tolist() == [True]
    assert arrays.diagnostics["method"] == "x"
    assert arrays.indices.dtype == np.int64
    assert len(arrays) == 1
    assert repr(arrays) == "RankedLists(1 x 2)"


def read(path: Path) -> list[list[Any]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_run_has_six_fields_and_ranks_from_1(tmp_path: Path) -> None:
    ranked = lists([[0.75, 0.25, -1.0], [2.0, 1.0, -torch.inf]], [[5, 3, 4], [0, 1, -1]])
    ranked.to_trec(tmp_path / "run", query_ids=["q1", "q2"], doc_ids=[f"d{i}" for i in range(6)], tag="mine")
    assert read(tmp_path / "run") == [
        ["q1", "Q0", "d5", "1", "0.75", "mine"],
        ["q1", "Q0", "d3", "2", "0.25", "mine"],
        ["q1", "Q0", "d4", "3", "-1.0", "mine"],
        ["q2", "Q0", "d0", "1", "2.0", "mine"],
        ["q2", "Q0", "d1", "2", "1.0", "mine"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-38, 3e38, 1 / 3])
def test_run_scores_decrease_strictly_in_float32(tmp_path: Path, value: float) -> None:
    """Ties, and ties after ties have been moved, whatever the size of the scores."""
    step = float(np.nextafter(np.float32(value), np.float32(-np.inf)))
    ranked = lists([[value, value, value, step, step, -torch.inf, -torch.inf]])
    ranked.to_trec(tmp_path / "run")
    scores = np.array([line[4] for line in read(tmp_path / "run")]).astype(np.float32)
    assert (scores[1:] < scores[:-1]).all()
    assert np.isfinite(scores).all()
    assert scores[0] == np.float32(value)
    assert (np.abs(scores[:5] - np.float32(value)) <= 8 * np.spacing(np.abs(np.float32(value)))).all()


def test_run_of_many_levels_reads_back_exactly(tmp_path: Path) -> None:
    values = torch.randn(3, 50).sort(dim=1, descending=True).values
    lists(values.tolist()).to_trec(tmp_path / "run")
    scores = np.array([line[4] for line in read(tmp_path / "run")]).astype(np.float32)
    assert np.array_equal(scores, values.flatten().numpy())


@pytest.mark.parametrize("name", ["", "two words", "tab\t", "line\n"])
def test_names_with_white_space_are_refused(tmp_path: Path, name: str) -> None:
    ranked = lists([[1.0]])
    for options, argument in (
        ({"query_ids": [name]}, "query_ids"),
        ({"doc_ids": [name]}, "doc_ids"),
        ({"tag": name}, "tag"),
    ):
        with pytest.raises(ValueError, match=f"{argument} contains .*; expected names without white space"):
            ranked.to_trec(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("old")
    with pytest.raises(ValueError, match="doc_ids contains"):
        lists([[1.0, 0.5]]).to_trec(tmp_path / "run", doc_ids=["a", "b c"])
    assert (tmp_path / "run").read_text() == "old"


def test_query_ids_of_another_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="query_ids has length 2; expected 1"):
        lists([[1.0]]).to_trec(tmp_path / "run", query_ids=["a", "b"])
