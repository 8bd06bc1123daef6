"""DDPM: ancestral sampling from the Gaussian posterior ``q(x' | x, x0 = m)``.

The forward kernel from ``t'`` up to ``t`` is ``x = a x' + b z`` with ``a = alpha / alpha'`` and
``b^2 = sigma^2 - a^2 sigma'^2``; Bayes' rule with the prior ``x' | x0 ~ N(alpha' x0, sigma'^2)`` gives

    x' = (a sigma'^2 x + alpha' b^2 m) / sigma^2 + (sigma' b / sigma) z

Source: Ho, Jain & Abbeel 2020 (arXiv 2006.11239), eq. 6 - 7, with the smaller of its two variances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def ddpm(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """Ancestral sampling, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    a = g.alpha / g.alpha_next
    b_squared = (g.sigma - a * g.sigma_next) * (g.sigma + a * g.sigma_next)
    x = a * g.keep**2
    m = g.alpha_next * b_squared / g.sigma**2
    return table(process, g.t, [[x, m]], noise=[g.keep * jnp.sqrt(b_squared)])
