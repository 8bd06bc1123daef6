"""What more devices cost and save: the sampler's own arithmetic, and learning a schedule, on this machine.

    python -m experiments.benchmarks.scaling
    python -m experiments.benchmarks.scaling --devices 1 2 4 8 --processes 1 2 4 --json scaling.json

The same work, a batch of one size, is spread over 1 to 8 devices that XLA makes of one host, and over 1 to 4 processes
with one device each, which meet through tpu_scripts/local_pod.sh and talk by gloo. Each device is given one core, and
where they are more than this machine has, they share. So the ideal is as many times as fast as there are devices or
cores, whichever are fewer: what is missing to it is what dividing costs. It says nothing of accelerators, whose
devices have arithmetic and links of their own (experiments/scaling.md estimates those).

    sample    20 rows of DPM-Solver++(2M), with a network of a few operations a number: nothing is sent
    learn     gradient steps of ``js.learn.fit``: 8 calls of DPM-Solver++(2M) and a perceptron; a few scalars are summed
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsamplers as js
from experiments import config
from experiments.benchmarks.timing import interleaved
from jaxsamplers import checks

ROOT = Path(__file__).parents[2]
POD = ROOT / "tpu_scripts" / "local_pod.sh"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        values: numbers in the batch that is sampled, a multiple of 64.
        rows: of the sampler.
        batch: samples in a gradient.
        width: of the perceptron that is learned for.
        steps: gradient steps a round.
        rounds: how often each is timed in a start.
        starts: how often each number of devices has its turn.
    """

    values: int = 2**20
    rows: int = 20
    batch: int = 1024
    width: int = 256
    steps: int = 5
    rounds: int = 7
    starts: int = 1


def work(settings: Settings) -> dict[str, list[float]]:
    """Seconds of each round of both, on all devices of all processes; every process calls it."""
    mesh = js.distributed.mesh()
    taken = interleaved({"sample": sample(settings, mesh)}, rounds=settings.rounds)
    return {"sample": list(map(float, taken.seconds["sample"])), "learn": learn(settings, mesh)}


def sample(settings: Settings, mesh: Any) -> Any:
    """A run of the sampler."""
    process = js.processes.edm()
    sampler = js.solvers.dpm_solver_pp(process, js.schedules.karras(process, settings.rows))
    x = np.random.default_rng(0).normal(size=(64, settings.values // 64)).astype(np.float32)
    given = js.distributed.replicate(sampler, mesh), js.distributed.spread(x, mesh)
    return functools.partial(jax.jit(lambda s, x: js.sample(s, lambda x, t: x / (1 + t**2), x)), *given)


def learn(settings: Settings, mesh: Any) -> list[float]:
    """Seconds of so many gradient steps, by the clock of the process that reports; the first ones are compiled."""
    import optax

    process = js.processes.vp_linear()
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
    layers = draw(32, settings.width), draw(settings.width, settings.width), draw(settings.width, 32)

    def network(layers: Any, x: Any, t: Any) -> Any:
        first, middle, last = layers
        return jnp.tanh(jnp.tanh(x @ first + t) @ middle) @ last

    model = js.denoiser(jax.tree_util.Partial(network, layers), process, prediction="x0")
    x = process.prior(jax.random.key(0), (settings.batch, 32))
    teacher = js.solvers.ddim(process, js.schedules.half_log_snr(process, 12))
    over = js.distributed.over_data(mesh)
    pairs = js.learn.teach(teacher, model, x, chunk=settings.batch, sharding=over)
    objective = js.learn.endpoint(js.learn.builder(js.solvers.dpm_solver_pp, process), model)
    clock: list[float] = []
    js.learn.fit(
        objective,
        js.learn.parameters(process, 8, coefficients=True),
        optimizer=optax.adam(0.01),
        batches=js.learn.batches(pairs, settings.batch),
        steps=settings.steps * (settings.rounds + 1),
        every=settings.steps,
        sharding=over,
        report=lambda *_, **__: clock.append(time.perf_counter()),
    )
    return list(map(float, np.diff(clock)))


def keep_to_cores() -> None:
    """As many as there are devices in this process, other ones in each: a single device would otherwise use all."""
    devices, process = (int(os.environ.get(name, 0)) for name in ("JAX_NUM_CPU_DEVICES", "JAX_PROCESS_ID"))
    if devices and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[(process * devices + i) % len(cores)] for i in range(devices)})


def on_devices(settings: Settings, count: int) -> dict[str, list[float]]:
    """In one process."""
    return start([sys.executable], settings, {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)})


def on_processes(settings: Settings, count: int) -> dict[str, list[float]]:
    """One device each."""
    with tempfile.TemporaryDirectory() as logs:
        return start([str(POD), str(count), sys.executable], settings, {"LOCAL_POD_LOGS": logs})


def start(command: list[str], settings: Settings, environment: dict[str, str]) -> dict[str, list[float]]:
    """This module in a process of its own, or several."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "seconds.json"
        changed = [f"{name}={value}" for name, value in config.to_json(settings).items()]
        ran = subprocess.run(
            [*command, "-m", "experiments.benchmarks.scaling", "--worker", str(out), "--set", *changed],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        return json.loads(out.read_text())


def measure(settings: Settings, devices: Sequence[int], processes: Sequence[int]) -> dict[str, Any]:
    """Everything, one start after another; each turn begins elsewhere."""
    wanted = [("devices", n) for n in sorted({1, *devices})] + [("processes", n) for n in sorted({1, *processes})]
    for kind, count in wanted:
        if checks.integer(kind, count, low=1) and (settings.batch % count or 64 % count):
            raise ValueError(f"{kind} must divide 64 and the batch of {settings.batch}, got {count}")
    seconds: dict[tuple[str, int], dict[str, list[float]]] = {each: {"sample": [], "learn": []} for each in wanted}
    before, began = os.getloadavg()[0], time.perf_counter()
    for turn in range(checks.integer("starts", settings.starts, low=1)):
        for kind, count in wanted[turn:] + wanted[:turn]:
            found = (on_devices if kind == "devices" else on_processes)(settings, count)
            for name, taken in found.items():
                seconds[kind, count][name] += taken
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lines = []
    for kind, count in wanted:
        line: dict[str, Any] = {"kind": kind, "count": count, "ideal": min(count, cores)}
        for name, calls in (("sample", 1), ("learn", settings.steps)):
            one, many = (float(np.median(seconds[kind, n][name])) for n in (1, count))
            line |= {f"{name}_ms": 1e3 * many / calls, f"{name}_efficiency": one / many / line["ideal"]}
        lines.append(line)
    load = f"{before:.1f} to {os.getloadavg()[0]:.1f}"
    machine = {"jax": jax.__version__, "cores": cores, "load": load, "seconds": time.perf_counter() - began}
    return {"machine": machine, "settings": config.to_json(settings), "lines": lines}


def show(results: dict[str, Any], console: Console) -> None:
    """The table."""
    machine = results["machine"]
    console.print(f"jax {machine['jax']}, {machine['cores']} cores, load {machine['load']}, {machine['seconds']:.0f} s")
    table = Table("", "ideal", "sample, ms", "efficiency", "learn, ms a step", "efficiency")
    for line in results["lines"]:
        cells = [f"{line['kind']}: {line['count']}", f"{line['ideal']} x"]
        for name in ("sample", "learn"):
            cells += [f"{line[f'{name}_ms']:.3g}", f"{line[f'{name}_efficiency']:.0%}"]
        table.add_row(*cells)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.scaling", description="1 to 8 devices.")
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="starts=3")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)  # what the processes run
    given = parser.parse_args(arguments)
    try:
        settings = config.override(Settings(), given.set)
        if given.worker is not None:
            keep_to_cores()
            js.distributed.start()
            seconds = work(settings)
            if js.distributed.is_main():
                given.worker.write_text(json.dumps(seconds))
            return 0
        results = measure(settings, given.devices, given.processes)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console()
    show(results, console if console.is_terminal else Console(width=110))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
