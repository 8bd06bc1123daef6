"""CFG++: guide the estimate, but renoise with the noise of the unguided network.

With the null estimate ``u``, its noise ``eps_u = (x - alpha u) / sigma`` and ``D = c - u``, a step of CFG++ that leaves
the fraction ``k sigma`` of the old noise (DDIM: ``k = sigma' / sigma``, less with fresh noise ``z``) is

    x' = alpha' (u + lambda D) + k sigma eps_u + s z,                          0 <= lambda <= 1

and one of classifier-free guidance, which renoises with ``eps_u - (alpha / sigma) w D``,

    x' = alpha' (u + w D) + k (sigma eps_u - alpha w D) + s z.

They are the same step if ``w (alpha' - alpha k) = lambda alpha'``. The bracket is the weight that the table gives the
estimate, so CFG++ is a scale that differs from row to row: small at first, large at last.

Source: Chung et al. 2024, CFG++ (arXiv 2406.08070), algorithm 2; the equality is derived above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Tableau, with_extra

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def cfg_pp(
    sampler: Tableau, process: Process, times: Float[Array, " n+1"], strength: float | Float[Array, " n"] = 0.6
) -> Tableau:
    """The sampler with the scale that makes ``classifier_free`` guidance CFG++, in its rows.

    Args:
        sampler: ``ddim`` with any ``eta``, or another one-step table that remembers nothing.
        process: the noise process.
        times: the ``n + 1`` times it was made with.
        strength: ``lambda``, a number or one a step; 0.6 does about what a scale of 7.5 does in 50 steps.

    Raises:
        ValueError: a table with a memory (its history would have to be that of ``u``) or of another length, a negative
            strength, or a schedule that ``schedules.validate`` refuses.
    """
    checks.within("strength", strength, 0.0)
    g = steps(process, times)
    if sampler.registers > 1 or len(sampler) != len(g.t):
        raise ValueError(
            f"CFG++ needs a table of one register and one row a step, here {len(g.t)}, such as ddim's; "
            f"got {sampler.registers} registers and {len(sampler)} rows"
        )
    return with_extra(sampler, scale=strength * g.alpha_next / sampler.rows.weights[:, 0, 1])
