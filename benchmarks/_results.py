"""What every benchmark keeps beside its numbers, how it keeps them, and how it goes on when something fails."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from graphattn import engine

HERE = Path(__file__).resolve().parent


def environment(settings: dict[str, Any], versions: dict[str, str | None] | None = None) -> dict[str, Any]:
    """Return what the numbers depend on; nothing that names the machine or its folders."""
    found = engine.environment()
    parallel = [
        line.strip()
        for line in torch.__config__.parallel_info().splitlines()
        if line.startswith(("OpenMP", "Intel(R)", "ATen parallel"))
    ]
    return {
        "versions": {
            "graphattn": found["versions"]["graphattn"],
            "revision": found["revision"],
            **{name: found["versions"][name] for name in ("python", "torch", "torch-geometric", "numpy")},
            **(versions or {}),
        },
        "hardware": {
            **{name: found["hardware"][name] for name in ("cpu", "cores", "memory_gib", "instructions")},
            "parallel": parallel,
        },
        "settings": settings,
        "date": found["date"],
    }


def installed(*packages: str) -> dict[str, str | None]:
    """Return the versions of packages, ``None`` for those that are not there."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def use_threads(number: int) -> threadpool_limits:
    """Let torch and the linear algebra of NumPy and SciPy use as many threads."""
    torch.set_num_threads(number)
    return threadpool_limits(number)


def measure_parts(
    args: Namespace,
    path: Path,
    packages: Sequence[str],
    measures: Mapping[str, Callable[[dict[str, Any], Path, Namespace], None]],
    write_report: Callable[[dict[str, Any], Path], str],
) -> dict[str, Any]:
    """Measure the parts that are asked for, go on with those in ``path``, or only read them, and print the report."""
    if getattr(args, "report", False):
        results: dict[str, Any] = json.loads(path.read_text())
        print(write_report(results, args.out))
        return results
    settings = {name: getattr(args, name) for name in ("threads", "repeats", "quick") if hasattr(args, name)}
    results = environment(settings, installed(*packages))
    results = load_results(path, results) if args.resume and path.exists() else results
    with use_threads(args.threads):
        for part in args.parts:
            results.setdefault(part, {})
            measures[part](results, path, args)
    print(write_report(results, args.out))
    return results


def headline(results: dict[str, Any]) -> str:
    """Return the sentence that says on what the numbers were measured."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    hardware, settings = results["hardware"], results["settings"]
    return (
        f"{hardware['cpu']}, {settings['threads']} threads of {hardware['cores']} cores, {hardware['instructions']}, "
        f"{hardware['memory_gib']} GiB; {versions}; {results['date']}."
    )


def load_results(path: Path, current: dict[str, Any]) -> dict[str, Any]:
    """Return the results of the run to go on with; refuse to mix two machines, versions or settings."""
    results = json.loads(path.read_text())
    for part in ("hardware", "settings", "versions"):
        ours, theirs = ({k: v for k, v in x[part].items() if k != "revision"} for x in (current, results))
        if ours != theirs:
            raise SystemExit(f"{path} was measured with other {part}; run without --resume to start anew")
    return results


def save(path: Path, results: dict[str, Any]) -> None:
    """Write results so that a stop at any moment leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, path)


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Return raw times, median and spread."""
    return {
        "seconds": list(seconds),
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }


def start(
    args: Namespace,
    run: Callable[[Namespace], object],
    worker: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Run a benchmark, or be the fresh process that one asks with ``--worker``; Ctrl-C says how to go on."""
    if worker is not None and args.worker:
        print(json.dumps(worker(args.worker)))
        return
    try:
        run(args)
    except KeyboardInterrupt:
        raise SystemExit("stopped; go on with --resume") from None


@contextmanager
def recording_failure(record: dict[str, Any]) -> Iterator[None]:
    """Turn a failure of one candidate into an entry of its record; the others go on."""
    try:
        yield
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        # Results are published: of a path in the message only the last part is kept.
        reason = re.sub(r"(/[\w.+-]+)+/", "", f"{type(error).__name__}: {first_line}")
        record |= {"status": "failed", "reason": reason}


def fresh_process(script: str, spec: dict[str, Any], seconds: float, show_progress: bool = False) -> dict[str, Any]:
    """Run ``script --worker spec`` in a new interpreter and return its answer, the last line that it prints."""
    command = [sys.executable, str(HERE / script), "--worker", json.dumps(spec)]
    progress = None if show_progress else subprocess.PIPE
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=progress, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not done after {seconds:g} s") from None
    if done.returncode:
        last = ((done.stderr or "").strip().splitlines() or ["no message"])[-1]
        reason = "killed, out of memory" if done.returncode == -9 else last
        raise RuntimeError(f"the fresh process ended with code {done.returncode}: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def available_bytes() -> int:
    """Return the memory that is free for new work."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
