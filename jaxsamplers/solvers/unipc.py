"""UniPC: a unified predictor-corrector whose corrector costs no network call.

The predictor UniP-p is the exponential Adams method through the last ``p`` values. When the network has answered at the
predicted point, the corrector UniC-p takes the same step again with the new value as one more node, at ``u = 1``, and
the next prediction starts from there: one row holds the corrector of a step and the predictor of the next.

With as many nodes as equations the paper's ``R rho = b`` has the interpolating polynomial as its solution, whatever
``B(h)``; the choice matters only where the code sets ``rho = 1/2``, in UniP-2 and UniC-1, whose ``u`` moment becomes

    bh1   half of h           bh2   half of the zeroth moment (UniP-2 is then DPM-Solver++'s midpoint rule)
    exact the true moment: the paper's varying coefficients (its code loses terms there from order 2 on)

Source: Zhao et al. 2023, UniPC (arXiv 2302.04867), eq. 5 - 9, algorithms 1 - 2 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import interpolate, lag, past, phi, select, steps
from jaxsamplers.tableau import Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def unipc(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 2,
    prediction: str = "x0",
    variant: str = "bh2",
    lower_order_final: bool = True,
    uncorrected: Sequence[int] = (),
) -> Tableau:
    """UniPC of orders 1 to 4, corrected to one order more; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many values the predictor combines; the first steps use those there are.
        prediction: what is extrapolated, the estimate "x0" or the noise "epsilon".
        variant: "bh1", "bh2" or "exact".
        lower_order_final: fall back to lower orders in the last steps.
        uncorrected: steps that keep their prediction; the first ones, where guidance is large.

    Raises:
        ValueError: an order, a prediction, a variant or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=4)
    checks.one_of("prediction", prediction, ("x0", "epsilon"))
    checks.one_of("variant", variant, ("bh1", "bh2", "exact"))
    g = steps(process, times)
    if prediction == "x0":
        x, sign, scale = g.keep, -1, g.alpha_next
        value = [0.0 * g.t, jnp.ones_like(g.t)]
    else:
        g.needs_signal("unipc")
        x, sign, scale = g.alpha_next / g.alpha, 1, -g.sigma_next
        value = [1 / g.sigma, -g.alpha / g.sigma]
    gain = g.alpha_next - g.alpha * x if prediction == "x0" else g.sigma_next - g.sigma * x
    smooth = [scale * g.h * math.factorial(p) * phi(p + 1, sign * g.h) for p in range(1, order + 1)]
    half = {"bh1": scale * g.h / 2, "bh2": gain / 2, "exact": smooth[0]}[variant]

    def predictor(k: int, here: Array) -> list[Array]:
        moments = [gain, half] if k == 2 else [gain, *smooth]
        return interpolate(past(g.h, k, here), moments)

    def corrector(k: int, here: Array) -> list[Array]:
        moments = [gain, half] if k == 1 else [gain, *smooth]
        weights = interpolate([*past(g.h, k, here), jnp.ones_like(g.h)], moments)
        return [weights[-1], *weights[:-1]]

    used = g.orders(order, lower_order_final)
    p = select(used, order, predictor)
    c = select(used, order, corrector)

    # sources: the prediction, the corrected sample before it, the last `order` values, the estimate
    count = order + 3
    newest = [value[0], *[jnp.zeros_like(g.t)] * (order + 1), value[1]]
    remembered = [_unit(2 + j, count, g.t) for j in range(order)]
    kept = jnp.isin(jnp.arange(len(g.t)) - 1, jnp.asarray([-1, *uncorrected]))  # the first sample needs no correction
    again = 1.0 - kept
    corrected = _sum(
        (again * lag(x, 1, 0.0), _unit(1, count, g.t)),
        (again * lag(c[0], 1, 0.0), newest),
        *[(again * lag(weight, 1, 0.0), old) for weight, old in zip(c[1:], remembered, strict=True)],
        (kept * jnp.ones_like(g.t), _unit(0, count, g.t)),
    )
    predicted = _sum((x, corrected), (p[0], newest), *zip(p[1:], remembered, strict=False))
    shift = [[0, 0, *[int(j == k) for j in range(order)], 0] for k in range(order - 1)]
    first_value = [0, *[0] * (order + 1), 1] if prediction == "x0" else [value[0], *[0] * (order + 1), value[1]]
    return table(process, g.t, [predicted, corrected, first_value, *shift])


def _unit(index: int, count: int, like: PerStep) -> list[PerStep]:
    return [jnp.ones_like(like) if i == index else jnp.zeros_like(like) for i in range(count)]


def _sum(*terms: tuple[PerStep, list[PerStep]]) -> list[PerStep]:
    """``sum_k factor_k form_k`` of linear forms over the sources."""
    return [sum((factor * form[i] for factor, form in terms), start=jnp.zeros(())) for i in range(len(terms[0][1]))]
