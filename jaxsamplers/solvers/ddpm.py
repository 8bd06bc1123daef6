"""DDPM: ancestral sampling from the Gaussian posterior ``q(x' | x, x0 = m)``.

The forward kernel from ``t'`` up to ``t`` is ``x = a x' + b z`` with ``a = alpha / alpha'`` and
``b^2 = sigma^2 - a^2 sigma'^2``; Bayes' rule with the prior ``x' | x0 ~ N(alpha' x0, sigma'^2)`` gives

    x' = (a sigma'^2 x + alpha' b^2 m) / sigma^2 + s z        s = b (sigma' / sigma)^{1 - v}

``v = 0`` is the posterior of data at one point ("small", beta tilde), ``v = 1`` that of data ``N(0, I)`` on a
variance-preserving process ("large", beta); Improved DDPM goes between them on a logarithmic scale.

Source: Ho, Jain & Abbeel 2020 (arXiv 2006.11239), eq. 6 - 7 and section 3.2; Nichol & Dhariwal 2021, Improved DDPM
(arXiv 2102.09672), eq. 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import Steps, steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def ddpm(process: Process, times: Float[Array, " n+1"], *, variance: float | Float[Array, " n"] = 0.0) -> Tableau:
    """Ancestral sampling, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end returns the estimate, whatever the variance.
        variance: ``v`` above: 0 for the smaller variance, 1 for the larger, anything between; a number, or one a step.

    Raises:
        ValueError: a ``variance`` outside [0, 1], or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("variance", variance, 0.0, 1.0)
    g = steps(process, times)
    x, m, b = posterior(g)
    if checks.is_zero(variance):
        return table(process, g.t, [[x, m]], [g.keep * b])
    noisy = g.sigma_next > 0
    share = jnp.where(noisy, g.keep, 1.0) ** (1 - jnp.asarray(variance, g.t.dtype))
    return table(process, g.t, [[x, m]], [jnp.where(noisy, share * b, 0.0)])


def posterior(g: Steps) -> tuple[PerStep, PerStep, PerStep]:
    """The weights of ``x`` and ``m`` in the posterior's mean, and ``b``."""
    a = g.alpha / g.alpha_next
    b_squared = (g.sigma - a * g.sigma_next) * (g.sigma + a * g.sigma_next)
    return a * g.keep**2, g.alpha_next * b_squared / g.sigma**2, jnp.sqrt(b_squared)
