"""``list``: what there is to choose from."""

from __future__ import annotations

import argparse
import inspect

from jaxsamplers import processes, schedules, solvers


def names(_: argparse.Namespace) -> None:
    """Every solver, schedule, process and problem, in one line each."""
    from jaxsamplers import problems, token_comparison

    kinds = {"solvers": solvers, "schedules": schedules, "processes": processes, "problems": problems}
    for kind, module in kinds.items():
        print(f"{kind}:")
        for name, function in module.registry.items():
            print(f"  {name:24s} {(inspect.getdoc(function) or '').partition(chr(10))[0].replace('``', '')}")
        print()
    print(f"of tokens (--data text): {', '.join(token_comparison.registry)}")
