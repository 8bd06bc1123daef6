"""Momentum: heavy ball on any multistep method, and generalised heavy ball (GHVB), for few steps at a large guidance.

In ``y = x / alpha`` and ``rho = sigma / alpha`` the probability flow is ``dy = e d rho``, and a multistep method moves
by ``y' = y + (rho' - rho) d``, ``d`` a combination of the last noises. Where the steps leave its region of stability
the sample diverges. A velocity, an average over the past that starts at the first value, widens that region:

    heavy ball   v' = (1 - beta) v + beta d         y' = y + (rho' - rho) v'                      first order
    GHVB         v' = (1 - beta) v + beta e         y' = y + (rho' - rho) sum_k c_k(beta) nabla^k v'

With ``nabla v_n = v_n - v_{n-1}`` and Adams-Bashforth's ``1 + nabla / 2 + 5 nabla^2 / 12 + ...``, the second undoes the
delay of the average: ``c_k = gamma_k + (1 / beta - 1) gamma_{k-1}``. Order ``r`` keeps the terms below ``nabla^r``; the
weights are those of equal steps, and ``beta = 1`` is iPNDM. A fractional order of the paper is ours rounded up, with
``beta`` its fraction: GHVB 1.8 is ``order=2, beta=0.8``. (The authors' DPM-Solver++ with momentum has its velocity
start in the first step of order 2, and none in steps of order 1.)

Source: Wizadwongsa, Chinchuthakun, Khungurn, Raj & Suwajanakorn 2024, Diffusion sampling with momentum for mitigating
divergence artifacts (arXiv 2307.11118), sections 4.1 - 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.deis import ipndm
from jaxsamplers.solvers.grid import select, steps
from jaxsamplers.tableau import Entry, Tableau, entries, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep, Steps

GAMMA = (1.0, 1 / 2, 5 / 12, 3 / 8)  # Adams-Bashforth in backward differences
DIFFERENCES: tuple[tuple[int, ...], ...] = (
    (1, 0, 0, 0),
    (1, -1, 0, 0),
    (1, -2, 1, 0),
    (1, -3, 3, -1),
)  # nabla^k as weights of the values


def ghvb(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    beta: float | Float[Array, " n"] = 0.8,
) -> Tableau:
    """Generalised heavy ball; one network call a step, second order from ``order=2`` on.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times. A step to the clean end returns the estimate, whatever was remembered.
        order: how many velocities are combined, 1 to 4; the first steps use those there are.
        beta: how much of the newest noise enters the velocity, above 0 to 1 (no momentum); a number, or one a step.

    Raises:
        ValueError: an order, ``beta`` or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=4)
    checks.within("beta", beta, 0.0, 1.0, above=True)
    g = steps(process, times)
    g.needs_signal("ghvb")
    x = g.alpha_next / g.alpha
    gain = g.sigma_next - g.sigma * x
    beta = jnp.broadcast_to(jnp.asarray(beta, g.t.dtype), g.t.shape)

    def weights(k: int, here: Array) -> list[PerStep]:
        terms = [jnp.ones_like(beta), *[GAMMA[j] + (1 / beta - 1) * GAMMA[j - 1] for j in range(1, k)]]
        zero = jnp.zeros_like(beta)
        return [gain * sum((terms[j] * DIFFERENCES[j][i] for j in range(i, k)), start=zero) for i in range(k)]

    c = select(g.orders(order, lower_order_final=False), order, weights)
    c += [jnp.zeros_like(gain)] * (2 - order)  # one velocity is remembered in any case
    new = _without_past(g, beta)
    count = len(c) - 1
    velocity: list[Entry] = [new / g.sigma, 1 - new, *[0] * (count - 1), -new * g.alpha / g.sigma]
    sample = [x + c[0] * velocity[0], c[0] * velocity[1] + c[1], *c[2:], c[0] * velocity[-1]]
    shift: list[list[Entry]] = [[0] * j + [1] + [0] * (count + 1 - j) for j in range(1, count)]
    return table(process, g.t, [sample, velocity, *shift])


def heavy_ball(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    solver: Callable[..., Tableau] = ipndm,
    beta: float | Float[Array, " n"] = 0.8,
    prediction: str = "epsilon",
) -> Tableau:
    """Heavy-ball momentum on a multistep solver, first order; one network call a step, as ``solver``.

    Args:
        process: the noise process; its signal must not vanish at the first time if ``prediction`` is "epsilon".
        times: ``n + 1`` decreasing times. A step to the clean end takes no momentum.
        solver: deterministic, with one call a step and a memory of network values only: ``ddim``, ``ipndm``, ``lms``,
            ``deis``, ``dpm_solver``, ``dpm_solver_pp``.
        beta: how much of the newest slope enters the velocity, above 0 to 1 (``solver`` itself); a number, or one a
            step.
        prediction: what ``solver`` combines, noises "epsilon" or estimates "x0".

    Raises:
        ValueError: a solver that draws noise or takes several calls a step, or an argument that is not allowed.
    """
    checks.within("beta", beta, 0.0, 1.0, above=True)
    checks.one_of("prediction", prediction, ("epsilon", "x0"))
    g = steps(process, times)
    if prediction == "epsilon":
        g.needs_signal("heavy_ball")
        x = g.alpha_next / g.alpha
        gain = g.sigma_next - g.sigma * x
    else:
        x, gain = g.keep, g.gain
    inner = solver(process, times)
    if inner.stochastic or len(inner) != len(g.t) or inner.rows.constant is not None:
        raise ValueError("heavy_ball needs a deterministic solver with one network call a step")
    new = _without_past(g, beta)
    (first, *remembered), _ = entries(inner)
    moved = [first[0] - x, *first[1:]]  # x' = x x + moved; the velocity is moved / gain
    sample = [x + new * moved[0], *[_times(new, e) for e in moved[1:-1]], (1 - new) * gain, _times(new, moved[-1])]
    speed = new / gain
    velocity = [speed * moved[0], *[_times(speed, e) for e in moved[1:-1]], 1 - new, _times(speed, moved[-1])]
    rest = [[*row[:-1], 0, row[-1]] for row in remembered]
    return table(process, g.t, [sample, *rest, velocity])


def _without_past(g: Steps, beta: float | PerStep) -> PerStep:
    """``beta``, but 1 in the first step and in an infinite one, where the past counts for nothing."""
    beta = jnp.broadcast_to(jnp.asarray(beta, g.t.dtype), g.t.shape)
    return jnp.where(g.finite, beta, 1.0).at[0].set(1.0)


def _times(factor: PerStep, entry: Entry) -> Entry:
    """A product that leaves a structural 0 alone."""
    return 0 if isinstance(entry, int) and entry == 0 else factor * entry
