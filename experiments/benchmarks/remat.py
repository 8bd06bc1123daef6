"""What a gradient of the sampler's times costs: memory and time, for what is kept of each row and for chunks.

    nice python -m experiments.benchmarks.remat --out docs/memory.md

The digits' mixer, wider, and twenty rows of DPM-Solver++(2M); memory is what XLA plans for temporaries, time the median
of rounds in which all take turns, as a multiple of the forward run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxsamplers as js
from experiments import config
from experiments.benchmarks.timing import interleaved
from experiments.networks import NetworkSettings, build
from jaxsamplers.records.files import write_text

TEXT = """# Memory

What `python -m experiments.benchmarks.remat` measures: the gradient of a loss of the samples with respect to the times,
on {device}, {batch} images of 8 x 8, a mixer of width {width} and depth {depth} behind {rows} rows of DPM-Solver++(2M).
Memory is what XLA plans for temporaries; time is the median of {rounds} rounds, as a multiple of the forward run.

| | memory, MB | time |
|---|---|---|
{table}

* `remat=True`, the default of `js.run`, keeps the registers of each row and computes the network again when the
  gradient comes by. A policy keeps more: `js.sample(..., remat=jax.checkpoint_policies.dots_saveable)`.
* `js.chunked(function, size)` computes a batch in parts, forward and in gradients, for which the registers of all rows
  of all parts are kept; not so with `jax.checkpoint(function)`, which computes each part once more. With one key per
  sample, samples do not depend on the size. Drawing the starts from keys inside the function leaves nothing of the
  whole batch in memory but its results:

```python
def draw(keys):
    return js.sample(sampler, model, jax.vmap(lambda key: process.prior(key, shape))(keys), keys)

images = jax.jit(js.chunked(draw, size=500))(js.sample_keys(key, jnp.arange(50_000)))
```

* `jax.jit(js.sample, donate_argnums=2)` gives the memory of the noise to the samples; the caller's array is gone then.
* Where the registers of all rows are too much, cut the run: `jax.checkpoint(lambda x: js.sample(sampler[:5], model,
  x))` keeps one state instead of five; each part is a network to compile.
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        width: of the network.
        depth: of the network.
        batch: images.
        rows: of the sampler.
        chunk: images at a time in the last lines.
        rounds: how often each is timed.
    """

    width: int = 192
    depth: int = 4
    batch: int = 32
    rows: int = 20
    chunk: int = 8
    rounds: int = 7


def measure(settings: Settings) -> list[tuple[str, float, float]]:
    """Name, megabytes and time of every candidate; the forward run first."""
    process = js.processes.vp_linear()
    network = NetworkSettings(width=settings.width, depth=settings.depth)
    model = js.denoiser(build(network, jax.random.key(0)), process, prediction="epsilon")
    times = js.schedules.half_log_snr(process, settings.rows)
    noise = process.prior(jax.random.key(1), (settings.batch, network.size, network.size, network.channels))

    def loss(times: Any, noise: Any, remat: Any = True, parts: Callable[..., Any] = lambda draw: draw) -> Any:
        sampler = js.solvers.dpm_solver_pp(process, times)
        return jnp.mean(parts(lambda x: js.sample(sampler, model, x, remat=remat))(noise) ** 2)

    def gradient(*options: Any) -> Callable[..., Any]:
        return lambda times, noise: jax.grad(loss)(times, noise, *options)

    candidates = {
        "forward": loss,
        "`remat=False`": gradient(False),
        "`remat=dots_saveable`": gradient(jax.checkpoint_policies.dots_saveable),
        "`remat=True`": gradient(True),
        f"`js.chunked(draw, {settings.chunk})`": gradient(True, lambda draw: js.chunked(draw, settings.chunk)),
        f"`js.chunked(jax.checkpoint(draw), {settings.chunk})`": gradient(
            True, lambda draw: js.chunked(jax.checkpoint(draw), settings.chunk)
        ),
    }
    programs = {name: jax.jit(function).lower(times, noise).compile() for name, function in candidates.items()}
    calls = {name: functools.partial(program, times, noise) for name, program in programs.items()}
    timings = interleaved(calls, rounds=settings.rounds)
    size = lambda program: program.memory_analysis().temp_size_in_bytes / 1e6
    return [(name, size(program), timings.ratio(name, "forward")) for name, program in programs.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write it with what it means."""
    parser = argparse.ArgumentParser(description="memory and time of gradients, by what is kept")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the settings")
    parser.add_argument("--out", type=Path, help="a Markdown file")
    chosen = parser.parse_args(arguments)
    settings = config.override(Settings(), chosen.set)
    table = "\n".join(f"| {name} | {size:.3g} | {ratio:.2g} |" for name, size, ratio in measure(settings))
    print(table)
    if chosen.out:
        device = jax.devices()[0].device_kind
        write_text(chosen.out, TEXT.format(device=device, table=table, **dataclasses.asdict(settings)))
        print(f"wrote {chosen.out}")


if __name__ == "__main__":
    main()
