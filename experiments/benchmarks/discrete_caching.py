"""One law by three ways of calling the network: every step, when a token has changed, or at every event.

    python -m experiments.benchmarks.discrete_caching

Ancestral steps of masked digits, 64 tokens, with the trained network of the package; the same with ``cached``, which
draws the same samples; and ``first_hitting``. Calls are those that the state counts, seconds medians of whole runs.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax

import jaxsamplers as js
from experiments.benchmarks.timing import interleaved

KEY = jax.random.key(0)
digits = js.discrete.digits
LENGTH = digits.SIDE**2


def measure(batch: int, steps: int, rounds: int) -> None:
    """Print what each way takes."""
    process, model = digits.process(), digits.network()
    masks = process.prior(KEY, (batch, LENGTH))
    plain = js.discrete.ancestral(process, js.schedules.uniform(process, steps))
    samplers: dict[str, Any] = {
        f"ancestral, {steps} steps": plain,
        "the same, cached": js.discrete.cached(plain),
        "first_hitting": js.discrete.first_hitting(process, LENGTH),
    }
    run = jax.jit(js.run)
    calls = {name: functools.partial(run, sampler, model, masks, KEY) for name, sampler in samplers.items()}
    timings = interleaved(calls, rounds=rounds)
    likely = 1 + (steps - 1) * (1 - (1 - 1 / steps) ** (batch * LENGTH))
    print(f"batch {batch}; calls to expect with a cache {likely:.0f}")
    for name, sampler in samplers.items():
        memory = run(sampler, model, masks, KEY).memory
        made = int(memory.calls) if isinstance(sampler, js.discrete.Cached) else js.network_calls(sampler)
        print(f"  {name:24s} {made:5d} calls   {timings.median(name):8.3f} s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for batch in options.batch:
        for steps in options.steps:
            measure(batch, steps, options.rounds)


if __name__ == "__main__":
    main()
