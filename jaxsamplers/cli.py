"""The command line: ``python -m jaxsamplers sample | compare | schedules | export | list``.

Every command is a short program over the public functions; what it imports beyond jax, it imports when it runs. What
can be refused is refused before the work starts, and a file appears under its name only when all of it is written.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jaxsamplers import checks, distributed
from jaxsamplers.commands import data, export
from jaxsamplers.commands.names import names
from jaxsamplers.commands.picture import picture

EXTRA = "pip install 'jaxsamplers[experiments]'"
PACKAGES = {"sklearn": "scikit-learn"}  # where the name to install is not the name to import


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    The exit status is 0, or 2 after one sentence on standard error (130 when interrupted, 143 when told to leave).
    """
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        options.command(options)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(error.name or "", error.name)
        return _complain(f"this command needs {package}, which is not installed: {EXTRA}")
    except distributed.Preempted as error:
        return _complain(str(error), status=128 + signal.SIGTERM)
    except (ValueError, OSError, RuntimeError) as error:
        return _complain(" ".join(str(error).strip().split("\n\n")[0].split()))
    except KeyboardInterrupt as error:
        return _complain(str(error) or "interrupted, nothing was written", status=130)
    return 0


def _complain(sentence: str, status: int = 2) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """argparse, answering in one sentence instead of a page."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, commands = _parsers()
    if arguments and not arguments[0].startswith("-"):
        checks.one_of("command", arguments[0], commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = re.findall(r"--[a-z-]+", commands[arguments[0]].format_usage())
        checks.one_of("argument", unknown[0].partition("=")[0], known)
    return options


def _parsers() -> tuple[_Parser, Mapping[str, _Parser]]:
    parser = _Parser(prog="python -m jaxsamplers", allow_abbrev=False, description="Sample, compare and list solvers.")
    commands = parser.add_subparsers(required=True, metavar="{sample,compare,schedules,export,list}")

    draw = commands.add_parser(
        "sample", allow_abbrev=False, help="draw digits, or lines of text, with an exact denoiser"
    )
    draw.set_defaults(command=data.sample)
    draw.add_argument("--data", default="digits", help=f"{', '.join(data.SAMPLED)} (default: %(default)s)")
    draw.add_argument("--solver", help=f"a name of `list` ({data.usual('solver')})")
    draw.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the solver: order=3")
    draw.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    draw.add_argument("--count", type=int, help=f"how many digits or lines ({data.usual('count')})")
    draw.add_argument("--out", type=Path, help=f"without an ending, or .zarr: a folder of files ({data.usual('out')})")
    draw.add_argument("--shard", type=int, metavar="N", help="samples a file of a folder, and at a time (default: 500)")
    draw.add_argument(
        "--trajectory",
        type=Path,
        nargs="?",
        const=Path("trajectory.png"),
        metavar="PNG",
        help="also a picture of one sample's path from noise (default: %(const)s)",
    )

    ranking = commands.add_parser("compare", allow_abbrev=False, help="error to the exact solution against calls")
    ranking.set_defaults(command=data.compare)
    ranking.add_argument("--data", help="text: samplers of tokens, by likelihood and entropy side by side")
    ranking.add_argument("--problem", action="append", help="a name of `list`, or package.module:function (mixture)")
    ranking.add_argument("--schedule", action="append", help="one or more, or all; default as for sample")
    ranking.add_argument("--solver", action="append", metavar="NAME", help="only these (default: all deterministic)")
    ranking.add_argument("--calls", type=int, nargs="+", help="default: 5 8 10 15 20 40, for text 8 16 32 64")
    ranking.add_argument("--count", type=int, help="starts to average over (default: 64, for text 256 lines)")
    ranking.add_argument("--out", type=Path, default=Path("compare.png"), help="one a problem, and a .json beside it")

    drawing = commands.add_parser("schedules", allow_abbrev=False, help="draw where the steps of every schedule are")
    drawing.set_defaults(command=picture)
    drawing.add_argument("--schedule", action="append", help="one or more; default: all that the process can carry")
    drawing.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    drawing.add_argument("--out", type=Path, default=Path("schedules.png"), help="default: %(default)s")

    draw.add_argument("--schedule", help="default: half_log_snr, uniform for flows")
    drawing.add_argument("--process", default="vp_linear", help="default: %(default)s")
    for command in (draw, ranking):
        command.add_argument("--process", help="default: vp_linear; tokens: masked, uniform or marginal")
        command.add_argument("--length", type=int, help="characters a line, for text (default: 64)")
        command.add_argument("--order", type=int, help="of the chain of characters (default: 2, compare: 1)")
    for command in (draw, ranking, drawing):
        command.add_argument("--t-start", type=float, help="default: the process's range")
        command.add_argument("--t-end", type=float, help="default: the process's range")
    for command in (draw, ranking):
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    export.add(commands)

    listing = commands.add_parser("list", allow_abbrev=False, help="every solver, schedule, process and problem")
    listing.set_defaults(command=names)
    return parser, commands.choices
