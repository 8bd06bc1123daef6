"""Stochastic sampling of flows, as reinforcement learning explores with it: the flow's SDE, and steps without excess.

For any ``eta`` the SDE (``l`` the half-log-SNR, ``l_dot`` its slope in time, negative)

    dx = [dx/dt - eta l_dot (x - alpha m)] dt + sqrt(-2 eta l_dot) sigma dw

has the flow's marginals. Flow-GRPO takes it by Euler-Maruyama in time, on the straight path, where ``-l_dot =
1 / (t (1 - t))`` and its noise level is ``a = sqrt(2 eta)``. With few steps that leaves more noise in the sample than
the network expects: variance is added for the start of a step, and none of it is taken out at the end.

Coefficients-preserving sampling makes the noise of the next level out of the estimated one and a fresh one,

    x' = alpha' m + sigma' (cos(eta pi/2) eps + sin(eta pi/2) z)

so that signal and noise have the weights of the process at every step. It is DDIM with a noise share that does not
depend on the step: more steps are more noise, not a finer solution of one SDE, and ``eta = 1`` is ``consistency``.

Source: Liu et al. 2025, Flow-GRPO (arXiv 2505.05470) and code; Wang & Yu 2025, Coefficients-preserving sampling
for reinforcement learning with flow matching (arXiv 2509.05952) and code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.consistency import mix
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def flow_sde(process: Process, times: Float[Array, " n+1"], *, eta: float | Float[Array, " n"] = 1.0) -> Tableau:
    """Euler-Maruyama on the reverse SDE in the process's own time, first order; one network call a step.

    ``sde_dpm_solver_pp`` solves the same SDE with its linear part exact.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. Where ``alpha`` is 0 the SDE is infinitely noisy: a step from there takes the
            next level's ``alpha`` in the denominator, as Flow-GRPO does.
        eta: stochasticity, 1 for the reverse SDE, 0 for the flow; a number, or one a step: 0 in a step to the clean end
            leaves no noise in the sample. Flow-GRPO's noise level ``a`` is ``eta = a^2 / 2``.

    Raises:
        ValueError: a negative ``eta``, or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("eta", eta, 0.0)
    g = steps(process, times)
    eta = jnp.broadcast_to(jnp.asarray(eta, g.t.dtype), g.t.shape)
    dt = g.t_next - g.t
    alpha_dot, sigma_dot = process.velocity_coefficients(g.t)
    signal = jnp.where(g.alpha > 0, g.alpha, g.alpha_next)
    pull = eta * (sigma_dot * g.alpha - g.sigma * alpha_dot) / (g.sigma * signal)  # -eta l_dot
    slope = sigma_dot / g.sigma
    x = 1 + dt * (slope + pull)
    m = dt * (alpha_dot - g.alpha * (slope + pull))
    noisy = pull > 0
    noise = jnp.where(noisy, g.sigma * jnp.sqrt(jnp.where(noisy, -2 * dt * pull, 1.0)), 0.0)
    return table(process, g.t, [[x, m]], [noise])


def coefficients_preserving(
    process: Process, times: Float[Array, " n+1"], *, eta: float | Float[Array, " n"] = 0.7
) -> Tableau:
    """Coefficients-preserving sampling (CPS), stochastic, first order; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        eta: share of fresh noise, from 0 (DDIM) to 1 (all of it); a number, or one a step.

    Raises:
        ValueError: ``eta`` outside [0, 1], or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("eta", eta, 0.0, 1.0)
    angle = jnp.asarray(eta) * jnp.pi / 2
    return mix(process, steps(process, times), jnp.cos(angle), jnp.sin(angle))
