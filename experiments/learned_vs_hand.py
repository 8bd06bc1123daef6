"""Learned samplers against the best hand-made schedule, on problems whose exact solution is known.

    python -m experiments.learned_vs_hand --config configs/learned_vs_hand.py
    python -m experiments.learned_vs_hand --config configs/learned_vs_hand.py --set problems='("mixture-8",)'

Every solver is run on every schedule of ``js.schedules`` at every number of network calls; the best of them, by its
mean error on the noises that everything is measured on, is what learning has to beat (published tables, Align Your
Steps and GITS, are among them). What each method of ``experiments.methods`` learns from is other noises.

The error is the distance to the exact solution from the same noise; beside it are the sliced Wasserstein distance and
the MMD to data, and the seconds a method took, compilation included. Each result is a line of ``results.jsonl``, and
what is there already is not done again, so the study can be stopped, and methods added, at any time. At the end

    results.json, table.md, <problem>.png
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments import config, learned_report, methods
from experiments import problems as trained
from jaxsamplers import checks, datasets, metrics
from jaxsamplers import problems as closed_form
from jaxsamplers.comparison import steps_within
from jaxsamplers.problems import Problem
from jaxsamplers.records import history
from jaxsamplers.records.files import write_text

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.core import Model
    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]

PROBLEMS = {**closed_form.registry, "trained-digits": trained.trained_digits}
PROCESSES = {"vp": js.processes.vp_linear, "flow": js.processes.rectified_flow}
SOLVERS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "ddim": ("vp", js.solvers.ddim, {}),
    "dpm_solver_pp": ("vp", js.solvers.dpm_solver_pp, {}),
    "unipc-3": ("vp", js.solvers.unipc, {"order": 3}),
    "euler": ("flow", js.solvers.euler, {}),
    "heun": ("flow", js.solvers.heun, {}),
}
TOLERANCE = 1e-6  # of the exact solution
HAND = "best hand-made"
SHARES = {"digits": 2, "trained-digits": 8}  # networks that cost more get fewer steps, noises and smaller batches


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared, and with how much effort.

    Attributes:
        problems: names.
        solvers: names.
        calls: budgets of network calls.
        methods: names; all of ``experiments.methods`` by default.
        train: noises to learn from.
        check: noises to validate on.
        test: noises everything is measured on.
        steps: gradient steps.
        batch: noises in each.
        rate: the learning rate.
        seed: of everything random.
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    solvers: tuple[str, ...] = tuple(SOLVERS)
    calls: tuple[int, ...] = (5, 6, 8, 10)
    methods: tuple[str, ...] = tuple(methods.registry)
    train: int = 2048
    check: int = 512
    test: int = 1024
    steps: int = 1000
    batch: int = 128
    rate: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for argument, names, known in (
            ("problem", self.problems, PROBLEMS),
            ("solver", self.solvers, SOLVERS),
            ("method", self.methods, methods.registry),
        ):
            for name in names:
                checks.one_of(argument, name, known)
        for name in ("train", "check", "test", "steps", "batch"):
            checks.integer(name, getattr(self, name), low=1)


@dataclasses.dataclass(frozen=True)
class Ready:
    """A problem on a process: its network, its noises with their exact solutions, its data."""

    process: Process
    model: Model
    train: js.learn.Pairs
    check: js.learn.Pairs
    test: js.learn.Pairs
    data: Float[Array, "count ..."]


def study(settings: Settings, out: Path) -> list[dict[str, Any]]:
    """Every result that ``settings`` ask for, those in ``out`` already and those that are missing."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    done = {_name(row): row for row in history.read(file)}
    asked = []
    for problem in settings.problems:
        for solver in settings.solvers:
            for calls in settings.calls:
                wanted = [(problem, solver, calls, method) for method in (HAND, *settings.methods)]
                asked += wanted
                missing = [name[-1] for name in wanted if name not in done]
                if not missing:
                    continue
                ready = prepare(settings, problem, SOLVERS[solver][0], out)
                for row in measure(settings, ready, solver, calls, missing):
                    row = {"problem": problem, "solver": solver, "budget": calls, **row}
                    history.append(file, row)
                    done[_name(row)] = row
                    print(learned_report.line(row), flush=True)
                jax.clear_caches()  # a process may have so many memory maps, and each program takes some
    return [done[name] for name in asked if name in done]


def prepare(settings: Settings, problem: str, kind: str, out: Path) -> Ready:
    """A problem's noises and exact solutions; kept in ``out``, since a network's take a while."""
    share = SHARES.get(problem, 1)
    sizes = [settings.train // share, settings.check // share, settings.test]
    process, made = PROCESSES[kind](), _problem(problem)
    key = jax.random.fold_in(jax.random.key(settings.seed), list(PROBLEMS).index(problem))
    x = process.prior(key, (sum(sizes), *made.shape))
    file = out / f"exact-{problem}-{kind}-{settings.seed}-{'-'.join(map(str, sizes))}.npy"
    if not file.exists():
        with jax.enable_x64(True):
            exact_process = PROCESSES[kind]()
            model = made.denoiser(exact_process)
            solve = jax.jit(lambda x: js.adaptive.solve(exact_process, model, x, rtol=TOLERANCE, atol=TOLERANCE))
            parts = [np.asarray(solve(part), np.float32) for part in np.split(np.asarray(x, np.float64), _cuts(sizes))]
        np.save(file, np.concatenate(parts))
    goal = jnp.asarray(np.load(file))
    cuts = _cuts(sizes)
    train, check, test = map(js.learn.pairs, jnp.split(x, cuts), jnp.split(goal, cuts))
    model = made.denoiser(process)
    return Ready(process, model, train, check, test, data_of(problem, model, sizes[-1], key))


def data_of(problem: str, model: Any, count: int, key: Array) -> Float[Array, "count ..."]:
    """Samples of what the network was made from."""
    if problem in closed_form.registry:
        return model.draw(jax.random.fold_in(key, 1), count)
    return jax.random.permutation(key, jnp.asarray(datasets.digits().train))[:count]


def measure(settings: Settings, ready: Ready, solver: str, budget: int, wanted: Sequence[str]) -> Any:
    """A row for each wanted method of one solver at one budget."""
    _, make, options = SOLVERS[solver]
    share = settings.train // len(ready.train.x)
    start, best, hand = by_hand(ready, make, options, budget)
    calls = js.network_calls(make(ready.process, start, **options))
    if HAND in wanted:
        yield {"method": HAND, "schedule": best, **hand}
    for name in wanted:
        if name == HAND:
            continue
        task = methods.Task(
            ready.process, ready.model, make, options, start, calls, ready.train, ready.check, ready.data,
            settings.steps // share, settings.batch // share, settings.rate, jax.random.key(settings.seed + 1),
        )  # fmt: skip
        before = time.perf_counter()
        try:
            found = jax.block_until_ready(methods.registry[name](task))
        except methods.NotForThis as reason:
            yield {"method": name, "refused": str(reason)}
            continue
        seconds = time.perf_counter() - before
        times = found if isinstance(found, jax.Array) else None
        sampler = found if times is None else make(ready.process, times, **options)
        row = {
            "method": name,
            "seconds": round(seconds, 2),
            "calls": js.network_calls(sampler),
            **errors(ready, sampler),
        }
        yield row | ({} if times is None else {"times": np.asarray(times).tolist()})


def by_hand(ready: Ready, make: Any, options: dict[str, Any], budget: int) -> tuple[Times, str, dict[str, float]]:
    """The best schedule to learn from, by the training noises, and the best on the noises of the test, with its row."""
    process, found = ready.process, []
    ends = np.asarray([process.t_max, process.t_min], np.float32)
    steps = steps_within(lambda n: make(process, js.schedules.uniform(process, n), **options), budget)
    if isinstance(steps, str):
        raise ValueError(steps)
    build = jax.jit(functools.partial(make, **options))
    for name, schedule in js.schedules.registry.items():
        try:
            times = schedule(process, steps)
        except ValueError:
            continue
        if not np.allclose(np.asarray(times)[[0, -1]], ends, rtol=1e-4, atol=1e-6):
            continue  # it solves over another range
        sampler = build(process, times)
        train = distances(ready.model, sampler, ready.train).mean()
        found.append((train, distances(ready.model, sampler, ready.test).mean(), name, times, sampler))
    start = min(found, key=lambda entry: entry[0])[3]
    _, _, name, times, sampler = min(found, key=lambda entry: entry[1])
    row = {"calls": js.network_calls(sampler), "seconds": 0.0, **errors(ready, sampler)}
    return start, name, row | {"times": np.asarray(times).tolist()}


def errors(ready: Ready, sampler: Any) -> dict[str, float]:
    """Distances to the exact solution, and of the samples to data."""
    samples = _draw(sampler, ready.model, ready.test.x)
    apart = np.linalg.norm(np.asarray(samples - ready.test.goal).reshape(len(samples), -1), axis=1)
    wasserstein, mmd = _to_data(samples, ready.data)
    return {
        "mean": float(apart.mean()),
        "median": float(np.median(apart)),
        "sliced_wasserstein": float(wasserstein),
        "mmd": float(mmd),
    }


def distances(model: Model, sampler: Any, pairs: js.learn.Pairs) -> np.ndarray:
    """To the exact solution, sample by sample."""
    apart = np.asarray(_draw(sampler, model, pairs.x) - pairs.goal)
    return np.linalg.norm(apart.reshape(len(apart), -1), axis=1)


_draw = jax.jit(js.sample)


@jax.jit
def _to_data(samples: Array, data: Array) -> tuple[Array, Array]:
    flat = lambda x: x.reshape(len(x), -1)
    return metrics.sliced_wasserstein(jax.random.key(0), flat(samples), flat(data)), metrics.mmd(
        flat(samples), flat(data)
    )


def _problem(name: str) -> Problem:
    return PROBLEMS[name]()


def _cuts(sizes: Sequence[int]) -> list[int]:
    return [sizes[0], sizes[0] + sizes[1]]


def _name(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["problem"], row["solver"], row["budget"], row["method"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.learned_vs_hand", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a settings file, such as configs/learned_vs_hand.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="calls='(5, 10)'")
    parser.add_argument("--out", help="the study's directory; runs/<name of the settings file> by default")
    given = parser.parse_args(arguments)
    out = Path(given.out or Path("runs") / Path(given.config).stem)
    try:
        settings = config.override(config.load(given.config), given.set)
        rows = study(settings, out)
        write_text(out / "results.json", json.dumps({"settings": config.to_json(settings), "results": rows}) + "\n")
        tables = [learned_report.summary(rows, HAND), learned_report.markdown(rows, HAND)]
        write_text(out / "table.md", "\n\n".join(tables) + "\n")
        pictures = learned_report.draw(rows, HAND, out)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        return 130
    print(f"table: {out / 'table.md'}, pictures: {', '.join(map(str, pictures))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
