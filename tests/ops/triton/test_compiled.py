"""Every kernel that ``auto`` may launch, compiled ahead of time: no spills, a budget of registers, wide loads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from graphattn.ops.triton.launch import BLOCK_CHANNELS, registers, tile
from graphattn.ops.triton.support import MAX_CHANNELS

pytest.importorskip("triton", reason="triton is not installed")

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def _script() -> ModuleType:
    """The benchmark that compiles the kernels and writes their table."""
    spec = importlib.util.spec_from_file_location("triton_kernel_table", BENCHMARKS / "triton_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = _script()

MAX_SHARED = 1024  # what sm_90 sets aside for itself
# One of each kernel for the everyday run, those that need the most registers; the whole list is marked slow.
EVERYDAY = [
    ("forward", torch.float32, 128),
    ("forward", torch.float16, 64),
    ("backward_rows", torch.float32, 128),
    ("backward_columns", torch.float32, 128),
    ("backward_edges", torch.float32, 256),
    ("backward_pairs", torch.float32, 256),
    ("products", torch.bfloat16, 64),
    ("combine", torch.float16, 64),
]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def _marked(variant: tuple[str, torch.dtype, int], target: int) -> Any:
    everyday = variant in EVERYDAY and target == 90
    name, dtype, width = variant
    marks = [] if everyday else [pytest.mark.slow]
    return pytest.param(variant, target, id=f"{name}-{table.TYPES[dtype]}-{width}-sm_{target}", marks=marks)


def _assert_in_budget(variant: tuple[str, torch.dtype, int], found: dict[str, Any]) -> None:
    assert found["spilled"] == 0, "registers are spilled to local memory"
    name, _, width = variant
    assert found["registers"] <= registers(name, width)
    assert found["shared"] <= MAX_SHARED
    assert found["loads_of_16_bytes"] >= table.expected_loads(variant)


@pytest.mark.parametrize(
    ("variant", "target"), [_marked(variant, target) for target in table.TARGETS for variant in table.VARIANTS]
)
def test_kernels_neither_spill_nor_load_piecemeal(variant: tuple[str, torch.dtype, int], target: int) -> None:
    compiled = table.compile_kernel(variant, target)
    _assert_in_budget(variant, table.resources(compiled))
    assert "atom." not in compiled["ptx"]
    assert "red.global" not in compiled["ptx"]


def test_the_committed_table_lists_every_kernel_within_budget() -> None:
    """The table of all variants and targets; a changed block size or a new kernel makes it out of date."""
    kernels = json.loads((BENCHMARKS / "results" / "triton_kernels.json").read_text())["kernels"]
    listed = {(k["kernel"], k["dtype"], k["BLOCK_C"], k.get("BLOCK_E"), k["target"]): k for k in kernels}
    expected = {}
    for variant in table.VARIANTS:
        name, dtype, width = variant
        shape = tile(name, width)
        for target in table.TARGETS:
            key = name, table.TYPES[dtype], shape["BLOCK_C"], shape.get("BLOCK_E"), f"sm_{target}"
            expected[key] = variant
    assert set(listed) == set(expected)
    for key, variant in expected.items():
        _assert_in_budget(variant, listed[key])


def test_there_are_few_kernels() -> None:
    """Five passes by at most seven widths, two that take any, three dtypes: each but the widest of two passes."""
    assert len(table.VARIANTS) == 105


@pytest.mark.parametrize("name", [*table.PER_WIDTH, *table.CHUNKED])
def test_no_value_of_an_argument_makes_a_new_kernel(name: str) -> None:
    """Only dtypes and block sizes do: every count is listed as such, every other argument an array or a float."""
    arrays = {"part", "vector", "grad_vector", "out", *table.FEATURES}
    arrays |= {"edge_query", "edge_sums", "grad_edge_query", "grad_edge_sums", "grad_pairs"}
    for parameter in getattr(table.kernels, name).params:
        known = (
            parameter.is_constexpr
            or parameter.do_not_specialize
            or parameter.do_not_specialize_on_alignment
            or parameter.name in table.NUMBERS
            or parameter.name in arrays
            or parameter.name.startswith("part_")
        )
        assert known, f"{name} takes {parameter.name}"


def test_every_width_has_a_block() -> None:
    for name, widths in table.PER_WIDTH.items():
        # Twice as many with edge features beyond the channels.
        most = MAX_CHANNELS * (1 if name in ("backward_columns", "backward_pairs") else 2)
        assert widths[-1] == most
        for channels in range(1, most + 1):
            block = tile(name, channels)
            assert block["BLOCK_C"] >= channels
            assert block["BLOCK_C"] in BLOCK_CHANNELS
            assert block["BLOCK_E"] >= 1
