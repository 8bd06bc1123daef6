"""The same samplers in other libraries: wall-clock and compile time, with one network, in one run.

    python -m experiments.benchmarks.peers
    python -m experiments.benchmarks.peers --json peers.json --set steps=50 width=1024

The network is a perceptron of residual blocks with one set of random weights, in JAX and in PyTorch; it predicts
the noise of a variance-preserving process. A table is one method: ``ours``, the peers that have it, and then the
network alone, called as often as the method calls it, by each framework. All of a line's samplers must end at the same
sample, or the benchmark stops: a ratio of different computations would say nothing.

    diffusers    its scheduler in the loop its pipelines use; PyTorch eager, and with the network compiled
    k-diffusion  its sampling functions; PyTorch eager, and with the network compiled
    diffrax      ``diffeqsolve`` at fixed steps, jitted

Peers that are not installed are left out by name: ``pip install diffusers torch k-diffusion``. hackable_diffusion is
not among them, because its repository is not an installable package.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxsamplers as js
from experiments import config
from experiments.benchmarks.timing import interleaved

PACKAGES = ("diffusers", "k-diffusion", "torch", "diffrax", "jax")
SAME = 2e-3  # relative to the largest value: float32, sums in another order
Sample = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        batch: samples.
        features: values in each.
        width: of the network's hidden layers.
        blocks: how many residual blocks.
        steps: solver steps.
        rounds: how often each candidate is timed.
    """

    batch: int = 64
    features: int = 256
    width: int = 512
    blocks: int = 4
    steps: int = 20
    rounds: int = 15


class Candidate(NamedTuple):
    """One way to draw the same sample.

    Attributes:
        draw: without arguments, gives the sample.
        first: seconds of the first call, compilation and all.
    """

    draw: Sample
    first: float


class Network:
    """Noise predictor ``(x, log sigma) -> epsilon`` in two frameworks, from one set of weights."""

    def __init__(self, settings: Settings) -> None:
        rng = np.random.default_rng(0)
        sizes = settings.features, settings.width
        draw = lambda *shape: (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        self.weights = {
            "time": draw(1, settings.features),
            **{f"in_{i}": draw(*sizes) for i in range(settings.blocks)},
            **{f"out_{i}": 0.3 * draw(*sizes[::-1]) for i in range(settings.blocks)},
        }
        self.blocks = settings.blocks

    def jax(self) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """For JAX."""
        w = {name: jnp.asarray(value) for name, value in self.weights.items()}

        def apply(x: jax.Array, log_sigma: jax.Array) -> jax.Array:
            h = x + jnp.sin(log_sigma) * w["time"]
            for i in range(self.blocks):
                h = h + jnp.tanh(h @ w[f"in_{i}"]) @ w[f"out_{i}"]
            return 0.1 * h + x * 0.5

        return apply

    def torch(self) -> Callable[[Any, Any], Any]:
        """For PyTorch."""
        import torch

        w = {name: torch.from_numpy(value) for name, value in self.weights.items()}

        def apply(x: Any, log_sigma: Any) -> Any:
            h = x + torch.sin(log_sigma) * w["time"]
            for i in range(self.blocks):
                h = h + torch.tanh(h @ w[f"in_{i}"]) @ w[f"out_{i}"]
            return 0.1 * h + x * 0.5

        return apply


def timed(draw: Sample) -> Candidate:
    """A candidate after its first call."""
    began = time.perf_counter()
    jax.block_until_ready(draw())
    return Candidate(draw, time.perf_counter() - began)


def network_alone(network: Network, x: np.ndarray, calls: int) -> dict[str, Candidate]:
    """The network called as often as the sampler calls it, and nothing else."""
    apply = network.jax()
    levels = jnp.linspace(2.0, -3.0, calls)
    scan = jax.jit(lambda x: jax.lax.scan(lambda x, level: (apply(x, level), None), x, levels)[0])
    found = {"network alone, jax": timed(lambda: scan(x))}
    for name, model in torch_networks(network).items():
        import torch

        start = torch.from_numpy(x)

        def loop(model: Any = model, start: Any = start) -> Any:
            with torch.no_grad():
                y = start
                for level in torch.linspace(2.0, -3.0, calls):
                    y = model(y, level)
            return y

        found[f"network alone, {name}"] = timed(loop)
    return found


def torch_networks(network: Network) -> dict[str, Callable[[Any, Any], Any]]:
    """Eager and compiled, where PyTorch is installed and its compiler works."""
    if not installed("torch"):
        return {}
    import torch

    torch.compiler.reset()  # every line pays for its own compilation, up to PyTorch's cache on disk
    eager = network.torch()
    found = {"torch": eager}
    compiled = torch.compile(network.torch(), dynamic=False)
    try:
        with torch.no_grad():
            compiled(torch.from_numpy(np.zeros((1, network.weights["time"].shape[1]), np.float32)), torch.tensor(0.0))
        found["torch, compiled"] = compiled
    except Exception as error:  # any failure of the compiler's tool chain
        print(f"left out: torch.compile does not work here ({type(error).__name__})", file=sys.stderr)
    return found


def k_diffusion_methods(settings: Settings, network: Network) -> Iterator[tuple[str, int, dict[str, Candidate]]]:
    """Methods in noise level: k-diffusion, diffrax and ours from Karras's schedule to the clean end."""
    process = js.processes.edm(0.03, 15.0)
    times = jnp.append(js.schedules.karras(process, settings.steps - 1), 0.0)
    x = np.random.default_rng(1).normal(size=(settings.batch, settings.features)).astype(np.float32) * 15
    apply = network.jax()

    def model(x: jax.Array, sigma: jax.Array) -> jax.Array:
        return x - sigma * apply(x / jnp.sqrt(1 + sigma**2), jnp.log(sigma))

    methods = {
        "euler": js.solvers.euler(process, times),
        "heun": js.solvers.heun(process, times),
        "dpmpp_2m": js.solvers.dpm_solver_pp(process, times, lower_order_final=False),
    }
    for name, sampler in methods.items():
        ours = jax.jit(lambda sampler, x: js.sample(sampler, model, x))
        found = {"ours": timed(functools.partial(ours, sampler, x))}
        sample = k_diffusion_sampler(name)
        for framework, torch_model in torch_networks(network).items():
            if sample is not None:
                found[f"k-diffusion, {framework}"] = timed(k_diffusion_draw(sample, torch_model, x, np.asarray(times)))
        if installed("diffrax") and name in ("euler", "heun"):
            found["diffrax"] = timed(diffrax_draw(name, model, x, times))
        yield name, js.network_calls(sampler), found


def k_diffusion_sampler(name: str) -> Callable[..., Any] | None:
    """One of k-diffusion's functions; its other modules need image packages that sampling does without."""
    if not installed("k-diffusion"):
        return None
    if "k_diffusion" not in sys.modules:
        package, transforms = types.ModuleType("k_diffusion"), types.ModuleType("torchvision.transforms")
        package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)  # type: ignore
        transforms.functional = None  # type: ignore[attr-defined]
        stand_ins = {"torchvision": types.ModuleType("torchvision"), "torchvision.transforms": transforms}
        missing = {} if importlib.util.find_spec("torchvision") else stand_ins
        sys.modules |= {"k_diffusion": package, **missing}
        importlib.import_module("k_diffusion.sampling")
        for unused in missing:  # others ask whether it is there
            del sys.modules[unused]
    return getattr(sys.modules["k_diffusion.sampling"], f"sample_{name}")


def k_diffusion_draw(sample: Callable[..., Any], apply: Any, x: np.ndarray, sigmas: np.ndarray) -> Sample:
    """As a user of k-diffusion calls it, without its progress bar."""
    import torch

    start, levels = torch.from_numpy(x), torch.from_numpy(sigmas.copy())

    def model(x: Any, sigma: Any) -> Any:
        sigma = sigma[:, None]
        return x - sigma * apply(x / torch.sqrt(1 + sigma**2), torch.log(sigma))

    def draw() -> Any:
        with torch.no_grad():
            return sample(model, start, levels, disable=True)

    return draw


def diffrax_draw(name: str, model: Any, x: np.ndarray, times: jax.Array) -> Sample:
    """``dx/dsigma`` at fixed steps; the last step to 0 by hand, where the slope is not defined."""
    import diffrax

    solver = {"euler": diffrax.Euler, "heun": diffrax.Heun}[name]()
    slope = lambda sigma, x, _: (x - model(x, sigma)) / sigma

    @jax.jit
    def draw(x: jax.Array, times: jax.Array) -> jax.Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(slope),
            solver,
            times[0],
            times[-2],
            None,
            x,
            stepsize_controller=diffrax.StepTo(times[:-1]),
            max_steps=len(times),
        )
        assert solution.ys is not None
        return model(solution.ys[-1], times[-2])

    return functools.partial(draw, x, times)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIM": {"_class_name": "DDIMScheduler", "clip_sample": False},
    "DPM-Solver++ 2M": {"_class_name": "DPMSolverMultistepScheduler"},
    "UniPC": {"_class_name": "UniPCMultistepScheduler"},
    "Heun (discrete)": {"_class_name": "HeunDiscreteScheduler"},
}


def diffusers_methods(settings: Settings, network: Network) -> Iterator[tuple[str, int, dict[str, Candidate]]]:
    """Its schedulers in a pipeline's loop, and what ``js.recipes.from_diffusers`` makes of their configuration."""
    if not installed("diffusers"):
        return
    z = np.random.default_rng(1).normal(size=(settings.batch, settings.features)).astype(np.float32)
    apply = network.jax()
    for name, options in SCHEDULERS.items():
        recipe = js.recipes.from_diffusers(options, settings.steps)
        model = js.recipes.denoiser(recipe, lambda x, t: apply(x, t / 300))
        assert recipe.start is not None
        ours = jax.jit(lambda sampler, x, model=model: js.sample(sampler, model, x))
        found = {"ours": timed(functools.partial(ours, recipe.sampler, z * recipe.start))}
        for framework, torch_model in torch_networks(network).items():
            found[f"diffusers, {framework}"] = timed(diffusers_draw(options, torch_model, z, settings.steps))
        yield name, js.network_calls(recipe.sampler), found


def diffusers_draw(options: dict[str, Any], apply: Any, z: np.ndarray, steps: int) -> Sample:
    """The loop of a pipeline."""
    import diffusers
    import torch

    rest = {key: value for key, value in options.items() if key != "_class_name"}
    scheduler = getattr(diffusers, options["_class_name"])(**rest)
    start = torch.from_numpy(z)

    def draw() -> Any:
        scheduler.set_timesteps(steps)
        x = start * scheduler.init_noise_sigma
        with torch.no_grad():
            for t in scheduler.timesteps:
                noise = apply(scheduler.scale_model_input(x, t), t / 300)
                x = scheduler.step(noise, t, x).prev_sample
        return x

    return draw


def installed(package: str) -> bool:
    """Whether a package is there; nothing is imported."""
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(package))
    return False


def measure(settings: Settings) -> dict[str, Any]:
    """Everything, as plain lists and numbers."""
    before = os.getloadavg()
    network = Network(settings)
    lines = []
    for groups in (k_diffusion_methods, diffusers_methods):
        for name, calls, found in groups(settings, network):
            same_sample(name, found)
            x = np.zeros((settings.batch, settings.features), np.float32)
            found |= network_alone(network, x, calls)
            taken = interleaved({way: candidate.draw for way, candidate in found.items()}, rounds=settings.rounds)
            for way, candidate in found.items():
                lines.append(
                    {
                        "method": name,
                        "calls": calls,
                        "way": way,
                        "ms": 1e3 * taken.median(way),
                        "times_ours": taken.ratio(way, "ours"),
                        "quartiles": taken.spread(way, "ours"),
                        "first_call_s": candidate.first,
                    }
                )
    machine = {
        "packages": {name: version(name) for name in PACKAGES if installed(name)},
        "left_out": [name for name in PACKAGES if not installed(name)],
        "cores": os.cpu_count(),
        "load_before": before,
        "load_after": os.getloadavg(),
    }
    return {"machine": machine, "settings": config.to_json(settings), "lines": lines}


def same_sample(name: str, found: dict[str, Candidate]) -> None:
    """Refuse to time different computations."""
    exact = np.asarray(found["ours"].draw())
    for way, candidate in found.items():
        apart = np.abs(np.asarray(candidate.draw()) - exact).max() / np.abs(exact).max()
        if not apart < SAME:
            raise ValueError(f"{name}: {way} ends {apart:.1e} away from our sample")


def show(results: dict[str, Any], console: Console) -> None:
    """Print a table a method."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    load = f"{machine['load_before'][0]:.1f} to {machine['load_after'][0]:.1f}"
    console.print(f"{versions}; {machine['cores']} cores, load {load}")
    if machine["left_out"]:
        console.print(f"not installed: {', '.join(machine['left_out'])}")
    for method in dict.fromkeys(line["method"] for line in results["lines"]):
        lines = [line for line in results["lines"] if line["method"] == method]
        table = Table(title=f"{method}, {lines[0]['calls']} network calls", title_justify="left")
        for column in ("", "ms", "times ours", "quartiles", "first call, s"):
            table.add_column(column, justify="right" if column else "left")
        for line in lines:
            low, high = line["quartiles"]
            table.add_row(
                line["way"],
                f"{line['ms']:.2f}",
                f"{line['times_ours']:.2f}",
                f"{low:.2f} - {high:.2f}",
                f"{line['first_call_s']:.2f}",
            )
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.peers", description="Against the peers.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="steps=50")
    given = parser.parse_args(arguments)
    try:
        results = measure(config.override(Settings(), given.set))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console()
    show(results, console if console.is_terminal else Console(width=110))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
