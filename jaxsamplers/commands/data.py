"""What ``sample`` and ``compare`` do, and what is usual, depends on the data."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxsamplers import checks, distributed
from jaxsamplers.commands import compare as gaussian_compare
from jaxsamplers.commands import sample as gaussian_sample
from jaxsamplers.commands import tokens
from jaxsamplers.commands.shards import is_folder

Command = tuple[Callable[[argparse.Namespace], None], dict[str, Any]]

SAMPLED: dict[str, Command] = {
    "digits": (
        gaussian_sample.sample,
        {"solver": "dpm_solver_pp", "process": "vp_linear", "count": 64, "out": Path("samples.png")},
    ),
    "text": (
        tokens.sample_text,
        {
            "solver": "ancestral",
            "process": "masked",
            "count": 20,
            "out": Path("samples.txt"),
            "length": 64,
            "order": 2,
        },
    ),
    "digits-tokens": (
        tokens.sample_digits,
        {"solver": "ancestral", "process": "masked", "count": 64, "out": Path("samples.png")},
    ),
}
COMPARED: dict[str | None, Command] = {
    None: (gaussian_compare.compare, {"process": "vp_linear", "calls": [5, 8, 10, 15, 20, 40], "count": 64}),
    "text": (
        tokens.compare_text,
        {"process": "masked", "calls": [8, 16, 32, 64], "count": 256, "length": 64, "order": 1},
    ),
}


def sample(options: argparse.Namespace) -> None:
    """``sample`` for the data that was asked for."""
    checks.one_of("data", options.data, SAMPLED)
    if options.out is not None and is_folder(options.out):
        distributed.start()
    elif options.shard is not None:
        raise ValueError(
            f"--shard is for --out FOLDER, a name without an ending or .zarr, got --out {options.out or ''}".rstrip()
        )
    _run(SAMPLED, options)


def compare(options: argparse.Namespace) -> None:
    """``compare`` for the data that was asked for."""
    if options.data is not None:
        checks.one_of("data", options.data, ["text"])
    _run(COMPARED, options)


def usual(argument: str) -> str:
    """What ``--help`` says of a default."""
    values = {data: usual[argument] for data, (_, usual) in SAMPLED.items()}
    return "default: " + ", ".join(f"{value} for {data}" for data, value in values.items())


def _run(commands: Mapping[Any, Command], options: argparse.Namespace) -> None:
    command, defaults = commands[options.data]
    for argument in ("length", "order"):
        if argument not in defaults and getattr(options, argument) is not None:
            raise ValueError(f"--{argument} is for --data text")
    for argument, value in defaults.items():
        if getattr(options, argument) is None:
            setattr(options, argument, value)
    command(options)
