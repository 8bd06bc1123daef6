"""Euler's and Heun's methods on the probability-flow ODE, in the process's own time.

With the denoiser's estimate ``m``, ``x = alpha m + sigma eps`` moves along

    dx/dt = alpha_dot m + sigma_dot eps = a x + b m        a = sigma_dot / sigma,  b = alpha_dot - alpha a

For ``edm`` and ``rectified_flow``, where ``alpha`` and ``sigma`` are linear in time, Euler's method equals DDIM.

Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), eq. 4 and algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    dt = g.t_next - g.t
    a, b = _slope(process, g.t)
    predictor = table(process, g.t, [[1 + dt * a, 0, dt * b], [1, 0, 0]])  # registers: the sample, the one before
    corrected = slice(None, -1 if lower_order_final else None)
    half, t_next = dt[corrected] / 2, g.t_next[corrected]
    a_next, b_next = _slope(process, t_next)
    # x + half (slope + slope') = (x + ahead) / 2 + half slope': no slope need be remembered
    corrector = table(process, t_next, [[0.5 + half * a_next, 0.5, half * b_next], [1, 0, 0]])
    both = interleave(predictor[corrected], corrector)
    return concatenate(both, predictor[-1:]) if lower_order_final else both


def _slope(process: Process, t: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    a = sigma_dot / process.sigma(t)
    return a, alpha_dot - process.alpha(t) * a
