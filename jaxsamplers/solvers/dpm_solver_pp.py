"""DPM-Solver++: multistep exponential integrators on the data prediction.

In half-log-SNR ``l`` the probability flow is linear in ``x`` plus the denoiser ``m(l)``, with exact solution

    x' = keep x + alpha' int_0^h e^{-(h - s)} m(l + s) ds            gain = alpha' int_0^h e^{-(h - s)} ds

Order ``k`` replaces ``m`` by a polynomial through the last ``k`` estimates, taken at ``s = 0, -h_1, -h_1 - h_2``:

    order 1   m_0                                                              (DDIM)
    order 2   m_0 + (m_0 - m_1) h / (2 h_1)  held fixed: the midpoint rule     (algorithm 2, "2M")
    order 3   m_0 + d u + c u^2, u = s / h   integrated exactly through phi functions ("3M")

Source: Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095), eq. 8 - 9 and algorithm 2. The authors' code, and every port of
it, gives the ``u^2`` term of order 3 half its weight, which costs an order; ``variant="published"`` does so too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import lag, phi, select, steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def dpm_solver_pp(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    lower_order_final: bool = True,
    variant: str = "exact",
) -> Tableau:
    """DPM-Solver++ multistep, of orders 1 to 3; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many estimates are combined; the first steps use those there are.
        lower_order_final: fall back to order 2 and 1 in the last steps, which is steadier with few steps.
        variant: "exact" or "published"; they differ for order 3 only.

    Raises:
        ValueError: an order, a variant or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=3)
    checks.one_of("variant", variant, ("exact", "published"))
    g = steps(process, times)
    curvature = 1.0 if variant == "exact" else 0.5

    def weights(k: int, here: Array) -> list[Array]:
        h_1, h_2 = (jnp.where(here, lag(g.h, j, 1.0), 1.0) for j in (1, 2))
        r_1, r_2 = h_1 / g.h, h_2 / g.h
        if k == 1:
            return [g.gain]
        if k == 2:
            ahead = 0.5 / r_1
            return [g.gain * (1 + ahead), -g.gain * ahead]
        linear = g.alpha_next * g.h * phi(2, -g.h)  # alpha' int e^{-(h-s)} u ds
        square = g.alpha_next * g.h * 2 * phi(3, -g.h) * curvature  # alpha' int e^{-(h-s)} u^2 ds
        # d_0 = (m_0 - m_1) / r_1, d_1 = (m_1 - m_2) / r_2, c = (d_0 - d_1) / (r_1 + r_2), d = d_0 + r_1 c
        both = (linear * r_1 + square) / (r_1 + r_2)
        first, second = (linear + both) / r_1, both / r_2
        return [g.gain + first, -first - second, second]

    m = select(g.orders(order, lower_order_final), order, weights)
    remember = [[0] * j + [1] + [0] * (order - j) for j in range(1, order - 1)]
    newest = [[0] * order + [1]] if order > 1 else []
    return table(process, g.t, [[g.keep, *m[1:], m[0]], *newest, *remember])
