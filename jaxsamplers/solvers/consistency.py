"""Consistency sampling and its relatives: jump to a clean estimate, add noise again.

With ``eps = (x - alpha m) / sigma`` the noise that the estimate implies, all of them take

    x' = alpha' m + sigma' (kept eps + fresh z)        kept^2 + fresh^2 = 1

    consistency   kept = 0     the next sample knows the last one through ``m`` only
    tcd           kept = alpha' sigma_s / (alpha_s sigma'),  s = (1 - gamma) t': the estimate's flow down to ``s``, then
                  the process up to ``t'``

DDIM has this form with a ``fresh`` that vanishes with the step. Here it does not: these steps are right for a network
that answers with a *sample* of the clean data (a consistency model, distilled to jump along the flow), not with its
mean as a denoiser does, and more steps of theirs do not bring a denoiser nearer to the data.

Source: Song et al. 2023, Consistency models (arXiv 2303.01469), algorithm 1; Luo et al. 2023, Latent consistency models
(arXiv 2310.04378); Xu et al. 2023, InfEdit (arXiv 2312.04965), whose DDCM is DDIM with all of ``1 - alpha_{t-1}`` for
``sigma_t^2``, which is multistep consistency sampling; Zheng et al. 2024, Trajectory consistency distillation (arXiv
2402.19159), strategic stochastic sampling.
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


def consistency(process: Process, times: Float[Array, " n+1"], *, boundary: float = 0.0) -> Tableau:
    """Multistep consistency sampling, also of latent consistency models, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times, none below ``boundary``.
        boundary: the time whose samples the network answers with: 0 for clean ones; Song et al.'s models answer with
            samples at their smallest noise level, and the noise added then is only what is missing.

    Raises:
        ValueError: a schedule that ends below ``boundary``, or that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    checks.within("boundary", boundary, 0.0)
    if checks.is_zero(boundary):
        return table(process, g.t, [[0, g.alpha_next]], [g.sigma_next])
    end, start = checks.concrete(g.t_next[-1]), checks.concrete(boundary)
    if end is not None and start is not None and end < start * (1 - 1e-6):
        raise ValueError(f"times must end at or above boundary={boundary}, but end at {end}")
    scale = g.alpha_next / process.alpha(boundary)
    there = scale * process.sigma(boundary)
    missing = (g.sigma_next - there) * (g.sigma_next + there)
    some = missing > 0
    noise = jnp.where(some, jnp.sqrt(jnp.where(some, missing, 1.0)), 0.0)
    return table(process, g.t, [[0, scale]], [noise])


def ddcm(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """Sampling with the denoising diffusion consistent model of InfEdit: ``consistency``, by another road."""
    return consistency(process, times)


def tcd(process: Process, times: Float[Array, " n+1"], *, gamma: float | Float[Array, " n"] = 0.3) -> Tableau:
    """Trajectory consistency sampling, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        gamma: stochasticity (diffusers' ``eta``): 0 is DDIM, 1 is ``consistency``; a number, or one a step.

    Raises:
        ValueError: ``gamma`` outside [0, 1], or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("gamma", gamma, 0.0, 1.0)
    g = steps(process, times)
    between = (1 - jnp.asarray(gamma, g.t.dtype)) * g.t_next
    noisy = g.sigma_next > 0
    kept = g.alpha_next * process.sigma(between) / (process.alpha(between) * jnp.where(noisy, g.sigma_next, 1.0))
    some = noisy & (kept < 1)
    fresh = jnp.where(some, jnp.sqrt(jnp.where(some, (1 - kept) * (1 + kept), 1.0)), 0.0)
    return mix(process, g, kept, None if checks.is_zero(gamma) else fresh)


def mix(process: Process, g: Steps, kept: PerStep, fresh: PerStep | None) -> Tableau:
    """The table of ``x' = alpha' m + sigma' (kept eps + fresh z)``."""
    x = g.keep * kept
    return table(process, g.t, [[x, g.alpha_next - g.alpha * x]], None if fresh is None else [g.sigma_next * fresh])
