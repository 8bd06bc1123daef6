"""How far a learned sampler carries: to fresh noises from fifty, and to other numbers of steps.

    python -m experiments.learned_transfer --config configs/learned_transfer.py

* **Noises.** Learned from 50 noises, or from all there are: the error on the noises it was learned from, and on fresh
  ones. Their ratio says how much was learned by heart.
* **Steps.** A schedule of ten steps, interpolated to seven and fourteen, against the ones that are learned there and
  the best hand-made ones. Only times are interpolated; network times and weights belong to their number of steps.

Writes ``results.json`` and ``table.md`` into ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxsamplers as js
from experiments import config, methods
from experiments import learned_vs_hand as study
from jaxsamplers.records.files import write_text


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is carried over.

    Attributes:
        problem: its name.
        solver: its name.
        steps: of the schedule that is interpolated.
        others: where it is interpolated to.
        few: noises to learn from.
        effort: the rest, as in ``learned_vs_hand``.
    """

    problem: str = "mixture-8"
    solver: str = "unipc-3"
    steps: int = 10
    others: tuple[int, ...] = (7, 14)
    few: int = 50
    effort: study.Settings = dataclasses.field(default_factory=study.Settings)


PARTS: dict[str, dict[str, bool]] = {
    "schedule": {},
    "network times": {"network_times": True},
    "all": {"network_times": True, "coefficients": True},
}


def transfer(settings: Settings, out: Path) -> dict[str, Any]:
    """Both experiments."""
    out.mkdir(parents=True, exist_ok=True)
    kind, make, options = study.SOLVERS[settings.solver]
    ready = study.prepare(settings.effort, settings.problem, kind, out)
    few = jax.tree.map(lambda leaf: leaf[: settings.few], ready.train)
    start, _, hand = study.by_hand(ready, make, options, settings.steps)
    noises = []
    for name, parts in PARTS.items():
        for pairs in (few, ready.train):
            check = pairs if pairs is few else ready.check  # whoever has fifty noises has no others to validate on
            build, found = methods.by_gradient(_task(settings, ready, start, pairs, check), **parts)
            sampler = build(found)
            own = float(study.distances(ready.model, sampler, pairs).mean())
            fresh = float(study.distances(ready.model, sampler, ready.test).mean())
            noises.append({"parts": name, "noises": len(pairs.x), "own": own, "fresh": fresh, "hand": hand["mean"]})
    _, learned = methods.by_gradient(_task(settings, ready, start, ready.train, ready.check))
    times, lengths = learned.times(ready.process), []
    for steps in settings.others:
        base, _, best = study.by_hand(ready, make, options, steps)
        carried = js.schedules.interpolate(ready.process, times, steps)
        _, there = methods.by_gradient(_task(settings, ready, base, ready.train, ready.check))
        error = lambda t: float(study.distances(ready.model, make(ready.process, t, **options), ready.test).mean())
        row = {"steps": steps, "interpolated": error(carried), "learned": error(there.times(ready.process))}
        lengths.append(row | {"hand": best["mean"]})
    return {
        "settings": config.to_json(settings),
        "noises": noises,
        "lengths": lengths,
        "times": np.asarray(times).tolist(),
    }


def markdown(found: dict[str, Any]) -> str:
    """Two tables."""
    first = [
        "| learned | noises | error on them | on fresh ones | fresh / own | fresh / best by hand |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["noises"]:
        ratios = f"{row['fresh'] / row['own']:.2f} | {row['fresh'] / row['hand']:.2f}"
        first.append(f"| {row['parts']} | {row['noises']} | {row['own']:.3g} | {row['fresh']:.3g} | {ratios} |")
    steps = found["settings"]["steps"]
    second = [f"| steps | best by hand | of {steps} steps, interpolated | learned there |", "|---|---|---|---|"]
    for row in found["lengths"]:
        second.append(f"| {row['steps']} | {row['hand']:.3g} | {row['interpolated']:.3g} | {row['learned']:.3g} |")
    return "\n".join(first) + "\n\n" + "\n".join(second)


def _task(settings: Settings, ready: study.Ready, times: Any, train: Any, check: Any) -> methods.Task:
    _, make, options = study.SOLVERS[settings.solver]
    effort = settings.effort
    calls = js.network_calls(make(ready.process, times, **options))
    batch = min(effort.batch, len(train.x))
    key = jax.random.key(effort.seed + 1)
    return methods.Task(
        ready.process, ready.model, make, options, times, calls, train, check, ready.data, effort.steps, batch,
        effort.rate, key,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.learned_transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a settings file, such as configs/learned_transfer.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="effort.steps=500")
    parser.add_argument("--out", help="where to write; runs/<name of the settings file> by default")
    given = parser.parse_args(arguments)
    out = Path(given.out or Path("runs") / Path(given.config).stem)
    try:
        found = transfer(config.override(config.load(given.config), given.set), out)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_text(out / "results.json", json.dumps(found) + "\n")
    write_text(out / "table.md", markdown(found) + "\n")
    print(markdown(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
