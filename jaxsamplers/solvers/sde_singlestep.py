"""Singlestep SDE-DPM-Solver++: two stages a step, each with noise of its own.

With ``s`` half a step ahead in half-log-SNR, every stage is an exact step of DDIM's family from the start of the step:

    u  = K_s x + G_s m(x) + sigma_s sqrt(1 - q_s^2) z_s       q^2 = 1 - eta^2 (1 - e^{-2h}),  K = q sigma' / sigma
    x' = K x + G m(u) + sigma' sqrt(1 - q^2) z                G = alpha' - alpha K

``z_s`` and ``z`` see one Brownian path in part, so they are correlated. It matters: on Gaussian data the variance
converges at order 2 if their correlation ``c`` has ``c^2 -> 1/2`` for small steps, as any Brownian motion gives, and at
order 1 if they are drawn independently. For the SDE itself ``c^2 = (1 / q_s^2 - 1) / (1 / q^2 - 1)``; k-diffusion's
noise is a Brownian motion in ``rho = sigma / alpha``, ``c^2 = (rho - rho_s) / (rho - rho')``.

Source: Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095), section 5; Crowson et al., k-diffusion, ``sample_dpmpp_sde``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.laws import where_positive
from jaxsamplers.solvers.grid import Steps, steps
from jaxsamplers.solvers.singlestep import fraction
from jaxsamplers.tableau import Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep

CORRELATIONS = ("rho", "exact", "none")


def sde_dpm_solver_pp_singlestep(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    eta: float | Float[Array, " n"] = 1.0,
    correlation: str = "rho",
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """Singlestep SDE-DPM-Solver++ of two stages (k-diffusion's ``dpmpp_sde``), stochastic; two network calls a step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        eta: stochasticity as ``ddim``'s: 1 for the reverse SDE, 0 for the flow; a number, or one a step.
        correlation: of a step's two draws: that of a Brownian motion in "rho" (k-diffusion's own noise), the SDE's
            "exact" one, or "none" (independent draws, as with a plain generator for its noise sampler).
        noise_scale: a factor on the noise (S_noise).
        lower_order_final: take the last step at first order, in one call, as a step to the clean end must be.

    Raises:
        ValueError: an option or a schedule that is not allowed.
    """
    checks.within("eta", eta, 0.0, 1.0)
    checks.one_of("correlation", correlation, CORRELATIONS)
    checks.within("noise_scale", noise_scale, 0.0)
    g = steps(process, times)
    g.needs_signal("sde_dpm_solver_pp_singlestep")
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("a step to the clean end is of first order: use lower_order_final=True")
    eta = jnp.broadcast_to(jnp.asarray(eta, g.t.dtype), g.t.shape)

    def stage(g: Steps, eta: PerStep) -> tuple[PerStep, PerStep, PerStep, PerStep]:
        """K, G, the noise and the relative variance ``(1 - q^2) / q^2`` that was added since the start of the step."""
        fresh = -jnp.expm1(-2 * g.h)  # of pure noise; an infinite step has a harmless h, and its target no noise
        kept = (1 - eta) * (1 + eta) + eta**2 * jnp.exp(-2 * g.h)  # q^2, never 0
        x = g.keep * jnp.sqrt(kept)
        noise = noise_scale * g.sigma_next * eta * jnp.sqrt(fresh)
        return x, g.alpha_next - g.alpha * x, noise, eta**2 * fresh / kept

    cut = len(g.t) - lower_order_final
    whole = jax.tree.map(lambda level: level[:cut], g)
    half = fraction(process, whole, 1 / 2)
    x, m, noise, added = stage(whole, eta[:cut])
    x_half, m_half, noise_half, added_half = stage(half, eta[:cut])
    if correlation == "none":
        shared = jnp.zeros_like(added)
    elif correlation == "rho":
        shared = (1 - half.keep * half.alpha / half.alpha_next) / (1 - whole.keep * whole.alpha / whole.alpha_next)
    else:
        shared = jnp.where(added > 0, added_half, 0.5) / jnp.where(added > 0, added, 1.0)
    # registers: the sample, the one at the start of the step, the noise of its first stage
    draws = [noise_half, 0, 1]
    first = table(process, whole.t, [[x_half, 0, 0, m_half], [1, 0, 0, 0], [0, 0, 0, 0]], draws)
    held, draws = noise * jnp.sqrt(shared), [noise * where_positive(jnp.sqrt, 1 - shared, 0.0), 0, 0]
    second = table(process, half.t_next, [[0, x, held, m], [0, 1, 0, 0], [0, 0, 1, 0]], draws)
    stages = interleave(first, second)
    if not lower_order_final:
        return stages
    x, m, noise, _ = stage(jax.tree.map(lambda level: level[cut:], g), eta[cut:])
    return concatenate(stages, table(process, g.t[cut:], [[x, m]], [noise]))
