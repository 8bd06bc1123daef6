"""Token sampling in flow_matching against ours: a whole run over one set of logits, in one process.

    python -m experiments.benchmarks.discrete_peers

The network costs next to nothing: it returns the same logits whatever it is shown, so that what is timed is the
sampling. (Ours adds nothing times the time to them: the compiler would otherwise take the whole pass over logits that
never change out of the loop, and eight steps would cost what one does.) Both
start from masks and take equal steps of a linear path, ours by the probability of a move, the peer's Euler solver by an
exponential clock; it wants probabilities, so its network takes their softmax. A line is printed only if both draw
tokens of the same law. Needs ``pip install flow_matching torch``; hackable_diffusion's repository is no installable
package.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments.benchmarks.timing import interleaved

KEY = jax.random.key(0)
LIMIT = 6.0  # standard errors between two frequencies


def logits_of(vocab: int, batch: int, length: int) -> np.ndarray:
    """Zipf's law, a little different at every position, in random order."""
    rng = np.random.default_rng(0)
    zipf = -np.log(1.0 + rng.permutation(vocab))
    return (zipf * (1 + 0.1 * rng.normal(size=(batch, length, 1)))).astype(np.float32)


def peer(logits: np.ndarray, steps: int) -> Any:
    """flow_matching's solver, from masks; the mask is one more token, as in its examples."""
    import torch
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver
    from flow_matching.utils import ModelWrapper

    vocab = logits.shape[-1]
    with_mask = torch.from_numpy(np.pad(logits, [(0, 0), (0, 0), (0, 1)], constant_values=-np.inf))

    class Network(ModelWrapper):
        def forward(self, x: Any, t: Any, **extras: Any) -> Any:
            return torch.softmax(with_mask, dim=-1)

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(1.0))
    solver = MixtureDiscreteEulerSolver(Network(None), path, vocab + 1)
    masks = torch.full(logits.shape[:-1], vocab, dtype=torch.long)
    grid = torch.linspace(0, 1, steps + 1)
    return lambda: solver.sample(masks, step_size=None, time_grid=grid).numpy()


def ours(logits: np.ndarray, steps: int) -> Any:
    """Ancestral steps, compiled with the logits as an argument."""
    process = js.discrete.masked(logits.shape[-1])
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, steps=steps))
    masks = process.prior(KEY, logits.shape[:-1])
    run = jax.jit(lambda key, logits: js.sample(sampler, lambda x, t: logits + 0 * t, masks, key))
    on_device, count = jnp.asarray(logits), iter(range(10**9))
    return lambda: run(jax.random.fold_in(KEY, next(count)), on_device)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Standard errors between the two shares of the commonest token."""
    common = np.bincount(np.ravel(one)).argmax()
    shares = [(np.asarray(drawn) == common).mean() for drawn in (one, other)]
    mean = sum(shares) / 2
    return abs(shares[0] - shares[1]) / np.sqrt(2 * max(mean * (1 - mean), 1e-9) / np.size(one))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--vocab", type=int, nargs="+", default=[50, 1000, 50257])
    parser.add_argument("--length", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        print(", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "flow_matching")))
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}: pip install flow_matching torch") from None
    print(f"batch {options.batch}, {options.steps} steps; milliseconds a step, medians of {options.rounds} rounds")
    for vocab in options.vocab:
        for length in options.length:
            logits = logits_of(vocab, options.batch, length)
            draw = {"ours": ours(logits, options.steps), "flow_matching": peer(logits, options.steps)}
            off = alike(*(np.concatenate([draw[name]() for _ in range(3)]) for name in draw))
            if off > LIMIT:
                raise SystemExit(f"the samples differ: {off:.1f} standard errors at vocab {vocab}, length {length}")
            timings = interleaved(draw, rounds=options.rounds)
            each = {name: 1000 * timings.median(name) / options.steps for name in draw}
            low, high = timings.spread("flow_matching", "ours")
            print(
                f"vocab {vocab:6d}, length {length:5d}:  ours {each['ours']:9.3f}   flow_matching "
                f"{each['flow_matching']:9.3f}   ratio {timings.ratio('flow_matching', 'ours'):6.2f} "
                f"({low:.2f} to {high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
