"""What ``js.sample`` costs beside the shortest code that computes the same thing.

    python -m experiments.benchmarks.overhead
    python -m experiments.benchmarks.overhead --json overhead.json --set sizes="(100000,)" rounds=31

Forward. One solver step with a near-free network, in five ways, all of them one jitted function of the scalars and
the noise except the loop:

    by hand    a ``lax.scan`` with the solver's formula written out, given the same per-step scalars
    sample     ``js.sample``
    unrolled   ``js.sample(..., unroll=2)``
    loop       the step written by hand, jitted, called from a Python loop
    diffrax    ``diffeqsolve`` with ``StepTo``, for Euler's method

The network is the exact denoiser of ``N(0, I)`` data, ``x / (1 + t^2)``, once as it stands (*fused*: XLA merges it with
the update, which no real network allows) and once behind a ``lax.cond`` (*opaque*: its input and its output exist in
memory, like a real network's, and it is otherwise as cheap as a network can be).

Compile. Tracing, lowering and compiling, of the first three.

Gradient. ``value_and_grad`` of a loss of the sample with respect to the sampler and a perceptron's parameters, with
and without ``remat``, at two numbers of steps: time, and temporary memory as the compiler plans it. With ``remat``
memory still grows by the registers of each row, so its growth depends on how much larger than the sample the network's
activations are: about 400 times here, thousands of times in an image network, and 100 with ``--set features=64``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from rich.console import Console
from rich.table import Table

import jaxsamplers as js
from experiments import config
from experiments.benchmarks.timing import interleaved
from jaxsamplers.records.progress import progress

Model = Callable[[Array, Array], Array]
Cell = dict[str, Any]  # one line of a table

SAMPLE_LIMIT, COMPILE_LIMIT, MEMORY_LIMIT = 1.15, 1.5, 1.2
LARGE = 100_000  # values from which the limit on time holds
COMPARED = ("ddim", "dpm_solver_pp", "heun")  # Euler's method is only there for diffrax


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        sizes: values in the sample.
        steps: solver steps of the forward comparison; Heun's method calls the network twice in each but the last.
        rounds: how often each candidate is timed.
        seconds: how long a candidate is repeated within a round, at least.
        compile_rounds: how often each program is compiled.
        gradient_steps: the two numbers of steps of the gradient comparison.
        gradient_rounds: how often each gradient is timed.
        batch: samples of the gradient comparison.
        features: values in each of them.
        width: of the perceptron's hidden layers.
        depth: how many hidden layers.
    """

    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    steps: int = 20
    rounds: int = 31
    seconds: float = 0.005
    compile_rounds: int = 7
    gradient_steps: tuple[int, int] = (10, 20)
    gradient_rounds: int = 5
    batch: int = 64
    features: int = 16
    width: int = 512
    depth: int = 6


class ByHand(NamedTuple):
    """A solver without the library: the scalars it scans over, and the formula of one step."""

    rows: tuple[Array, ...]
    step: Callable[[Model, Any, Sequence[Array]], Any]
    start: Callable[[Array], Any] = lambda x: x
    sample: Callable[[Any], Array] = lambda carry: carry
    last: tuple[Array, ...] | None = None  # scalars of a last Euler step, after the scan


def first_order_step(model: Model, x: Array, row: Sequence[Array]) -> Array:
    """DDIM and Euler."""
    t, keep, gain = row
    return keep * x + gain * model(x, t)


def multistep_step(model: Model, carry: tuple[Array, Array], row: Sequence[Array]) -> tuple[Array, Array]:
    """DPM-Solver++(2M)."""
    x, before = carry
    t, keep, newest, older = row
    m = model(x, t)
    return keep * x + newest * m + older * before, m


def heun_step(model: Model, x: Array, row: Sequence[Array]) -> Array:
    """Heun's method, both stages, on ``dx/dt = a x + b m``."""
    t, a, b, dt, t_next, a_next, b_next = row
    slope = a * x + b * model(x, t)
    ahead = x + dt * slope
    return x + dt / 2 * (slope + a_next * ahead + b_next * model(ahead, t_next))


def scan_by_hand(hand: ByHand, model: Model, x: Array) -> Array:
    """What one would write without the library."""
    carry, _ = lax.scan(lambda carry, row: (hand.step(model, carry, row), None), hand.start(x), hand.rows)
    x = hand.sample(carry)
    return x if hand.last is None else first_order_step(model, x, hand.last)


def solvers(steps: int) -> dict[str, tuple[js.Tableau, ByHand]]:
    """Each solver from the library and by hand, on one schedule and with equal scalars."""
    process = js.processes.edm()
    times = js.schedules.karras(process, steps)
    ddim, euler = js.solvers.ddim(process, times), js.solvers.euler(process, times)
    multistep = js.solvers.dpm_solver_pp(process, times)

    def read(sampler: js.Tableau, *columns: int) -> tuple[Array, ...]:
        return sampler.rows.time, *[sampler.rows.weights[:, 0, column] for column in columns]

    alpha_dot, sigma_dot = process.velocity_coefficients(times)
    a = sigma_dot / process.sigma(times)
    b = alpha_dot - process.alpha(times) * a
    dt = jnp.diff(times)
    stages = (times[:-2], a[:-2], b[:-2], dt[:-1], times[1:-1], a[1:-1], b[1:-1])
    euler_end = tuple(v[-1] for v in read(euler, 0, 1))
    return {
        "ddim": (ddim, ByHand(read(ddim, 0, 1), first_order_step)),
        "dpm_solver_pp": (
            multistep,
            ByHand(read(multistep, 0, 2, 1), multistep_step, lambda x: (x, jnp.zeros_like(x)), lambda carry: carry[0]),
        ),
        "heun": (js.solvers.heun(process, times), ByHand(stages, heun_step, last=euler_end)),
        "euler": (euler, ByHand(read(euler, 0, 1), first_order_step)),
    }


def fused(x: Array, t: Array) -> Array:
    """A network that XLA merges with the update."""
    return x / (1 + t**2)


def opaque(x: Array, t: Array) -> Array:
    """The same network; nothing is merged across the branch, which is always taken."""
    return lax.cond(t > -1, fused, lambda x, t: x, x, t)


networks: dict[str, Model] = {"fused": fused, "opaque": opaque}


def by_hand(hand: ByHand, model: Model) -> Any:
    """A fresh jitted function of the scalars and the noise."""
    return jax.jit(lambda rows, last, x: scan_by_hand(hand._replace(rows=rows, last=last), model, x))


def library(model: Model, unroll: int = 1) -> Any:
    """A fresh jitted function of the sampler and the noise."""
    return jax.jit(lambda sampler, x: js.sample(sampler, model, x, unroll=unroll))


def forward(settings: Settings, name: str, network: str, size: int) -> Cell:
    """Time per step of one solver in every way there is."""
    model, x = networks[network], jax.random.normal(jax.random.key(0), (size,))
    sampler, hand = solvers(settings.steps)[name]
    candidates: dict[str, Callable[[], Array]] = {
        "by hand": functools.partial(by_hand(hand, model), hand.rows, hand.last, x),
        "sample": functools.partial(library(model), sampler, x),
        "unrolled": functools.partial(library(model, unroll=2), sampler, x),
        "loop": python_loop(hand, model, x),
    }
    if name == "euler":
        candidates["diffrax"] = diffrax_euler(js.schedules.karras(js.processes.edm(), settings.steps), model, x)
    exact = candidates["by hand"]()
    for way, candidate in candidates.items():  # a benchmark of different computations would say nothing
        np.testing.assert_allclose(candidate(), exact, rtol=1e-3, atol=1e-4, err_msg=f"{name}, {way}")
    taken = interleaved(candidates, rounds=settings.rounds, seconds=settings.seconds)
    return {
        "solver": name,
        "network": network,
        "values": size,
        "by_hand_us": 1e6 * taken.median("by hand") / settings.steps,
        "sample": taken.ratio("sample", "by hand"),
        "quartiles": taken.spread("sample", "by hand"),
        **{way: taken.ratio(way, "by hand") for way in candidates if way not in ("by hand", "sample")},
    }


def python_loop(hand: ByHand, model: Model, x: Array) -> Callable[[], Array]:
    """The step by hand, jitted and called from Python, with the scalars on the host."""
    step = jax.jit(lambda carry, row: hand.step(model, carry, row))
    end = jax.jit(lambda x, row: first_order_step(model, x, row))
    rows = list(zip(*[np.asarray(column) for column in hand.rows], strict=True))

    def loop() -> Array:
        carry = hand.start(x)
        for row in rows:
            carry = step(carry, row)
        x_end = hand.sample(carry)
        return x_end if hand.last is None else end(x_end, hand.last)

    return loop


def diffrax_euler(times: Array, model: Model, x: Array) -> Callable[[], Array]:
    """diffrax on the EDM probability flow ``dx/dt = (x - m) / t``, forced to the same steps."""
    import diffrax

    @jax.jit
    def solve(times: Array, x: Array) -> Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, args: (x - model(x, jnp.asarray(t))) / t),
            diffrax.Euler(),
            times[0],
            times[-1],
            None,
            x,
            stepsize_controller=diffrax.StepTo(ts=times),
            max_steps=times.shape[0],
        )
        assert solution.ys is not None
        return solution.ys[0]

    return lambda: solve(times, x)


def compilation(settings: Settings, name: str, network: str) -> Cell:
    """Seconds from a Python function to a program."""
    model, x = networks[network], jnp.zeros(LARGE)
    sampler, hand = solvers(settings.steps)[name]
    candidates: dict[str, Callable[[], Any]] = {
        "by hand": lambda: by_hand(hand, model).lower(hand.rows, hand.last, x).compile(),
        "sample": lambda: library(model).lower(sampler, x).compile(),
        "unrolled": lambda: library(model, unroll=2).lower(sampler, x).compile(),
    }
    taken = interleaved(candidates, rounds=settings.compile_rounds)
    ratios = {way: taken.ratio(way, "by hand") for way in ("sample", "unrolled")}
    return {"solver": name, "network": network, "by_hand_s": taken.median("by hand"), **ratios}


Layers = list[tuple[Array, Array]]


def perceptron(layers: Layers, x: Array, t: Array) -> Array:
    """A denoiser ``[batch, features] -> [batch, features]``; the time enters through the biases."""
    scale = lax.rsqrt(1 + t**2)
    hidden = scale * x
    for weights, bias in layers[:-1]:
        hidden = jnp.tanh(hidden @ weights + bias * jnp.log(t))
    weights, bias = layers[-1]
    return scale * (hidden @ weights + bias)


def new_layers(settings: Settings) -> Layers:
    """Random parameters."""
    widths = [settings.features, *[settings.width] * settings.depth, settings.features]
    keys = jax.random.split(jax.random.key(1), len(widths) - 1)
    return [
        (jax.random.normal(key, (rows, columns)) / rows**0.5, 0.1 * jax.random.normal(key, (columns,)))
        for key, rows, columns in zip(keys, widths[:-1], widths[1:], strict=True)
    ]


def gradient(settings: Settings, name: str) -> list[Cell]:
    """Memory and time of the gradient, for both numbers of steps, with and without ``remat``."""
    layers = new_layers(settings)
    x = 80 * jax.random.normal(jax.random.key(0), (settings.batch, settings.features))

    def loss(sampler: js.Tableau, layers: Layers, x: Array, remat: bool) -> Array:
        sample = js.sample(sampler, lambda x, t: perceptron(layers, x, t), x, remat=remat)
        return jnp.mean(sample**2)

    memory: dict[str, int] = {}
    candidates: dict[str, Callable[[], Any]] = {}
    cases = list(itertools.product(settings.gradient_steps, (True, False)))
    for steps, remat in cases:
        sampler = solvers(steps)[name][0]
        both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=3)
        program = both.lower(sampler, layers, x, remat).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        memory[f"{steps} {remat}"] = analysis.temp_size_in_bytes
        candidates[f"{steps} {remat}"] = functools.partial(program, sampler, layers, x)
    for steps in settings.gradient_steps:
        kept, recomputed = candidates[f"{steps} False"](), candidates[f"{steps} True"]()
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(recomputed), strict=True):
            scale = float(jnp.max(jnp.abs(a))) + 1e-30
            np.testing.assert_allclose(a / scale, b / scale, atol=1e-3, err_msg=f"{name}: remat changed the gradient")
    taken = interleaved(candidates, rounds=settings.gradient_rounds)
    few = settings.gradient_steps[0]
    return [
        {
            "solver": name,
            "steps": steps,
            "remat": remat,
            "memory_mb": memory[f"{steps} {remat}"] / 1e6,
            "memory_growth": memory[f"{steps} {remat}"] / memory[f"{few} {remat}"],
            "memory_ratio": memory[f"{steps} {remat}"] / memory[f"{steps} False"],
            "ms": 1e3 * taken.median(f"{steps} {remat}"),
            "time_ratio": taken.ratio(f"{steps} {remat}", f"{steps} False"),
        }
        for steps, remat in cases
    ]


def targets(results: dict[str, list[Cell]]) -> list[Cell]:
    """The worst number of each kind beside what it may be."""

    def judge(target: str, limit: float, cells: list[Cell], number: str) -> Cell:
        worst = max(cells, key=lambda cell: cell[number])
        where = ", ".join(str(worst[key]) for key in ("solver", "network", "values", "steps") if key in worst)
        missed = sum(cell[number] > limit for cell in cells)
        return {"target": target, "limit": limit, "worst": worst[number], "where": where, "missed": missed}

    verdicts = []
    for network in networks:
        large = [c for c in results["forward"] if c["values"] >= LARGE and c["network"] == network]
        if large:
            verdicts.append(judge(f"time, {network} network", SAMPLE_LIMIT, large, "sample"))
    recomputed = [cell for cell in results["gradient"] if cell["remat"]]
    verdicts.append(judge("compile time", COMPILE_LIMIT, results["compile"], "sample"))
    verdicts.append(judge("gradient memory with remat", MEMORY_LIMIT, recomputed, "memory_growth"))
    return verdicts


def measure(settings: Settings) -> dict[str, Any]:
    """Everything, as plain lists and numbers."""
    cells = list(itertools.product(solvers(settings.steps), networks, settings.sizes))
    results: dict[str, list[Cell]] = {"forward": [], "compile": [], "gradient": []}
    before = os.getloadavg()
    total = len(cells) + len(COMPARED) * (len(networks) + 1)
    with progress("overhead", total) as advance:
        done = itertools.count(1)
        for cell in cells:
            results["forward"].append(forward(settings, *cell))
            advance(next(done))
        for name, network in itertools.product(COMPARED, networks):
            results["compile"].append(compilation(settings, name, network))
            advance(next(done))
        for name in COMPARED:
            results["gradient"] += gradient(settings, name)
            advance(next(done))
    machine = {
        "jax": jax.__version__,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": os.cpu_count(),
        "load_before": before,
        "load_after": os.getloadavg(),
    }
    return {"machine": machine, "settings": config.to_json(settings), "targets": targets(results), **results}


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    machine = results["machine"]
    loads = f"{machine['load_before'][0]:.1f} to {machine['load_after'][0]:.1f}"
    console.print(f"jax {machine['jax']}, {machine['device']}, {machine['cores']} cores, load {loads}")
    titles = {
        "forward": "Forward: time of a step by hand, and the others as multiples of it (medians; quartiles)",
        "compile": "Compile: seconds by hand, and the others as multiples of them",
        "gradient": "Gradient: temporary memory, its growth with the steps, and time; ratios to the same without remat",
        "targets": "Targets: the worst case, and how many cases are above the limit",
    }
    for section, title in titles.items():
        columns = list(dict.fromkeys(name for cell in results[section] for name in cell))
        table = Table(title=title, title_justify="left")
        for name in columns:
            numeric = not isinstance(results[section][0].get(name, 0.0), str | bool)
            table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
        for cell in results[section]:
            table.add_row(*[_text(cell.get(name, "")) for name in columns])
        console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " - ".join(map(_text, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.overhead", description="Cost of js.sample.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="rounds=31")
    given = parser.parse_args(arguments)
    console = Console()
    try:
        results = measure(config.override(Settings(), given.set))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(results, console if console.is_terminal else Console(width=110))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
