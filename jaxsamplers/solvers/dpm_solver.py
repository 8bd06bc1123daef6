"""DPM-Solver: multistep exponential integrators on the noise prediction.

In half-log-SNR the probability flow is linear in ``x`` plus the noise ``e(l)`` that the network sees, and

    x' = (alpha' / alpha) x - sigma' int_0^h e^{h - s} e(l + s) ds

Order ``k`` replaces ``e`` by the polynomial through its last ``k`` values, in ``u = s / h``, with
``int_0^h e^{h - s} u^p ds = h p! phi_{p+1}(h)``; the common order 2 is the midpoint rule. ``dpm_solver_pp`` is the same
on the data prediction, which is steadier under guidance.

Source: Lu et al. 2022, DPM-Solver (arXiv 2206.00927), proposition 3.1 and theorem 3.2; multistep form in the authors'
code, which halves the weight of the ``u^2`` term of order 3, as ``curvature=0.5`` does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jaxsamplers import checks
from jaxsamplers.solvers.dpm_solver_pp import VARIANTS
from jaxsamplers.solvers.grid import interpolate, multistep, past, phi, select, steps
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def dpm_solver(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    lower_order_final: bool = True,
    variant: str = "midpoint",
    curvature: float = 1.0,
) -> Tableau:
    """DPM-Solver multistep, of orders 1 to 3; one network call a step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many values of the noise are combined; the first steps use those there are.
        lower_order_final: fall back to order 2 and 1 in the last steps.
        variant: order 2 by the "midpoint" rule or "exact" (the authors' "taylor").
        curvature: weight of the quadratic term of order 3; 0.5 reproduces the published code.

    Raises:
        ValueError: an order, a variant or a schedule that is not allowed, a start without signal among them.
    """
    checks.integer("order", order, low=1, high=3)
    checks.one_of("variant", variant, VARIANTS)
    checks.within("curvature", curvature, 0.0)
    g = steps(process, times)
    g.needs_signal("dpm_solver")
    x = g.alpha_next / g.alpha
    gain = g.sigma_next - g.sigma * x

    def weights(k: int, here: Array) -> list[Array]:
        nodes = past(g.h, k, here)
        if k == 2 and variant == "midpoint":
            return interpolate(nodes, [gain, gain / 2])
        smooth = [-g.sigma_next * g.h * math.factorial(p) * phi(p + 1, g.h) for p in range(1, k)]
        return interpolate(nodes, [gain, *smooth[:1], *[curvature * m for m in smooth[1:]]])

    e = select(g.orders(order, lower_order_final), order, weights)
    return multistep(process, g, x, e, "epsilon")
