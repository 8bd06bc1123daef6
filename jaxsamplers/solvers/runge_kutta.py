"""Euler's, Heun's and the midpoint method on the probability-flow ODE, in the process's own time or in the noise level.

With the denoiser's estimate ``m``, ``x = alpha m + sigma eps`` moves along

    dx/dt = alpha_dot m + sigma_dot eps = a x + b m        a = sigma_dot / sigma,  b = alpha_dot - alpha a

For ``edm`` and ``rectified_flow``, where ``alpha`` and ``sigma`` are linear in time, Euler's method equals DDIM. In
``rho = sigma / alpha``, where ``d(x / alpha) / d rho = (x / alpha - m) / rho``, it does so for every process; Heun's
method in ``rho`` is what k-diffusion and diffusers run, on variance-preserving networks too.

Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), eq. 4 and algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def euler(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """Euler's method in time, first order; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    dt = g.t_next - g.t
    a, b = _slope(process, g.t)
    return table(process, g.t, [[1 + dt * a, dt * b]])


def heun(
    process: Process, times: Float[Array, " n+1"], *, variable: str = "t", lower_order_final: bool = True
) -> Tableau:
    """Heun's method, second order; two network calls a step, and one in the last if it is Euler's.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        variable: what is stepped in, the process's time "t", or "rho", for which the first time needs signal.
        lower_order_final: end with an Euler step, which never asks the network at the last time (EDM's rule).

    Raises:
        ValueError: ``lower_order_final=False`` with a schedule that ends at the clean end, where the slope is
            not defined, another variable, or a schedule that is not allowed.
    """
    checks.one_of("variable", variable, ("t", "rho"))
    g = steps(process, times)
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("heun cannot evaluate the slope at the clean end: use lower_order_final=True")
    corrected = slice(None, -1 if lower_order_final else None)
    ahead = jax.tree.map(lambda level: level[corrected], g)
    # x + step (slope + slope') / 2 = (x + ahead) / 2 + step slope' / 2: no slope need be remembered
    if variable == "t":
        dt = g.t_next - g.t
        a, b = _slope(process, g.t)
        x, m = 1 + dt * a, dt * b
        half = (ahead.t_next - ahead.t) / 2
        a_next, b_next = _slope(process, ahead.t_next)
        scale, slope = 0.5, (half * a_next, half * b_next)
    else:
        g.needs_signal('heun with variable="rho"')
        x, m = g.keep, g.gain
        scale = 0.5 * ahead.alpha_next / ahead.alpha
        part = -0.5 * jnp.expm1(ahead.h)  # (rho' - rho) / (2 rho')
        slope = part, -ahead.alpha_next * part
    predictor = table(process, g.t, [[x, 0, m], [1, 0, 0]])  # registers: the sample, the one before
    corrector = table(process, ahead.t_next, [[0.5 + slope[0], scale, slope[1]], [1, 0, 0]])
    both = interleave(predictor[corrected], corrector)
    return concatenate(both, predictor[-1:]) if lower_order_final else both


def midpoint(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """The midpoint method in time, second order; two network calls a step, none at the last time.

    Half an Euler step asks for the slope in the middle, which makes the whole step: what flow-matching code calls
    "midpoint".

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    half = (g.t_next - g.t) / 2
    a, b = _slope(process, g.t)
    a_middle, b_middle = _slope(process, g.t + half)
    to_middle = table(process, g.t, [[1 + half * a, 0, half * b], [1, 0, 0]])  # the sample, the one before
    whole = table(process, g.t + half, [[2 * half * a_middle, 1, 2 * half * b_middle], [1, 0, 0]])
    return interleave(to_middle, whole)


def pseudo_corrector(process: Process, times: Float[Array, " n+1"], *, lower_order_final: bool = True) -> Tableau:
    """Heun's method at one network call a step, second order: the slope at the predicted point serves twice.

    Where Heun asks again at the corrected ``x``, FlowTurbo keeps the slope ``d`` it has of the predicted ``y``:

        d = slope(y),  x = p + (h_1 / 2) d,  p' = x + (h / 2) d,  y' = x + h d

    with ``h_1`` and ``h`` the steps behind and ahead, and ``x = y`` at first.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        lower_order_final: end with the prediction; otherwise correct it, for one more call, at the last time.

    Raises:
        ValueError: ``lower_order_final=False`` with a schedule that ends at the clean end, where the slope is
            not defined, or a schedule that ``schedules.validate`` refuses.
    Source: Zhao et al. 2024, FlowTurbo (arXiv 2409.18128), sec. 3.
    """
    g = steps(process, times)
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("pseudo_corrector cannot evaluate the slope at the clean end: use lower_order_final=True")
    h = g.t_next - g.t
    t, none = (g.t, h[:0]) if lower_order_final else (jnp.append(g.t, g.t_next[-1]), jnp.zeros_like(h[:1]))
    behind = jnp.concatenate([jnp.zeros_like(h[:1]), h])[: len(t)] / 2
    ahead = jnp.concatenate([h, none])
    first = jnp.zeros_like(t).at[0].set(1.0)
    a, b = _slope(process, t)
    rows = [[first + weight * a, 1 - first, weight * b] for weight in (behind + ahead, behind + ahead / 2)]
    return table(process, t, rows)


def _slope(process: Process, t: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    a = sigma_dot / process.sigma(t)
    return a, alpha_dot - process.alpha(t) * a
