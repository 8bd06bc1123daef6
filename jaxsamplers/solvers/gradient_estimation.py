"""Gradient estimation: DDIM that overshoots the change of the noise, as descent on the distance to the data.

Denoising is a noisy projection on the data: the ideal denoiser's noise points along the gradient of the squared
distance to them, and DDIM descends it. The error of that gradient partly cancels in

    e_bar = gamma e + (1 - gamma) e_previous        x' = alpha' / alpha x + (sigma' - sigma alpha' / alpha) e_bar

``gamma = 1`` is DDIM, ``gamma = 2`` what the paper found best, ``gamma = 3/2`` the second Adams-Bashforth method for
equal steps in ``sigma / alpha``; all else is first order.

Source: Permenter & Yuan 2024, Interpreting and improving diffusion models from an optimization perspective (arXiv
2306.04848); the first step is plain, as in the authors' smalldiffusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import multistep, steps
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def gradient_estimation(
    process: Process, times: Float[Array, " n+1"], *, gamma: float | Float[Array, " n"] = 2.0
) -> Tableau:
    """Gradient-estimation sampler, first order; one network call a step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times. A step to the clean end returns the estimate.
        gamma: weight of the newest noise, at least 1; a number, or one a step.

    Raises:
        ValueError: ``gamma`` below 1, or a schedule that is not allowed.
    """
    checks.within("gamma", gamma, 1.0)
    g = steps(process, times)
    g.needs_signal("gradient_estimation")
    x = g.alpha_next / g.alpha
    gain = g.sigma_next - g.sigma * x
    newest = jnp.where(g.finite, jnp.asarray(gamma, g.t.dtype), 1.0).at[0].set(1.0)
    return multistep(process, g, x, [gain * newest, gain * (1 - newest)], "epsilon")
