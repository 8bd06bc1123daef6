"""ER-SDE solvers: the reverse SDE with a noise scale of one's own choosing.

In ``y = x / alpha`` and ``rho = sigma / alpha``, any function ``phi`` with ``phi(rho) / rho`` not decreasing makes a
reverse SDE with the right marginals, whose exact solution over one step is

    y' = (phi' / phi) y + phi' int_rho'^rho (d phi / phi^2) m + sqrt(rho'^2 - (phi' / phi)^2 rho^2) z

``phi(rho) = rho`` is the flow, ``rho^2`` the usual SDE, ``rho^{1 + eta}`` any other ``eta``. The default takes little
noise, and most of it early. Order ``k`` puts the polynomial in ``rho`` through the last ``k`` estimates for ``m``; with
``u`` growing from 0 to 1 over the step, ``int phi' u^p d phi / phi^2 = int_0^1 (1 - phi' / phi) d u^p``, by quadrature.

Source: Cui et al. 2023, Elucidating the solution space of extended reverse-time SDE (arXiv 2309.06169), sections 3 - 4
and the authors' code, whose integrals are sums over 100 points (samples move by about 1e-3). Their order 3 takes
backward differences for the derivatives at ``rho``, which leaves it second order; ``variant="published"`` does so too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.solvers.grid import interpolate, multistep, past, select, steps
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

NODES = 24  # Gauss-Legendre points a step


def noise_function(rho: Array) -> Array:
    """The authors' choice, ``rho (e^{rho^0.3} + 10)``."""
    return rho * (jnp.exp(rho**0.3) + 10)


def er_sde(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 3,
    noise_function: Callable[[Array], Array] = noise_function,
    variant: str = "exact",
) -> Tableau:
    """ER-SDE-Solver of orders 1 to 3, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step from pure noise draws a new one; a step to the clean end returns the
            estimate.
        order: how many estimates are combined; the first steps use those there are.
        noise_function: ``phi``, applied to arrays of ``sigma / alpha``; ``phi(rho) / rho`` must not decrease.
        variant: order 3 by the polynomial through its estimates, "exact", or as "published".

    Raises:
        ValueError: an order, a variant, a noise scale or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=3)
    checks.one_of("variant", variant, ("exact", "published"))
    g = steps(process, times)
    rho = jnp.where(g.finite, g.sigma, 1.0) / jnp.where(g.finite, g.alpha, 1.0)
    rho_next = jnp.where(g.finite, g.sigma_next, 0.5) / jnp.where(g.finite, g.alpha_next, 1.0)
    relative = lambda rho: noise_function(rho) / rho
    kept = relative(rho_next) / relative(rho)  # of the old noise
    known = checks.concrete(kept)
    if known is not None and not (known <= 1 + 1e-5).all():
        raise ValueError("noise_function(rho) / rho must not decrease as rho grows")
    kept = jnp.where(g.finite, kept, 0.0)
    x = g.keep * kept

    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    part = jnp.asarray((nodes + 1) / 2, g.t.dtype)
    h = jnp.log(rho / rho_next)[:, None]
    u = jnp.expm1(-h * part) / jnp.expm1(-h)  # points equidistant in half-log-SNR: rho may fall by orders of magnitude
    du = jnp.asarray(weights / 2, g.t.dtype) * h * jnp.exp(-h * part) / -jnp.expm1(-h)
    inside = rho[:, None] * jnp.exp(-h * part)
    remaining = (1 - noise_function(rho_next)[:, None] / noise_function(inside)) * du
    gain = g.alpha_next - g.alpha * x
    moments = [gain, *[g.alpha_next * jnp.sum(p * u ** (p - 1) * remaining, axis=1) for p in range(1, order)]]

    def formula(k: int, here: Array) -> list[Array]:
        nodes = past(rho_next - rho, k, here)
        if k < 3 or variant == "exact":
            return interpolate(nodes, moments)
        # m_0 + u m[0, 1] + u^2 m[0, 1, 2] where Newton's polynomial has u (u - u_1)
        shifted = [*moments[:2], moments[2] + nodes[1] * moments[1]]
        return interpolate(nodes, shifted)

    m = select(g.orders(order, lower_order_final=False), order, formula)
    noisy = kept < 1
    fresh = jnp.sqrt(jnp.where(noisy, (1 - kept) * (1 + kept), 1.0))
    return multistep(process, g, x, m, "x0", jnp.where(noisy, g.sigma_next * fresh, 0.0))
