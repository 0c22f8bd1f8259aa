"""The command line: one file a subcommand, each with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphattn import __version__
from graphattn.cli import demo

_COMMANDS = {"demo": demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status.

    Example:
        >>> main([])  # doctest: +ELLIPSIS
        usage: graphattn ...
        2
    """
    parser = argparse.ArgumentParser(prog="graphattn", description="Attention as message passing over affinity graphs.")
    parser.add_argument("--version", action="version", version=f"graphattn {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    return _COMMANDS[args.command].run(args)
