"""DualFast: noises corrected away from the first one, in any solver.

A network's error grows as the noise level falls, and is least in its first answer ``e_T``, where the sample is all but
noise. Extrapolating from there,

    e_bar = (1 + c) e - c e_T        or  m_bar = (1 + c) m - (c / alpha) x + (c sigma / alpha) e_T

takes some of that error out of a sampler that has few steps, whatever the solver: each estimate ``m`` it would use is
replaced, for one more register. ``c`` grows from 0 in the first row to the strength in the last. On an exact network it
is an error of its own, of the size of ``c``.

Source: Yu, Luo, Wang & Zhao 2025, DualFast (arXiv 2506.13058). The paper lets ``c`` grow towards the data; the straight
line is our choice, an array of values is taken as it is. No program of the authors' was at hand to compare with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp
from jaxsamplers.tableau import Entry, Tableau, entries, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def dualfast(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    solver: Callable[..., Tableau] = dpm_solver_pp,
    strength: float | Float[Array, " rows"] = 0.1,
) -> Tableau:
    """DualFast around any solver; network calls as ``solver``.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times.
        solver: what makes the table whose estimates are corrected.
        strength: ``c`` in the last row, reached in equal steps from 0; or one value a row, of which the first, where
            there is nothing to correct, does not count.

    Raises:
        ValueError: a negative ``strength``, one of another length than the table, or a schedule that is not allowed.
    """
    checks.within("strength", strength, 0.0)
    inner = solver(process, times)
    t, n = inner.rows.time, len(inner)
    alpha, sigma = process.alpha(t), process.sigma(t)
    if checks.is_zero(alpha[0]):
        raise ValueError("dualfast predicts noise and needs signal at its first time, but alpha is 0 there")
    if jnp.shape(strength) not in ((), (n,)):
        raise ValueError(
            f"strength must be a number or one value for each of {n} rows, got shape {jnp.shape(strength)}"
        )
    ramp = jnp.linspace(0.0, 1.0, n, dtype=t.dtype) if jnp.ndim(strength) == 0 else 1.0
    opening = jnp.zeros_like(t).at[0].set(1.0)
    c = jnp.asarray(strength, t.dtype) * ramp * (1 - opening)

    weights, noise = entries(inner)
    corrected = []  # one more register, the first noise, in front of the estimate
    for sample, *others, estimate in weights:
        pulled = _times(-c / alpha, estimate)
        corrected.append([_plus(sample, pulled), *others, _times(c * sigma / alpha, estimate), _times(1 + c, estimate)])
    first = [opening / sigma, *[0] * (inner.registers - 1), 1 - opening, -opening * alpha / sigma]
    draws = [*noise, 0] if inner.stochastic else None
    added = inner.rows.constant
    constant = None if added is None else [*[added[:, i] for i in range(inner.registers)], 0]
    return table(process, t, [*corrected, first], draws, inner.rows.extra, constant)


def _times(factor: PerStep, entry: Entry) -> Entry:
    """A product over rows that leaves a structural 0 alone."""
    if isinstance(entry, int):
        return entry * factor if entry else 0
    return factor.reshape(factor.shape + (1,) * (entry.ndim - 1)) * entry


def _plus(a: Entry, b: Entry) -> Entry:
    """A sum that leaves structural zeros alone."""
    return a if isinstance(b, int) and b == 0 else a + b
