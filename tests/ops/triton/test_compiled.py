"""Every kernel that ``auto`` may launch, compiled ahead of time: no spills, a budget of registers, wide loads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from graphattn.ops.triton import BLOCK_CHANNELS, DTYPES, MAX_CHANNELS, NUM_WARPS, tile

triton = pytest.importorskip("triton", reason="triton is not installed")

TARGETS = [80, 90]
# 32 warps is the most that an SM takes of programs of one warp; its 65,536 registers then leave 64 a thread, and half
# of the warps 128. The kernels trade warps for loads in flight, down to 12 warps.
MAX_REGISTERS = 160
MAX_SHARED = 1024  # what sm_90 sets aside for itself
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PER_WIDTH = ["forward", "backward_rows", "backward_columns"]
FEATURES = {"q", "k", "v", "grad_out", "out", "grad_q", "grad_k", "grad_v"}
INDICES = {"pointer": "*i32", "index": "*i32", "segment_row": "*i32", "segment_start": "*i32"}
WORDS = {"slots": "*i64", "seed": "*i64"}
NUMBERS = dict.fromkeys(["scale", "slope", "dropout", "boost"], "fp32")

VARIANTS = [(kernel, dtype, width) for kernel in PER_WIDTH for dtype in DTYPES for width in BLOCK_CHANNELS]
VARIANTS += [(kernel, dtype, 64) for kernel in ("products", "combine") for dtype in DTYPES]
# One of each kernel for the everyday run, those that need the most registers; the whole list is marked slow.
EVERYDAY = {
    ("forward", torch.float32, 128),
    ("forward", torch.float16, 64),
    ("backward_rows", torch.float32, 128),
    ("backward_columns", torch.float32, 128),
    ("products", torch.bfloat16, 64),
    ("combine", torch.float16, 64),
}


def _kernel(name: str) -> Any:
    from graphattn.ops import triton_kernels

    return getattr(triton_kernels, name)


def _source(name: str, dtype: torch.dtype, channels: int) -> Any:
    """The kernel with the types that a launch gives its arguments."""
    from triton.compiler import ASTSource
    from triton.language import float32

    kernel = _kernel(name)
    constants = {**tile(name, channels, dtype.itemsize), "ACC": float32}
    types = {**INDICES, **WORDS, **NUMBERS, **dict.fromkeys(FEATURES, f"*{TYPES[dtype]}")}
    types |= dict.fromkeys(constants, "constexpr")
    signature, aligned = {}, {}
    for parameter in kernel.params:
        # Whatever has no type yet is a count or an array of sums.
        kind = types.get(parameter.name, "i32" if parameter.do_not_specialize else "*fp32")
        signature[parameter.name] = kind
        if kind.startswith("*") and not parameter.do_not_specialize_on_alignment:
            aligned[(parameter.num,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, aligned)


def _compile(name: str, dtype: torch.dtype, channels: int, target: int) -> dict[str, Any]:
    from triton.backends.compiler import GPUTarget

    options = {"num_warps": NUM_WARPS}
    return triton.compile(_source(name, dtype, channels), target=GPUTarget("cuda", target, 32), options=options).asm


def _resources(cubin: bytes, folder: Path) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    listing = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", listing)}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def _marked(variant: tuple[str, torch.dtype, int], target: int) -> Any:
    everyday = variant in EVERYDAY and target == 90
    name, dtype, width = variant
    return pytest.param(
        *variant, target, id=f"{name}-{TYPES[dtype]}-{width}-sm_{target}", marks=[] if everyday else [pytest.mark.slow]
    )


@pytest.mark.parametrize(
    ("name", "dtype", "channels", "target"), [_marked(variant, target) for target in TARGETS for variant in VARIANTS]
)
def test_kernels_neither_spill_nor_load_piecemeal(
    name: str, dtype: torch.dtype, channels: int, target: int, tmp_path: Path
) -> None:
    compiled = _compile(name, dtype, channels, target)
    found = _resources(compiled["cubin"], tmp_path)
    assert found["STACK"] == found["LOCAL"] == 0, "registers are spilled to local memory"
    assert found["REG"] <= MAX_REGISTERS
    assert found["SHARED"] <= MAX_SHARED
    ptx = compiled["ptx"]
    assert "atom." not in ptx
    assert "red.global" not in ptx
    if name != "combine":  # whose programs read one short row at a time
        # Each operand's tile of BLOCK_E x BLOCK_C values, 16 bytes a thread and load.
        block = tile(name, channels, dtype.itemsize)
        operands = 1 if name == "products" else 2
        loads = operands * block["BLOCK_E"] * block["BLOCK_C"] * dtype.itemsize // (16 * 32 * NUM_WARPS)
        assert len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)) >= loads


def test_there_are_few_kernels() -> None:
    assert len(VARIANTS) == 42 <= 48


@pytest.mark.parametrize("name", [*PER_WIDTH, "products", "combine"])
def test_no_value_of_an_argument_makes_a_new_kernel(name: str) -> None:
    """Only dtypes and block sizes do: every count is listed as such, every other argument an array or a float."""
    arrays = {"part", "vector", "grad_vector", *FEATURES}
    for parameter in _kernel(name).params:
        known = (
            parameter.is_constexpr
            or parameter.do_not_specialize
            or parameter.do_not_specialize_on_alignment
            or parameter.name in NUMBERS
            or parameter.name in arrays
            or parameter.name.startswith("part_")
        )
        assert known, f"{name} takes {parameter.name}"


def test_every_width_has_a_block() -> None:
    for name in PER_WIDTH:
        for channels in range(1, MAX_CHANNELS + 1):
            for itemsize in (2, 4):
                block = tile(name, channels, itemsize)
                assert block["BLOCK_C"] >= channels
                assert block["BLOCK_E"] >= 1
