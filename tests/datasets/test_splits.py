"""Splits by name, and the random ones."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from graphattn.datasets._splits import RANDOM, parse_split, random_split, split_name

SCHEMES = {"public": 1, "geom-gcn": 10, **RANDOM}


@pytest.mark.parametrize(
    ("split", "expected", "written"),
    [
        (None, ("public", 0), "public"),
        ("public", ("public", 0), "public"),
        (0, ("public", 0), "public"),
        ("geom-gcn:7", ("geom-gcn", 7), "geom-gcn:7"),
        ("random-20", ("random-20", 123), "random-20:123"),
        ("random-20:5", ("random-20", 5), "random-20:5"),
        ("random-60-20-20", ("random-60-20-20", 0), "random-60-20-20:0"),
    ],
)
def test_names_of_splits(split: Any, expected: Any, written: str) -> None:
    assert parse_split("Cora", split, SCHEMES, "public") == expected
    assert split_name(*expected, SCHEMES) == written


@pytest.mark.parametrize("split", ["random", "geom-gcn:10", "public:1", "geom-gcn:-1", "geom-gcn:x", 1, "", -1])
def test_names_that_are_refused(split: Any) -> None:
    known = "Cora has 'public', 'geom-gcn:0' to 'geom-gcn:9', 'random-20:SEED', 'random-60-20-20:SEED'"
    with pytest.raises(ValueError, match=re.escape(f"split is {split!r}; {known}")):
        parse_split("Cora", split, SCHEMES, "public")


@pytest.mark.parametrize("split", [1.0, True, ["public"]])
def test_types_that_are_refused(split: Any) -> None:
    with pytest.raises(TypeError, match="expected the name of a split, its number, or None"):
        parse_split("Cora", split, SCHEMES, "public")


def test_random_20_takes_20_of_each_class() -> None:
    y = torch.randint(3, (2000,))
    y[:100] = -1
    split = random_split("random-20", 1, y)
    assert y[split["train"]].bincount().tolist() == [20, 20, 20]
    assert (len(split["val"]), len(split["test"])) == (500, 1000)
    together = torch.cat(list(split.values()))
    assert len(together.unique()) == 1560
    assert (y[together] >= 0).all()
    again, other = random_split("random-20", 1, y), random_split("random-20", 2, y)
    assert all(torch.equal(split[part], again[part]) for part in split)
    assert not torch.equal(split["test"].sort()[0], other["test"].sort()[0])


def test_random_60_20_20_takes_all_that_is_labelled() -> None:
    y = torch.tensor([0, 1, -1, 0, 1, 0, 1, 0, 1, 0, 1])
    split = random_split("random-60-20-20", 0, y)
    assert [len(split[part]) for part in ("train", "val", "test")] == [6, 2, 2]
    assert sorted(torch.cat(list(split.values())).tolist()) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    targets = torch.tensor([0.5, torch.nan, 1.5, 2.0, 0.0, 1.0])
    for given in (targets, torch.stack([torch.zeros(6), targets], dim=1)):
        found = torch.cat(list(random_split("random-60-20-20", 0, given).values()))
        assert sorted(found.tolist()) == [0, 2, 3, 4, 5]


def test_random_20_needs_enough_nodes() -> None:
    with pytest.raises(ValueError, match="class 1 has only 3 nodes"):
        random_split("random-20", 0, torch.tensor([0] * 30 + [1] * 3))
    with pytest.raises(ValueError, match="needs 1,500 nodes beside 20 of each class; there are 10"):
        random_split("random-20", 0, torch.zeros(30, dtype=torch.long))
    with pytest.raises(ValueError, match="but there are no classes"):
        random_split("random-20", 0, torch.zeros(30))
    with pytest.raises(ValueError, match="but there are no classes"):
        random_split("random-20", 0, torch.zeros(30, 2, dtype=torch.long))
