"""Ancestral steps: past the next level along the flow, and back to it by noise, with any solver inside.

With ``rho = sigma / alpha``, a step goes from ``rho`` down to ``rho_down`` and gains as much noise as is missing,

    rho_down^2 = rho'^2 - up^2        up = eta rho' sqrt(1 - rho'^2 / rho^2)

so that in half-log-SNR it overshoots by ``-log(1 - eta^2 (1 - e^{-2h})) / 2``, which is ``h`` itself where ``eta = 1``.
With an exact step the marginals are exact: the order of the solver inside is the order of the sampler. At first order
this is ``ddim(eta=)``.

Source: Crowson et al., k-diffusion, ``get_ancestral_step``, ``sample_dpm_2_ancestral``, ``sample_dpmpp_2s_ancestral``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps
from jaxsamplers.solvers.renoise import Solver, hop
from jaxsamplers.solvers.singlestep import dpm_solver_pp_singlestep, dpm_solver_singlestep
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def ancestral(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    solver: Solver = dpm_solver_pp_singlestep,
    eta: float | Float[Array, " n"] = 1.0,
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """Ancestral steps with any solver inside: past the next time, and back to it by noise; calls as ``solver``.

    Multistep solvers start afresh in every step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times.
        solver: what makes a step; first order gives ``ddim(eta=)``.
        eta: stochasticity from 0 (the solver itself) to 1; a number, or one a step.
        noise_scale: factor on the noise (S_noise).
        lower_order_final: let ``solver`` make its last step at first order, as a step to the clean end must be.

    Raises:
        ValueError: ``eta`` outside [0, 1], a negative ``noise_scale``, or a schedule that is not allowed.
    """
    checks.within("eta", eta, 0.0, 1.0)
    checks.within("noise_scale", noise_scale, 0.0)
    g = steps(process, times)
    g.needs_signal("ancestral")
    short = jnp.minimum(g.h, 1.0)  # two forms of -log(1 - eta^2 (1 - e^{-2h})) / 2, each where it is accurate
    near = -0.5 * jnp.log1p(eta**2 * jnp.expm1(-2 * short))
    far = -0.5 * jnp.log((1 - eta) * (1 + eta) + eta**2 * jnp.exp(-2 * jnp.maximum(g.h, 1.0)))
    given_up = jnp.where(g.finite, jnp.where(g.h < 1, near, far), 0.0)
    down = process.time(jnp.where(g.finite, g.half_log_snr_next, 0.0) + given_up)
    end = jnp.where(g.finite, down, g.t_next)
    return hop(process, g.t, end, g.t_next, given_up, solver, noise_scale, lower_order_final)


def dpm_solver_singlestep_ancestral(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    eta: float | Float[Array, " n"] = 1.0,
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """Ancestral singlestep DPM-Solver, stochastic; ``order`` calls a step. Order 2 is ``dpm_2_ancestral``.

    Arguments and errors as ``ancestral``; ``order``, 1 to 3, is that of ``dpm_solver_singlestep``.
    """
    solver = functools.partial(dpm_solver_singlestep, order=order)
    return ancestral(
        process, times, solver=solver, eta=eta, noise_scale=noise_scale, lower_order_final=lower_order_final
    )


def dpm_solver_pp_singlestep_ancestral(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    eta: float | Float[Array, " n"] = 1.0,
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """Ancestral singlestep DPM-Solver++, stochastic; ``order`` calls a step. Order 2 is ``dpmpp_2s_ancestral``.

    Arguments and errors as ``ancestral``; ``order``, 1 to 3, is that of ``dpm_solver_pp_singlestep``.
    """
    solver = functools.partial(dpm_solver_pp_singlestep, order=order)
    return ancestral(
        process, times, solver=solver, eta=eta, noise_scale=noise_scale, lower_order_final=lower_order_final
    )


def dpm2_ancestral(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    eta: float | Float[Array, " n"] = 1.0,
    noise_scale: float = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """k-diffusion's ancestral DPM2, stochastic: two network calls a step, one in the last.

    It is ``dpm_solver_singlestep_ancestral(order=2)``; arguments and errors as there.
    """
    return dpm_solver_singlestep_ancestral(
        process, times, order=2, eta=eta, noise_scale=noise_scale, lower_order_final=lower_order_final
    )
