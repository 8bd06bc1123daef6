"""Discrete flow matching: tokens move towards a draw of the clean one, and some are noised anew.

With ``kappa = alpha(t)``, decreasing in ``t`` here (``survival.convex`` is the paper's), and the network's posterior
``p`` of the clean token, two rates of the token ``x`` lead the law of ``x_t`` along the same path in opposite
directions:

    towards the clean end      l (p - [x]),      l = -alpha' / (1 - alpha)
    towards noise              b (pi - [x]),     b = -alpha' / alpha

``(1 + c)`` of the first and ``c`` of the second give the same marginals for any ``c(t) >= 0``: ``c`` is the corrector,
the paper's ``beta_t``, whose ``alpha_t`` is ``1 + c``. But for masks the first is not the rate of the reversed noise
process, which also moves tokens to noise of its own; both have the right marginals.

    flow_euler         rates as they are at t; Meta's program
    flow_cumulative    the hazard of the whole step, of moves to other tokens; FS-DFM's program
    flow_exact         the hazard of the whole step, of draws from p, which may give the token itself

While ``p`` is frozen the last solves the rates exactly: a draw from ``p`` happens with probability
``(alpha(s) - alpha(t)) / (1 - alpha(t))``, so that each token's marginal is right at any number of steps.
On masks it is ``ancestral`` and, with a corrector, ReMDM.

Source: Gat et al. 2024, Discrete flow matching (arXiv 2407.15595), sec. 3; Campbell et al. 2024 (arXiv 2402.04997).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.discrete.leaps import clock
from jaxsamplers.discrete.noises import Given
from jaxsamplers.discrete.samplers import exact_coefficients, with_last
from jaxsamplers.discrete.table import TokenTable, grid, per_step, table
from jaxsamplers.laws import where_positive

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.discrete.processes import Replacement

    Times = Float[Array, " n+1"]


def flow_euler(process: Replacement, times: Times, *, corrector: float | Float[Array, " n"] = 0.0) -> TokenTable:
    """Meta's solver: a clean token ``y`` is drawn, then a clock that knows it; one call a step, first order.

    Given ``y`` a token leaves with probability ``1 - e^-n``, ``n = h (1 + c) l [y != x] + h c b (1 - pi(x))``, for
    ``y`` or for noise in proportion. The last step is ``flow_exact``'s: to 0 it takes a draw from ``p`` everywhere. On
    masks, without a corrector, this is ``tau_leaping``. Where nothing survives their program divides by zero; new noise
    is no change there and left out.

    Args:
        process: masked, uniform or marginal; with a corrector masked or uniform.
        times: ``n + 1`` decreasing times.
        corrector: ``c``, a number or one a step; see ``bump``.

    Raises:
        ValueError: a negative corrector, not one a step, one for marginal noise, or a schedule that is not allowed.
    Source: Gat et al. 2024 (arXiv 2407.15595); ``MixtureDiscreteEulerSolver`` of Lipman et al. 2024, Flow matching
        guide and code (arXiv 2412.06264), whose ``div_free`` is ``corrector``.
    """
    checks.within("corrector", corrector, 0.0)
    times = grid(process, times, "flow_euler")
    pi = process.noise
    if isinstance(pi, Given) and not checks.is_zero(corrector):
        raise ValueError("flow_euler corrects on masked and uniform processes only: flow_exact does with any noise")
    corrector = per_step("corrector", corrector, len(times) - 1)
    t, steps = times[:-1], times[:-1] - times[1:]
    a, rest, slope = process.survival(t), process.noisiness(t), process.decay(t)
    alive = jnp.where(a > 0, a, 1.0)
    clean = (1 + corrector) * steps * slope / rest
    fresh = jnp.where(a > 0, corrector * steps * slope / alive, 0.0)
    if pi.absorbing:
        sampler = table(process, times, clean * clock(clean), 0.0, fresh * clock(fresh), exact=True)
    else:
        own = pi.probability(jnp.zeros((), jnp.int32))
        moved, still = (fresh * clock(n + fresh * (1 - own)) for n in (clean, 0.0))  # noise, if y is another or x
        noise = jnp.where(a > 0, (moved - still) * rest * (a + rest * own) / alive, 0.0)
        drawn = clean * clock(clean + fresh * (1 - own))
        sampler = table(process, times, drawn, noise, moved - noise / rest, exact=True)
    return with_last(sampler, flow_exact(process, times))


def flow_cumulative(process: Replacement, times: Times) -> TokenTable:
    """FS-DFM's step: a clock that has run through the whole step, for moves to other tokens; one call a step.

    A token leaves with probability ``1 - ((1 - alpha(s)) / (1 - alpha(t)))^(1 - p(x))``. On masks this is
    ``ancestral``; on other noise it is what their networks were used with, and ``flow_exact`` has better marginals. The
    last step is ``flow_exact``'s.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times.

    Raises:
        ValueError: a schedule that is not allowed.
    Source: Monsefi et al. 2025, FS-DFM (arXiv 2509.20624), eq. 4.3, and the authors' program.
    """
    times = grid(process, times, "flow_cumulative")
    drawn = exact_coefficients(process, times)[0]
    hazard = -jnp.log1p(-jnp.where(drawn < 1, drawn, 0.0))
    return with_last(table(process, times, hazard, rule="clock"), flow_exact(process, times))


def flow_exact(process: Replacement, times: Times, *, corrector: float | Float[Array, " n"] = 0.0) -> TokenTable:
    """The exact solution for a frozen posterior: right marginals of each token at any number of steps; one call a step.

    A token is noised anew with probability ``v = c (alpha(s) - alpha(t)) / alpha(t)``, and becomes a draw from ``p``
    with ``(alpha(s) - (1 - v) alpha(t)) / (1 - alpha(t))``. The corrector is cut where these would be no probabilities.
    On masks this is ``ancestral``, and ``remdm_cap`` with ``sigma = v``.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times.
        corrector: ``c``, a number or one a step; see ``bump``.

    Raises:
        ValueError: a negative corrector or not one a step, or a schedule that is not allowed.
    Source: the velocity of Gat et al. 2024 (arXiv 2407.15595) and its corrector, integrated over a step.
    """
    checks.within("corrector", corrector, 0.0)
    times = grid(process, times, "flow_exact")
    corrector = per_step("corrector", corrector, len(times) - 1)
    drawn = exact_coefficients(process, times)[0]
    a, rest, left = process.survival(times[:-1]), process.noisiness(times[:-1]), process.noisiness(times[1:])
    alive = jnp.where(a > 0, a, 1.0)
    most = jnp.minimum(1.0, left / alive) if process.noise.absorbing else left
    fresh = jnp.where(a > 0, jnp.minimum(corrector * drawn * rest / alive, most), 0.0)
    return table(process, times, drawn + fresh * a / rest, 0.0, fresh, exact=True)


def bump(times: Times, *, height: float = 10.0, power: float = 0.25) -> Float[Array, " n"]:
    """A corrector ``c = height (t (1 - t))^power`` that vanishes at both ends, one number a step.

    Args:
        times: ``n + 1`` times between 0 and 1.
        height: 10 in the program cited.
        power: of ``t`` and of ``1 - t``.

    Raises:
        ValueError: a negative height or power, or times outside [0, 1].
    Source: Gat et al. 2024 (arXiv 2407.15595), experiments, ``alpha_t = 1 + c``; numbers as in the program of Wang et
        al. 2025, ReMDM (arXiv 2503.00307).
    """
    checks.within("height", height, 0.0)
    checks.within("power", power, 0.0)
    checks.within("times", times, 0.0, 1.0)
    t = times[:-1]
    return height * where_positive(lambda v: v**power, t * (1 - t), 0.0)
