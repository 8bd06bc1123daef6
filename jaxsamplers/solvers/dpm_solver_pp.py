"""DPM-Solver++: multistep exponential integrators on the data prediction, for the flow and for the SDE.

In half-log-SNR ``l`` the reverse process is linear in ``x`` plus the denoiser ``m(l)``. With ``H = (1 + eta) h``,

    x' = keep e^{-eta h} x + alpha' int_0^H e^{-(H - s)} m ds + sigma' sqrt(1 - e^{-2 eta h}) z

``eta = 0`` is the probability flow, ``eta = 1`` the reverse SDE. Order ``k`` replaces ``m`` by the polynomial through
the last ``k`` estimates, in ``u = s / h`` taken at ``0, -h_1 / h, -(h_1 + h_2) / h``, and integrates it exactly:
``int_0^H e^{-(H - s)} u^p ds = H p! phi_{p+1}(-H)``. The common order 2 ("2M") is instead the midpoint rule: the value
of the line through ``m_0`` and ``m_1`` half a step ahead, held fixed.

Source: Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095), eq. 8 - 9, 14 and algorithm 2. The authors' code, and every
port of it, gives the ``u^2`` term of order 3 half its weight, which costs an order; ``curvature=0.5`` does so too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import diffuse, interpolate, multistep, past, phi, select, steps
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

VARIANTS = ("midpoint", "exact")


def dpm_solver_pp(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    lower_order_final: bool = True,
    variant: str = "midpoint",
    curvature: float = 1.0,
) -> Tableau:
    """DPM-Solver++ multistep, of orders 1 to 3; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many estimates are combined; the first steps use those there are.
        lower_order_final: fall back to order 2 and 1 in the last steps, which is steadier with few steps.
        variant: order 2 by the "midpoint" rule (k-diffusion's 2M) or "exact" (diffusers' solver_type="heun").
        curvature: weight of the quadratic term of order 3; 0.5 reproduces the published code.

    Raises:
        ValueError: an order, a variant or a schedule that is not allowed.
    """
    return sde_dpm_solver_pp(
        process,
        times,
        order=order,
        eta=0.0,
        lower_order_final=lower_order_final,
        variant=variant,
        curvature=curvature,
    )


def sde_dpm_solver_pp(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    eta: float | Float[Array, " n"] = 1.0,
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
    variant: str = "midpoint",
    curvature: float = 1.0,
) -> Tableau:
    """SDE-DPM-Solver++ multistep, of orders 1 to 3; stochastic, one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        order: how many estimates are combined.
        eta: stochasticity, 1 for the reverse SDE, 0 for the flow; a number, or one a step.
        noise_scale: a factor on the noise (k-diffusion's s_noise).
        lower_order_final: fall back to order 2 and 1 in the last steps.
        variant: order 2 by the "midpoint" rule or "exact" (diffusers' and k-diffusion's "heun").
        curvature: weight of the quadratic term of order 3; 0.5 reproduces the published code.

    Raises:
        ValueError: an order, a variant, ``eta`` or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=3)
    checks.one_of("variant", variant, VARIANTS)
    checks.within("eta", eta, 0.0)
    checks.within("noise_scale", noise_scale, 0.0)
    checks.within("curvature", curvature, 0.0)
    g = steps(process, times)
    h = (1 + jnp.asarray(eta, g.t.dtype)) * g.h
    x, fresh = diffuse(g, eta)
    gain = g.alpha_next - g.alpha * x

    def weights(k: int, here: Array) -> list[Array]:
        nodes = past(g.h, k, here)
        if k == 2 and variant == "midpoint":
            return interpolate(nodes, [gain, gain / 2])
        smooth = [g.alpha_next * h * math.factorial(p) * phi(p + 1, -h) for p in range(1, k)]
        return interpolate(nodes, [gain, *smooth[:1], *[curvature * m for m in smooth[1:]]])

    m = select(g.orders(order, lower_order_final), order, weights)
    return multistep(process, g, x, m, "x0", None if checks.is_zero(eta) else noise_scale * fresh)
