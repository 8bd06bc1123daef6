"""Drawing tokens from logits: this library's two-level draw against ``jax.random.categorical``, and whole steps.

``python -m experiments.benchmarks.discrete`` prints, for each vocabulary, seconds a call and ratios taken within a
round; temporary memory is what XLA says a compiled program needs beyond its arguments and results.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments.benchmarks.timing import interleaved

KEY = jax.random.key(0)


def two_level(logits: jax.Array, key: jax.Array) -> jax.Array:
    """Ours: two uniform numbers a row."""
    words = jax.random.bits(key, (2, *logits.shape[:-1]))
    return js.discrete.categorical(logits).draw(words[0], words[1])


def gumbel(logits: jax.Array, key: jax.Array) -> jax.Array:
    """JAX's: one number a token."""
    return jax.random.categorical(key, logits)


def top_64(logits: jax.Array, key: jax.Array) -> jax.Array:
    """Of the 64 likeliest tokens only: another law, and the price of finding them."""
    heads, tokens = jax.lax.top_k(logits, min(64, logits.shape[-1]))
    return jnp.take_along_axis(tokens, two_level(heads, key)[..., None], axis=-1)[..., 0]


def argmax(logits: jax.Array, key: jax.Array) -> jax.Array:
    """No draw at all, one pass over the logits: what is least possible."""
    return jnp.argmax(logits, axis=-1)


def step(sampler: js.Sampler, start: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """One step of a sampler, with a network that costs nothing."""
    return lambda logits, key: js.sample(sampler, lambda x, t: logits, start, key)


def race(logits: jax.Array, key: jax.Array) -> jax.Array:
    """MDLM's step as published: one race among the mask and all tokens at every position."""
    x = jnp.where(jnp.arange(logits.shape[1]) % 2 == 0, logits.shape[-1], 0)
    moves = jax.nn.log_softmax(logits) + jnp.log(0.01 / 0.5)
    stays = jnp.full((*logits.shape[:2], 1), jnp.log(0.49 / 0.5))
    drawn = jax.random.categorical(key, jnp.concatenate([moves, stays], axis=-1))
    return jnp.where(x == logits.shape[-1], drawn, x)


def candidates(vocab: int, batch: int, length: int) -> dict[str, Callable[..., Any]]:
    """What is timed: draws at every position; ancestral steps on half-masked tokens; an ordered step that cleans one
    position in fifty, chosen before its token is drawn.
    """
    process = js.discrete.masked(vocab)
    masks = jnp.full((batch, length), vocab)
    half = jnp.where(jnp.arange(length) % 2 == 0, masks, 0)
    ancestral = js.discrete.ancestral(process, jnp.array([0.5, 0.49]))
    ordered = js.discrete.ordered(process, jnp.array([1.0, 0.98]), length=length)
    return {
        "two_level": two_level,
        "gumbel": gumbel,
        "top_64": top_64,
        "argmax": argmax,
        "step": step(ancestral, half),
        "step_ordered": step(ordered, masks),
        "step_race": race,
    }


def measure(vocab: int, batch: int, length: int, rounds: int) -> None:
    """Print one table."""
    order = np.random.default_rng(0).permutation(vocab)
    zipf = -np.log(1.0 + order)
    noise = np.random.default_rng(1).normal(size=(batch, length, 1))
    logits = jnp.asarray(zipf * (1 + 0.1 * noise), jnp.float32)
    compiled = {name: jax.jit(f).lower(logits, KEY).compile() for name, f in candidates(vocab, batch, length).items()}
    calls = {name: (lambda f=f: f(logits, KEY)) for name, f in compiled.items()}
    timings = interleaved(calls, rounds=rounds)
    print(f"vocab {vocab}, batch {batch}, length {length}: logits {logits.nbytes / 2**20:.0f} MiB")
    for name, program in compiled.items():
        against = "step" if name.startswith("step") else "two_level"
        analysis = program.memory_analysis()
        memory = analysis.temp_size_in_bytes / 2**20 if analysis is not None else math.nan
        ratio, milliseconds = timings.ratio(name, against), 1000 * timings.median(name)
        print(f"  {name:14s} {milliseconds:9.1f} ms   {ratio:6.2f} x {against:10s} {memory:8.1f} MiB temporary")


def entropies(vocab: int, draws: int, chunk: int = 100_000) -> None:
    """The law of the tokens drawn under Zipf's, and how many positions move in 1,024 short steps.

    Moves and tokens are separate draws, so the two together are the law of a whole run. Entropy has Miller and Madow's
    correction for the number of draws.
    """
    law = 1 / np.arange(1, vocab + 1)
    law /= law.sum()
    tokens = js.discrete.categorical(jnp.asarray(np.log(law), jnp.float32))
    draw = jax.jit(lambda key: tokens.draw(*jax.random.bits(key, (2, chunk))))
    drawn = np.concatenate([np.asarray(draw(jax.random.fold_in(KEY, i))) for i in range(draws // chunk)])
    counts = np.bincount(drawn, minlength=vocab)
    seen = counts[counts > 0] / counts.sum()
    entropy = -(seen * np.log(seen)).sum() + (len(seen) - 1) / (2 * counts.sum())
    tail = counts[vocab // 2 :].sum() / counts.sum() / law[vocab // 2 :].sum()
    print(f"Zipf over {vocab}, {counts.sum()} tokens: entropy {-(law * np.log(law)).sum():.4f}, drawn {entropy:.4f};")
    print(f"the rarer half of the vocabulary drawn {tail:.4f} times as often as due")

    process = js.discrete.masked(1)
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, steps=1024))
    masks = lambda state: (state.x == 1).mean()
    run = jax.jit(lambda s, x: js.run(s, lambda x, t: jnp.zeros((*x.shape, 1)), x, KEY, record=masks)[1])
    left = np.asarray(run(sampler, jnp.ones(1_000_000, jnp.int32)))
    off = np.abs(left - np.linspace(1, 0, 1025)[1:]).max()
    print(f"1,024 steps: masks left differ from 1 - alpha by {off:.5f} at most")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[50, 1000, 50257])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entropy", action="store_true", help="also check what is drawn from a Zipf law")
    arguments = parser.parse_args()
    for vocab in arguments.vocab:
        measure(vocab, arguments.batch, arguments.length, arguments.rounds)
    if arguments.entropy:
        entropies(50257, 4_000_000)


if __name__ == "__main__":
    main()
