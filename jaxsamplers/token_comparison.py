"""Samplers of tokens by name and number of steps, and one compiled program for all numbers of calls.

A sampler's rows are padded to the most calls that are compared, and a loop of as many turns as there are calls reads
them, so a sampler compiles once; those that differ in numbers only, as most tables do, compile once together.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, discrete, schedules
from jaxsamplers.comparison import steps_within
from jaxsamplers.core import Model, Sampler, network_calls
from jaxsamplers.discrete.processes import Replacement

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Times = Float[Array, " n+1"]

registry: dict[str, Any] = discrete.registry
REFUSED = {
    "glauber": "glauber repairs what another sampler returned, it does not start from noise: use it in Python",
    "d3pm": "d3pm needs matrices, from js.discrete.transition_matrices; on other processes it is ancestral",
}
TWINS = {
    "analytic": "the same as ancestral",
    "k_gillespie": "the same as ordered, where so many tokens a step are as many as masks on average",
}

USUAL: dict[str, Callable[[int], dict[str, Any]]] = {  # options that have no default
    "remdm_loop": lambda steps: {"at": max(1, steps * 9 // 10), "loops": max(1, steps // 4)},
}


def build(name: str, process: Replacement, times: Times, length: int, options: Mapping[str, Any]) -> Sampler:
    """A sampler of ``registry`` that takes so many steps.

    Those of one token a call take as many events as steps, and ``k_gillespie`` spreads the tokens evenly.

    Raises:
        ValueError: an unknown sampler, one that needs another start or process, or options it refuses.
    """
    make: Any = checks.look_up("solver", name, registry)
    steps = len(times) - 1
    if name in REFUSED:
        raise ValueError(REFUSED[name])
    if name == "first_hitting" and steps < length:
        raise ValueError(f"first_hitting draws one token a call: it needs {length} steps or more, got {steps}")
    if name == "k_gillespie" and steps > length:
        raise ValueError(f"k_gillespie draws a token or more a call: it needs {length} steps or fewer, got {steps}")
    given: dict[str, Any] = {
        "times": times,
        "length": length,
        "events": length if name == "first_hitting" else steps,
        "counts": [int(n) for n in np.diff(np.arange(steps + 1) * length // steps)],
    }
    wanted = [p for p in list(inspect.signature(make).parameters.values())[1:] if p.kind is not p.KEYWORD_ONLY]
    needed = [
        n for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    if missing := [option for option in needed if option not in options]:
        raise ValueError(f"{name} needs the options {' and '.join(missing)}")
    try:
        return make(process, *(given[p.name] for p in wanted), **options)
    except TypeError as error:
        raise ValueError(str(error)) from error


def within(name: str, process: Replacement, calls: int, length: int) -> Sampler | str:
    """The sampler of the most equal steps in at most so many calls, or why there is none."""
    options = USUAL.get(name, lambda steps: {})
    make = lambda steps: build(name, process, schedules.uniform(process, steps), length, options(steps))
    if name == "glauber_generative":  # a step is a sweep over all positions
        return make(calls // length) if calls >= length else f"makes {length} calls a sweep"
    try:
        if network_calls(most := make(calls)) == calls:
            return most
    except ValueError as error:
        return str(error)
    steps = steps_within(make, calls)
    return steps if isinstance(steps, str) else make(steps)


def model_for(name: str, process: Replacement, model: Model) -> Model:
    """What a sampler asks: ``ddpd`` wants to be told which tokens are noise, too."""
    return discrete.planned_from(process, model) if name == "ddpd" else model


def padded(sampler: Sampler, calls: int) -> Sampler:
    """The sampler with its last row again and again, for ``run_first``."""
    more = calls - network_calls(sampler)
    longer = lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], more, axis=0)])
    return dataclasses.replace(sampler, rows=jax.tree.map(longer, sampler.rows))  # type: ignore[type-var]


@jax.jit
def run_first(
    sampler: Sampler, count: Int[Array, ""], model: Model, x: Int[Array, "n length"], key: Key[Array, ""]
) -> Int[Array, "n length"]:
    """The first ``count`` rows of a sampler, with one program for all counts."""

    def body(i: Array, state: Any) -> Any:
        return sampler.step(state, jax.tree.map(lambda leaf: leaf[i], sampler.rows), model)

    return jax.lax.fori_loop(0, count, body, sampler.init(x, key)).x
