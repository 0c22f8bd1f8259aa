"""Compile every Triton kernel that ``auto`` may launch, without a GPU, and list what each needs of one.

    python benchmarks/triton_kernels.py --out benchmarks/results

Triton's bundled ptxas compiles them for A100 (sm_80) and H100 (sm_90), and cuobjdump reads registers, shared and local
memory off the machine code. Local memory is where registers are spilled to.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphattn.ops.triton import kernels
from graphattn.ops.triton.launch import BLOCK_CHANNELS, NUM_WARPS, registers, tile
from graphattn.ops.triton.support import DTYPES

TARGETS = (80, 90)
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# The widest blocks are for channels beside edge features, which a program of a column has in blocks of their own, and
# pairs that are added one at a time.
PER_WIDTH = {
    "forward": BLOCK_CHANNELS,
    "backward_rows": BLOCK_CHANNELS,
    "backward_columns": BLOCK_CHANNELS[:-1],
    "backward_edges": BLOCK_CHANNELS,
    "backward_pairs": BLOCK_CHANNELS[:-1],
}
CHUNKED = ("products", "combine")  # which take any width in chunks of 64 channels

Variant = tuple[str, torch.dtype, int]
VARIANTS: list[Variant] = [
    (name, dtype, width) for name, widths in PER_WIDTH.items() for dtype in DTYPES for width in widths
]
VARIANTS += [(name, dtype, 64) for name in CHUNKED for dtype in DTYPES]

FEATURES = {
    "q",
    "k",
    "v",
    "edge_attr",
    "edge_proj",
    "grad_out",
    "grad_q",
    "grad_k",
    "grad_v",
    "grad_edge_attr",
    "joined",
}
_INDICES = {"pointer": "*i32", "index": "*i32", "segment_row": "*i32", "segment_start": "*i32"}
_WORDS = {"slots": "*i64", "rows": "*i64", "seed": "*i64"}
NUMBERS = dict.fromkeys(["scale", "slope", "dropout", "boost"], "fp32")

_REGISTERS, _MAX_WARPS = 65_536, 32  # of an SM; it takes 32 programs, which have one warp each


def compile_kernel(variant: Variant, target: int) -> dict[str, Any]:
    """Compile a kernel with the argument types of a launch; return its stages, ``"ptx"`` and ``"cubin"`` among them."""
    name, dtype, channels = variant
    kernel = getattr(kernels, name)
    constants = {**tile(name, channels), "ACC": triton.language.float32}
    types = {**_INDICES, **_WORDS, **NUMBERS, **dict.fromkeys(FEATURES, f"*{TYPES[dtype]}")}
    types |= dict.fromkeys(constants, "constexpr")
    signature, aligned = {}, {}
    for parameter in kernel.params:
        # Whatever has no type yet is a count or an array of sums.
        kind = types.get(parameter.name, "i32" if parameter.do_not_specialize else "*fp32")
        signature[parameter.name] = kind
        if kind.startswith("*") and not parameter.do_not_specialize_on_alignment:
            aligned[(parameter.num,)] = [["tt.divisibility", 16]]
    options = {"num_warps": NUM_WARPS, "maxnreg": registers(name, channels)}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options).asm


def resources(compiled: dict[str, Any]) -> dict[str, int]:
    """Return what a compiled kernel needs: registers a thread, bytes of shared and local memory, wide loads."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled["cubin"])
        done = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", done.stdout)}
    return {
        "registers": found["REG"],
        "shared": found["SHARED"],
        "spilled": found["STACK"] + found["LOCAL"],
        "loads_of_16_bytes": len(re.findall(r"ld\.global\S*\.v4\.b32", compiled["ptx"])),
    }


def expected_loads(variant: Variant) -> int:
    """Return the 16-byte loads a thread needs for the tiles of one step: BLOCK_E x BLOCK_C values an operand."""
    name, dtype, channels = variant
    if name == "combine":  # whose programs read one short row at a time
        return 0
    block = tile(name, channels)
    operands = 1 if name == "products" else 2
    return operands * block["BLOCK_E"] * block["BLOCK_C"] * dtype.itemsize // (16 * 32 * NUM_WARPS)


def measure(variants: list[Variant]) -> Iterator[dict[str, Any]]:
    """Compile kernels for every target and yield a record of each."""
    for variant in variants:
        name, dtype, channels = variant
        for target in TARGETS:
            found = resources(compile_kernel(variant, target))
            warps = min(_MAX_WARPS, _REGISTERS // (32 * -(-found["registers"] // 8) * 8))
            shape = tile(name, channels)
            yield {"kernel": name, "dtype": TYPES[dtype], **shape, "target": f"sm_{target}", **found, "warps": warps}


def report(results: dict[str, Any]) -> str:
    """Write the table: a row a kernel, the targets side by side."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    targets = [f"sm_{target}" for target in TARGETS]
    columns = " | ".join(f"{target}: registers | shared | spilled | warps" for target in targets)
    lines = [
        "# Triton kernels, compiled ahead of time",
        "",
        f"{versions}. Compiled without a GPU: these are properties of the machine code, not measurements of speed. A "
        "kernel takes heads of up to *channels*, *edges* at a time; a program is one warp. *Registers* are those of a "
        "thread, *shared* and *spilled* bytes, *warps* how many the registers of an SM leave room for (of 32 programs "
        "at most), *16-byte loads* the vector loads in the PTX. A run-time flag, not another kernel, switches bias, "
        "edge features, dropout, additive scores and returned weights.",
        "",
        f"| kernel | dtype | channels | edges | {columns} | 16-byte loads |",
        "|" + "---|" * (5 + 4 * len(targets)),
    ]
    rows: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for kernel in results["kernels"]:
        key = kernel["kernel"], kernel["dtype"], kernel["BLOCK_C"], kernel.get("BLOCK_E", 1)
        rows.setdefault(key, {})[kernel["target"]] = kernel
    for key, found in rows.items():
        figures = [str(found[t][name]) for t in targets for name in ("registers", "shared", "spilled", "warps")]
        loads = " / ".join(dict.fromkeys(str(found[t]["loads_of_16_bytes"]) for t in targets))
        lines.append("| " + " | ".join([*map(str, key), *figures, loads]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    from _results import installed, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table")
    parser.add_argument("--quick", action="store_true", help="compile one kernel only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        compiled = list(measure(VARIANTS[-1:] if args.quick else VARIANTS))
    results = {"versions": installed("torch", "triton"), "kernels": compiled}
    save(args.out / "triton_kernels.json", results)
    (args.out / "triton_kernels.md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
