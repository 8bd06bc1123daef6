"""EDM's stochastic sampler: a little noise is put back before every step of a second-order solver.

With ``rho = sigma / alpha`` (EDM's ``sigma``), step ``i`` of ``n`` first raises the level ("churn") and then steps down
from there by Heun's method in ``rho``:

    rho_hat = (1 + gamma) rho        gamma = min(S_churn / n, sqrt(2) - 1)  if  S_min <= rho <= S_max,  else 0

The start is a sample of the first time, and a level is never raised above that one: the network is not asked where
nothing was meant to be, and the first step has no churn. Nothing is lost: to churn Gaussian noise is to draw it at the
higher level, so the paper's first step is had by starting at the time of ``rho_hat_0``. (Its own settings never churn
there.) The churn's noise belongs to the row before it, see ``renoise.py``.

Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), algorithm 2; any process by way of ``rho``
as in the authors' ablation code and in k-diffusion (``sample_heun``, ``sample_euler``, ``sample_dpm_2``).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps
from jaxsamplers.solvers.renoise import Solver, hop
from jaxsamplers.solvers.runge_kutta import heun
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

HEUN = functools.partial(heun, variable="rho")


def edm_stochastic(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    churn: float = 40.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    noise_scale: float = 1.0,
    solver: Solver = HEUN,
    lower_order_final: bool = True,
) -> Tableau:
    """EDM's stochastic sampler; two network calls a step and one in the last, as ``heun``.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times; the start is a sample of the first.
        churn: ``S_churn``, spread over the steps; 0 puts no noise back.
        churn_min: ``S_min``, in units of ``sigma / alpha``.
        churn_max: ``S_max``, likewise.
        noise_scale: ``S_noise``, a factor on the noise.
        solver: what makes a step. ``partial(dpm_solver_singlestep, order=2)`` gives k-diffusion's ``sample_dpm_2``,
            with ``order=1`` its ``sample_euler``. Multistep solvers start afresh in every step.
        lower_order_final: let ``solver`` make its last step at first order, as a step to the clean end must be.

    Raises:
        ValueError: a negative or NaN option, or a schedule that is not allowed.
    """
    checks.within("churn", churn, 0.0)
    checks.within("churn_min", churn_min, 0.0)
    checks.within("churn_max", churn_max, 0.0)
    checks.within("noise_scale", noise_scale, 0.0)
    g = steps(process, times)
    g.needs_signal("edm_stochastic")
    rho = g.sigma / g.alpha
    gamma = jnp.minimum(churn / len(rho), math.sqrt(2) - 1)
    raised = jnp.where((rho >= churn_min) & (rho <= churn_max), jnp.log1p(gamma), 0.0)
    raised = jnp.minimum(raised, g.half_log_snr - g.half_log_snr[0])
    start = jnp.where(raised > 0, process.time(g.half_log_snr - raised), g.t)
    to = jnp.append(start[1:], g.t_next[-1])
    return hop(process, start, g.t_next, to, jnp.append(raised[1:], 0.0), solver, noise_scale, lower_order_final)
