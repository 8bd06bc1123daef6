"""DEIS-rhoRK: classical Runge-Kutta methods on the noise prediction, in the noise level.

With ``y = x / alpha`` and ``rho = sigma / alpha`` the probability flow is ``dy / d rho = e``, an equation without a
linear part, so any explicit method ``(a, b, c)`` solves it without harm: stage ``i`` asks the network at
``rho + c_i (rho' - rho)`` and

    y_i = y + (rho' - rho) sum_{j < i} a_ij e_j            y' = y + (rho' - rho) sum_j b_j e_j

"2heun" is the scheme that Karras et al. take. A method that asks at ``rho'`` itself cannot end at the clean end.

Source: Zhang & Chen 2023, DEIS (arXiv 2204.13902), the rho-RK family, with the methods of the authors' code; Hairer,
Norsett & Wanner 1993, Solving ordinary differential equations I.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Entry, Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

# rows of a, then b; c_i is the sum of a's row i
METHODS: dict[str, tuple[tuple[float, ...], ...]] = {
    "2heun": ((), (1.0,), (1 / 2, 1 / 2)),
    "3kutta": ((), (1 / 2,), (-1.0, 2.0), (1 / 6, 4 / 6, 1 / 6)),
    "3heun": ((), (1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4)),
    "3ral": ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 3 / 9, 4 / 9)),
    "3vdh": ((), (8 / 15,), (1 / 4, 5 / 12), (1 / 4, 0.0, 3 / 4)),
    "3ssprk": ((), (1.0,), (1 / 4, 1 / 4), (1 / 6, 1 / 6, 4 / 6)),
    "4rk": ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
}


def deis_rk(
    process: Process, times: Float[Array, " n+1"], *, variant: str = "3kutta", lower_order_final: bool = True
) -> Tableau:
    """DEIS-rhoRK, of the order that its variant begins with; as many network calls a step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        variant: "2heun", "3kutta", "3heun", "3ral" (Ralston), "3vdh" (van der Houwen), "3ssprk" or "4rk".
        lower_order_final: take the last step at first order, in one call.

    Raises:
        ValueError: an unknown variant, a schedule that is not allowed, or ``lower_order_final=False`` with a schedule
            that ends at the clean end.
    """
    checks.one_of("variant", variant, METHODS)
    g = steps(process, times)
    g.needs_signal("deis_rk")
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("a Runge-Kutta step asks the network at its end or near it: use lower_order_final=True")
    whole = jax.tree.map(lambda level: level[: len(g.t) - lower_order_final], g)
    weights = METHODS[variant]
    stages = len(weights) - 1
    rho, span = whole.sigma / whole.alpha, whole.sigma_next / whole.alpha_next - whole.sigma / whole.alpha
    levels = [(whole.t, whole.alpha, whole.sigma)]
    for row in weights[1:]:
        if abs(sum(row) - 1) < 1e-9:
            levels.append((whole.t_next, whole.alpha_next, whole.sigma_next))
        else:
            t = process.time(-jnp.log(rho + sum(row) * span))
            levels.append((t, process.alpha(t), process.sigma(t)))

    def stage(i: int) -> Tableau:
        """Registers: what the network sees, ``y`` at the start of the step, the values ``e`` of the stages before."""
        t, alpha, sigma = levels[i]
        value = (1 / sigma, -alpha / sigma)  # e, of what the network saw and of what it answered
        shown, scale = levels[i + 1][1], levels[i + 1][1] * span
        slopes = [scale * weight for weight in weights[i + 1]]
        held = [*slopes[:i], *[0] * (stages - 1 - i)]
        start: list[Entry] = [1 / alpha, *[0] * (stages + 1)] if i == 0 else [0, 1, *[0] * stages]
        sample: list[Entry] = [slopes[i] * value[0], shown, *held, slopes[i] * value[1]]
        if i == 0:
            sample = [shown / alpha + sample[0], 0, *[0] * (stages - 1), sample[-1]]
        kept = [[int(j == k + 2) for j in range(stages + 2)] for k in range(stages - 1)]
        if i < stages - 1:
            kept[i] = [value[0], *[0] * stages, value[1]]
        return table(process, t, [sample, start, *kept])

    tables = [interleave(*[stage(i) for i in range(stages)])] if len(whole.t) else []
    if lower_order_final:
        tables.append(table(process, g.t[-1:], [[g.keep[-1:], g.gain[-1:]]]))
    return tables[0] if len(tables) == 1 else concatenate(*tables)
