"""Noise put back between steps: what churn, ancestral steps and Restart have in common.

A sample at one level becomes a sample at a noisier one when its signal shrinks and noise is added,

    x <- (alpha' / alpha) x + sigma' sqrt(1 - e^{-2 d}) z        d = l - l' >= 0, the half-log-SNR given up

and the marginals of the process are kept exactly. So a solver of the flow whose steps begin above the level at which
the ones before ended is a sampler as accurate as its steps, and a stochastic one: the fresh noise forgets their errors.
The noise is merged into the last row of the step before it, so that one row stays one network call and the network sees
register 0 as ever.

Any solver that takes ``lower_order_final=`` can make the steps.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp

from jaxsamplers.processes import Process
from jaxsamplers.tableau import ABSENT, WEIGHTED, Tableau, concatenate

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.solvers.grid import PerStep


class Solver(Protocol):
    """A solver that can be told whether its last step ends the run."""

    def __call__(self, process: Process, times: Float[Array, " n+1"], *, lower_order_final: bool) -> Tableau:
        """Its table on ``times``."""


def hop(
    process: Process,
    start: PerStep,
    end: PerStep,
    to: PerStep,
    given_up: PerStep,
    solver: Solver,
    noise_scale: float,
    lower_order_final: bool,
) -> Tableau:
    """One step of ``solver`` from every ``start`` to its ``end``, then noise up to the time ``to``."""
    bare = dataclasses.replace(process, origin=None)
    keep, noise = lift(process, end, to, given_up, noise_scale)

    def step(start: Array, end: Array, keep: Array, noise: Array, final: bool) -> Tableau:
        return renoise(solver(bare, jnp.stack([start, end]), lower_order_final=final), keep, noise)

    tables = []
    if whole := len(start) - lower_order_final:
        first = slice(whole)
        stages = jax.vmap(functools.partial(step, final=False))(start[first], end[first], keep[first], noise[first])
        tables.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stages))
    if lower_order_final:
        tables.append(step(start[-1], end[-1], keep[-1], noise[-1], final=True))
    return dataclasses.replace(concatenate(*tables), origin=process.origin)


def lift(process: Process, low: Array, high: Array, given_up: Array, noise_scale: float) -> tuple[Array, Array]:
    """What takes a sample from the time ``low`` to the noisier ``high``: a factor, and how much noise."""
    lost = -jnp.expm1(-2 * given_up)
    some = lost > 0
    noise = jnp.where(some, jnp.sqrt(jnp.where(some, lost, 1.0)), 0.0)
    return process.alpha(high) / process.alpha(low), noise_scale * process.sigma(high) * noise


def renoise(tableau: Tableau, keep: Array, noise: Array) -> Tableau:
    """The table, and after its last row ``x <- keep x + noise z``, merged into that row."""
    rows = tableau.rows
    fresh = noise
    if tableau.stochastic:  # two independent draws are one
        variance = (keep * rows.noise[-1, 0]) ** 2 + noise**2
        fresh = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    rows = dataclasses.replace(
        rows,
        weights=rows.weights.at[-1, 0].multiply(keep),
        noise=rows.noise.at[-1, 0].set(fresh),
        constant=None if rows.constant is None else rows.constant.at[-1, 0].multiply(keep),
    )
    first, *others = tableau.pattern
    sample = (*[WEIGHTED if enters else ABSENT for enters in first[:-1]], WEIGHTED)
    return dataclasses.replace(tableau, rows=rows, pattern=(sample, *others))
