"""CFG++: guide the estimate, but renoise with the noise of the unguided network.

With the null estimate ``u``, its noise ``eps_u = (x - alpha u) / sigma`` and ``D = c - u``, a DDIM step of CFG++ is

    x' = alpha' (u + lambda D) + sigma' eps_u,                                 0 <= lambda <= 1

and one of classifier-free guidance, which renoises with ``eps_u - (alpha / sigma) w D``,

    x' = alpha' (u + w D) + sigma' (eps_u - (alpha / sigma) w D).

They are the same step if ``w (alpha' - alpha sigma' / sigma) = lambda alpha'``. So CFG++ is a scale that differs from
row to row, exactly for DDIM and its noise (``eta``) at 0; with a table of higher order it is the same scale there.

Source: Chung et al. 2024, CFG++ (arXiv 2406.08070), algorithm 2; the equality is derived above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def cfg_pp_scale(process: Process, times: Float[Array, " n+1"], strength: float = 0.6) -> Float[Array, " n"]:
    """The guidance scale of each step, ``w = lambda alpha' / (alpha' - alpha sigma' / sigma)``.

    ``js.with_extra(js.solvers.ddim(process, times), scale=cfg_pp_scale(process, times))`` is CFG++ under
    ``classifier_free``.

    Args:
        process: the noise process.
        times: the solver's ``n + 1`` decreasing times.
        strength: ``lambda``; 0.6 does about what a scale of 7.5 does in 50 steps.

    Raises:
        ValueError: a negative strength, or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("strength", strength, 0.0)
    g = steps(process, times)
    return strength * g.alpha_next / g.gain
