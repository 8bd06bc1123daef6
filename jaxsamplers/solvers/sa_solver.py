"""SA-Solver: stochastic Adams methods, a predictor and a corrector that see the same noise.

The reverse SDE of stochasticity ``eta`` (the paper's ``tau^2``) is, in half-log-SNR and with ``H = (1 + eta) h``,

    x' = keep e^{-eta h} x + alpha' int_0^H e^{-(H - s)} m ds + sigma' sqrt(1 - e^{-2 eta h}) z

The predictor integrates the polynomial through the last estimates. When the network has answered at the predicted
point, the corrector takes the same step, with the same ``z``, through the new estimate too. Old sample and noise being
common to both, the corrected sample is the predicted one plus a combination of estimates: neither need be kept, and one
row holds the corrector of a step and the predictor of the next.

The strong order is one, with a small constant where ``eta`` is small; at ``eta = 0`` a predictor of ``p`` and a
corrector of ``q`` estimates have order ``min(p + 1, q)``.

Source: Xue et al. 2023, SA-Solver (arXiv 2309.05019), eq. 15 and 18, algorithm 1. The variant "bh1" halves the slope's
moment ``alpha' H phi_2(-H)`` as ``alpha' H / 2`` where exactly two estimates are combined (their appendix D and their
code for few steps; diffusers does so always).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import diffuse, interpolate, lag, multistep, past, phi, select, steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process


def sa_solver(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    corrector_order: int = 2,
    eta: float | Float[Array, " n"] = 1.0,
    variant: str = "exact",
    lower_order_final: bool = True,
) -> Tableau:
    """SA-Solver, stochastic predictor-corrector; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many estimates the predictor combines, 1 to 4; the first steps use those there are.
        corrector_order: how many the corrector combines, the new one included, 1 to 4; 0 for no corrector. The authors
            advise ``order=3, corrector_order=4``, and 2 and 2 under strong guidance.
        eta: stochasticity, ``tau^2`` in the paper: 1 for the reverse SDE, 0 for the flow; a number, or one a step. The
            authors let it be positive only in the middle of the schedule.
        variant: "exact", or "bh1" for the authors' rule of few steps.
        lower_order_final: fall back to lower orders in the last steps.

    Raises:
        ValueError: an order, a variant, ``eta`` or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=4)
    checks.integer("corrector_order", corrector_order, low=0, high=4)
    checks.one_of("variant", variant, ("exact", "bh1"))
    checks.within("eta", eta, 0.0)
    g = steps(process, times)
    x, fresh = diffuse(g, eta)
    h = (1 + jnp.asarray(eta, g.t.dtype)) * g.h
    gain = g.alpha_next - g.alpha * x
    smooth = [g.alpha_next * h * math.factorial(p) * phi(p + 1, -h) for p in range(1, max(order, corrector_order))]

    def moments(k: int) -> list[Array]:
        return [gain, g.alpha_next * h / 2] if k == 2 and variant == "bh1" else [gain, *smooth]

    def predictor(k: int, here: Array) -> list[Array]:
        return interpolate(past(g.h, k, here), moments(k))

    def corrector(k: int, here: Array) -> list[Array]:
        nodes = [jnp.ones_like(g.h), *past(g.h, max(k - 1, 1), here)]
        return interpolate(nodes[:k], moments(k))

    noise = None if checks.is_zero(eta) else fresh
    p = select(g.orders(order, lower_order_final), order, predictor)
    if corrector_order == 0:
        return multistep(process, g, x, p, "x0", noise)
    used = jnp.ones_like(g.orders(1, False))
    if corrector_order > 1:
        used = 1 + g.orders(corrector_order - 1, lower_order_final)
    c = select(used, corrector_order, corrector)

    count = max(order, corrector_order - 1)  # estimates remembered
    zero = jnp.zeros_like(g.t)
    p, (newest, *older) = [*p, *[zero] * (count - order)], c
    older += [zero] * (count - len(older))
    correct = lambda change: lag(jnp.where(g.finite, change, 0.0), 1, 0.0)  # of the step before; an infinite one stands
    corrections = [correct(newest), *[correct(b - a) for a, b in zip(p, older, strict=True)]]
    m, *held = [x * c + a for c, a in zip(corrections, [*p, zero], strict=True)]
    shift = [[0] * (k + 1) + [1] + [0] * (count - k) for k in range(count - 1)]
    return table(
        process,
        g.t,
        [[x, *held, m], [0] * (count + 1) + [1], *shift],
        None if noise is None else [noise, *[0] * count],
    )
