"""DDIM: the non-Markovian family that interpolates from the probability flow to ancestral sampling.

With ``eps = (x - alpha m) / sigma`` the noise the denoiser implies, one step draws (eq. 12, for any Gaussian process)

    x' = alpha' m + sqrt(sigma'^2 - s^2) eps + s z      s = eta sigma' sqrt(1 - q^2),  q = sigma' alpha / (sigma alpha')

``q = e^{-h}``; ``eta = 0`` is the exact solution for a constant estimate, ``eta = 1`` is DDPM.

Source: Song, Meng & Ermon 2021, Denoising diffusion implicit models (arXiv 2010.02502), eq. 12 and 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.laws import where_positive
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def ddim(process: Process, times: Float[Array, " n+1"], *, eta: float | Float[Array, " n"] = 0.0) -> Tableau:
    """DDIM, first order; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        eta: stochasticity from 0 (deterministic) to 1 (ancestral); a number, or one a step.

    Raises:
        ValueError: ``eta`` outside [0, 1], or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("eta", eta, 0.0, 1.0)
    g = steps(process, times)
    if checks.is_zero(eta):
        return table(process, g.t, [[g.keep, g.gain]])
    shrink = g.gain / g.alpha_next  # 1 - q
    kept = (1 - eta) * (1 + eta) + (eta * (1 - shrink)) ** 2  # 1 - s^2 / sigma'^2; 0 if eta = 1 and the end is clean
    keep = g.keep * where_positive(jnp.sqrt, kept, 0.0)
    noise = g.sigma_next * eta * jnp.sqrt(shrink * (2 - shrink))
    return table(process, g.t, [[keep, g.alpha_next - g.alpha * keep]], noise=[noise])


def euler_ancestral(process: Process, times: Float[Array, " n+1"], *, eta: float | Float[Array, " n"] = 1.0) -> Tableau:
    """k-diffusion's ancestral Euler, stochastic: DDIM with ``eta = 1``; one network call a step.

    Euler's method in ``rho = sigma / alpha`` down to ``down``, ``down^2 = rho'^2 - up^2``, then noise of size ``up``,
    ``up = eta rho' sqrt(1 - rho'^2 / rho^2)``: the same step by mathematics. Arguments and errors as ``ddim``.
    """
    return ddim(process, times, eta=eta)


def resshift(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """ResShift's own sampler, stochastic, first order; one network call a step.

    DDIM with ``s^2 = sigma'^2 (1 - sigma'^2 / sigma^2)``: ``x' = q x + (alpha' - alpha q) m + s z``,
    ``q = sigma'^2 / sigma^2``. Where ``alpha`` is constant it is DDPM; on ``residual_shifting`` it is less noisy than
    DDPM, for that chain takes the shift, not only the noise, one step further at a time.

    Args:
        process: the noise process, ``processes.residual_shifting`` in the paper.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that ``schedules.validate`` refuses.
    Source: Yue et al. 2023, ResShift (arXiv 2307.12348), eq. 6 - 7.
    """
    g = steps(process, times)
    keep = g.keep**2
    fresh = (g.sigma - g.sigma_next) * (g.sigma + g.sigma_next) / g.sigma**2
    return table(process, g.t, [[keep, g.alpha_next - g.alpha * keep]], noise=[g.sigma_next * jnp.sqrt(fresh)])
