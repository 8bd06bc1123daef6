"""Euler's and Heun's methods on the probability-flow ODE, in the process's own time.

With the denoiser's estimate ``m``, ``x = alpha m + sigma eps`` moves along

    dx/dt = alpha_dot m + sigma_dot eps = a x + b m        a = sigma_dot / sigma,  b = alpha_dot - alpha a

For ``edm`` and ``rectified_flow``, where ``alpha`` and ``sigma`` are linear in time, Euler's method equals DDIM.

Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), eq. 4 and algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

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


def heun(process: Process, times: Float[Array, " n+1"], *, lower_order_final: bool = True) -> Tableau:
    """Heun's method in time, second order; two network calls a step, and one in the last if it is Euler's.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        lower_order_final: end with an Euler step, which never asks the network at the last time (EDM's rule).

    Raises:
        ValueError: ``lower_order_final=False`` with a schedule that ends at the clean end, where the slope is
            not defined, or a schedule that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("heun cannot evaluate the slope at the clean end: use lower_order_final=True")
    last = euler(process, times)[-1:]
    if lower_order_final:
        g = jax.tree.map(lambda level: level[:-1], g)
    dt = g.t_next - g.t
    a, b = _slope(process, g.t)
    a_next, b_next = _slope(process, g.t_next)
    predictor = table(  # registers: the sample, the anchor x(t), the slope there
        process,
        g.t,
        [
            [1 + dt * a, 0, 0, dt * b],
            [1, 0, 0, 0],
            [a, 0, 0, b],
        ],
    )
    corrector = table(
        process,
        g.t_next,
        [
            [dt / 2 * a_next, 1, dt / 2, dt / 2 * b_next],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
        ],
    )
    both = interleave(predictor, corrector)
    return concatenate(both, last) if lower_order_final else both


def _slope(process: Process, t: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    a = sigma_dot / process.sigma(t)
    return a, alpha_dot - process.alpha(t) * a
