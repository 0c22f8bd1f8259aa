"""The command line: one file a subcommand, each with ``add_arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from graphattn import __version__
from graphattn.cli import bench, demo, inspect, plan, predict, rerank, select
from graphattn.cli._checks import UserError

_COMMANDS = {
    "bench": bench,
    "demo": demo,
    "inspect": inspect,
    "plan": plan,
    "predict": predict,
    "rerank": rerank,
    "select": select,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status: 2 for a mistake of the user, 130 for an interruption.

    Example:
        >>> main([])  # doctest: +ELLIPSIS
        usage: graphattn ...
        2
    """
    parser = argparse.ArgumentParser(prog="graphattn", description="Attention as message passing over affinity graphs.")
    parser.add_argument("--version", action="version", version=f"graphattn {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, module in _COMMANDS.items():
        manual = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=manual.splitlines()[0],
            description=manual,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    words = sys.argv[1:] if argv is None else list(argv)
    # bench has its own help, and reads its words together with the files that they name.
    own = words[:1] == ["bench"]
    args = argparse.Namespace(command="bench", words=words[1:]) if own else parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        status = _COMMANDS[args.command].run(args)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"graphattn {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"graphattn {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read the output, such as head, has seen enough; Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
