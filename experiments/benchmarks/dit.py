"""Sampling with a network of real size: what the sampler adds to a diffusion transformer's own time.

    python -m experiments.benchmarks.dit                              # what the platform can bear
    python -m experiments.benchmarks.dit --size DiT-XL/2 --steps 10 50 --batch 16 --json dit.json

A DiT of random weights (experiments/dit.py) behind DPM-Solver++(2M) as diffusers configures it, on latents of
32 x 32 x 4. In each round all take turns:

    ours                js.sample, jitted
    network alone, JAX  the network called as often in a scan, and nothing else
    Auto, Explicit      js.sample with the batch over a mesh of all devices, in either mode of its axes
    diffusers           its scheduler in a pipeline's loop, with the same network in PyTorch: eager, and compiled
    network alone       likewise in PyTorch

All end at the same sample, or the benchmark stops. Then the memory of a gradient with respect to the schedule: what XLA
plans for temporaries, by what is kept of each row.

On a GPU or TPU the sizes are DiT-B/2 and DiT-XL/2 in bfloat16. On a CPU it is a small one in float32, DiT-S/8: enough
to see that everything runs, while the sampler's share there says nothing of an accelerator, whose own numbers only a
run on it gives. diffusers and PyTorch are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from rich.console import Console
from rich.table import Table

import jaxsamplers as js
from experiments import dit
from experiments.benchmarks.peers import SCHEDULERS, installed
from experiments.benchmarks.timing import interleaved

SCHEDULER = SCHEDULERS["DPM-Solver++ 2M"]
SAME = {"float32": 2e-3, "bfloat16": 0.1}  # of the deviation; bfloat16's roundings differ by program and framework
Line = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """One line's network, samplers and noise."""

    settings: dit.DiTSettings
    weights: Any
    x: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, settings: dit.DiTSettings, batch: int) -> Task:
        """Random weights, noise and labels."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch, *settings.shape)).astype(np.float32)
        label = np.arange(batch, dtype=np.int32) % settings.classes
        own = jax.jit(lambda weights: jax.tree.map(jnp.copy, weights))  # NumPy's memory lies otherwise, and is slower
        return cls(settings, own(dit.random_weights(settings)), x, label)

    @functools.cached_property
    def network(self) -> Callable[..., Any]:
        """A pytree ``(x, t, label=...) -> noise``."""
        return dit.noise(self.settings, self.weights)

    def sampler(self, steps: int) -> Any:
        """Ours, as diffusers configures it."""
        return js.recipes.from_diffusers(SCHEDULER, steps)


def draw(sampler: js.Tableau, model: Any, x: Any, label: Any, **options: Any) -> Any:
    """The sample; the label is the network's, not the sampler's."""
    return js.sample(sampler, lambda x, t, **extra: model(x, t, label=label, **extra), x, **options)


def ours(task: Task, steps: int) -> dict[str, Callable[[], Any]]:
    """On one device, and over all of them in both modes."""
    recipe = task.sampler(steps)
    model = js.recipes.denoiser(recipe, task.network)
    noise = task.x * recipe.start
    found: dict[str, Callable[[], Any]] = {}
    found["ours"] = functools.partial(jax.jit(draw), recipe.sampler, model, noise, task.label)
    for mode in (AxisType.Auto, AxisType.Explicit):
        mesh = js.distributed.mesh(axis_type=mode)
        with jax.set_mesh(mesh):
            given = js.distributed.replicate((recipe.sampler, model), mesh)
            given += js.distributed.spread((noise, task.label), mesh)
            program = jax.jit(draw).lower(*given).compile()
        found[f"{mode.name} mesh"] = functools.partial(program, *given)
    return found


def alone(task: Task, steps: int) -> Callable[[], Any]:
    """The network, called as often."""

    @jax.jit
    def scan(network: Any, times: Any, x: Any, label: Any) -> Any:
        return jax.lax.scan(lambda x, t: (network(x, t, label=label), None), x, times)[0]

    return functools.partial(scan, task.network, jnp.linspace(999.0, 0.0, steps), task.x, task.label)


def theirs(task: Task, steps: int) -> dict[str, Callable[[], Any]]:
    """diffusers' loop and the bare network, by PyTorch eager and compiled."""
    if not installed("torch") or not installed("diffusers"):
        return {}
    import torch

    from experiments.benchmarks.dit_torch import DiT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    place = lambda value: torch.from_numpy(value).to(device)
    eager = DiT(task.settings, jax.device_get(task.weights["params"]), device)
    label, x = place(task.label).long(), place(task.x)
    torch.compiler.reset()
    compiled = torch.compile(eager, dynamic=False)
    networks: dict[str, Any] = {"PyTorch": eager}
    with torch.no_grad():
        try:
            compiled(x, torch.tensor(0.0, device=device), label)
            networks["PyTorch compiled"] = compiled
        except Exception as error:  # any failure of the compiler's tool chain
            print(f"left out: torch.compile does not work here ({type(error).__name__})", file=sys.stderr)
    found: dict[str, Callable[[], Any]] = {}
    for name, network in networks.items():
        found[f"diffusers, {name}"] = finished(device, functools.partial(pipeline, network, x, label, steps))
        found[f"network alone, {name}"] = finished(device, functools.partial(bare, network, x, label, steps))
    return found


def pipeline(network: Any, x: Any, label: Any, steps: int) -> Any:
    """The loop of diffusers' pipelines."""
    import diffusers
    import torch

    options = {key: value for key, value in SCHEDULER.items() if key != "_class_name"}
    scheduler = getattr(diffusers, SCHEDULER["_class_name"])(**options)
    scheduler.set_timesteps(steps, device=x.device)
    x = x * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t), t, label), t, x).prev_sample
    return x


def bare(network: Any, x: Any, label: Any, steps: int) -> Any:
    """PyTorch's network, called as often."""
    import torch

    with torch.no_grad():
        for t in torch.linspace(999.0, 0.0, steps, device=x.device):
            x = network(x, t, label)
    return x


def finished(device: str, function: Callable[[], Any]) -> Callable[[], Any]:
    """The same, and wait for the GPU."""
    if device == "cpu":
        return function
    import torch

    def call() -> Any:
        result = function()
        torch.cuda.synchronize()
        return result

    return call


def measure(task: Task, name: str, steps: int, rounds: int) -> list[Line]:
    """Time of every candidate for one size and number of steps."""
    say(f"{name}, {steps} steps: compiling")
    found = ours(task, steps) | theirs(task, steps)
    exact = np.asarray(found["ours"]())
    for way, candidate in found.items():
        if way.startswith("network alone"):
            continue
        result = candidate()
        sample = np.asarray(result.cpu() if hasattr(result, "cpu") else result)
        apart = float(np.sqrt(np.mean((sample - exact) ** 2)) / exact.std())
        if not apart < SAME[task.settings.dtype]:
            raise ValueError(f"{name}, {steps} steps: {way} ends {apart:.1e} away from our sample")
    found["network alone, JAX"] = alone(task, steps)
    say(f"{name}, {steps} steps: {rounds} rounds of {len(found)}")
    taken = interleaved(found, rounds=rounds)
    return [
        {
            "size": name,
            "steps": steps,
            "way": way,
            "ms_per_image": 1e3 * taken.median(way) / len(task.x),
            "times_network": taken.ratio(way, "network alone, JAX"),
            "quartiles": taken.spread(way, "network alone, JAX"),
        }
        for way in found
    ]


def gradients(task: Task, name: str, steps: int) -> list[Line]:
    """Memory of a gradient with respect to the times; nothing is run."""
    process = js.processes.vp_linear()
    model = js.denoiser(task.network, process, time=lambda t: 1000 * t - 1)

    def loss(times: Any, model: Any, x: Any, label: Any, remat: Any) -> Any:
        return jnp.mean(draw(js.solvers.dpm_solver_pp(process, times), model, x, label, remat=remat) ** 2)

    times = js.schedules.half_log_snr(process, steps)
    kept = {"False": False, "dots_saveable": jax.checkpoint_policies.dots_saveable, "True": True}
    candidates: dict[str, Any] = {"forward": functools.partial(loss, remat=True)}
    candidates |= {f"remat={name}": jax.grad(functools.partial(loss, remat=remat)) for name, remat in kept.items()}
    lines = []
    for way, function in candidates.items():
        say(f"{name}, {steps} steps: memory, {way}")
        program = jax.jit(function).lower(times, model, task.x, task.label).compile()
        planned = program.memory_analysis()
        assert planned is not None
        lines.append({"size": name, "steps": steps, "way": way, "memory_mb": planned.temp_size_in_bytes / 1e6})
    return lines


def say(what: str) -> None:
    """What is going on: a large network compiles for minutes."""
    print(what, file=sys.stderr, flush=True)


def show(results: dict[str, Any], console: Console) -> None:
    """The tables."""
    machine = results["machine"]
    console.print(f"jax {machine['jax']}, {machine['device']}, {machine['cores']} cores, load {machine['load']}")
    for note in machine["notes"]:
        console.print(note)
    for name, steps in dict.fromkeys((line["size"], line["steps"]) for line in results["time"]):
        title = f"{name}, {machine['dtype']}, batch {machine['batch']}, {steps} steps"
        table = Table("", title=title, title_justify="left")
        for column in ("ms per image", "times the network alone", "quartiles"):
            table.add_column(column, justify="right")
        for line in results["time"]:
            if (line["size"], line["steps"]) == (name, steps):
                low, high = line["quartiles"]
                numbers = f"{line['ms_per_image']:.3g}", f"{line['times_network']:.3f}", f"{low:.3f} - {high:.3f}"
                table.add_row(line["way"], *numbers)
        console.print(table)
    table = Table("gradient of the schedule", "steps", "size", "memory, MB", title_justify="left")
    for line in results["memory"]:
        table.add_row(line["way"], str(line["steps"]), line["size"], f"{line['memory_mb']:.4g}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same GPU
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.dit", description="With a real network.")
    parser.add_argument("--size", nargs="+", choices=(*dit.sizes, "tiny"), help="by default what the platform can bear")
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 50])
    parser.add_argument("--batch", type=int, help="images at a time: 4 on a CPU, otherwise 16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    given = parser.parse_args(arguments)
    small = jax.default_backend() == "cpu"
    names = given.size or (["DiT-S/8"] if small else ["DiT-B/2", "DiT-XL/2"])
    dtype, batch = ("float32", 4) if small else ("bfloat16", 16)
    batch, notes = given.batch or batch, []
    if small:
        notes.append("This is a CPU: a small network in float32. The shares are not those of an accelerator.")
    if left_out := [name for name in ("torch", "diffusers") if not installed(name)]:
        notes.append(f"not installed: {', '.join(left_out)}")
    before = os.getloadavg()[0]
    results: dict[str, Any] = {"time": [], "memory": []}
    try:
        if batch < 1 or batch % jax.device_count():
            raise ValueError(f"batch must be a multiple of the {jax.device_count()} devices, got {batch}")
        for name in names:
            settings = dit.sizes[name] if name in dit.sizes else dit.DiTSettings(16, 1, 2, 4, 8, classes=3)
            task = Task.of(dataclasses.replace(settings, dtype=dtype), batch)
            for steps in given.steps:
                results["time"] += measure(task, name, steps, given.rounds)
            results["memory"] += gradients(task, name, min(given.steps))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    machine = {"jax": jax.__version__, "device": device, "cores": os.cpu_count(), "dtype": dtype, "batch": batch}
    load = f"{before:.1f} to {os.getloadavg()[0]:.1f}"
    results = {"machine": {**machine, "load": load, "notes": notes}, **results}
    console = Console()
    show(results, console if console.is_terminal else Console(width=110))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
