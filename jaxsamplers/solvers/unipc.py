"""UniPC: a unified predictor-corrector whose corrector costs no network call.

The predictor UniP-p is the exponential Adams method through the last ``p`` values. When the network has answered at the
predicted point, the corrector UniC-p takes the same step again with the new value as one more node, at ``u = 1``, and
the next prediction starts from there: one row holds the corrector of a step and the predictor of the next.

With as many nodes as equations the paper's ``R rho = b`` has the interpolating polynomial as its solution, whatever
``B(h)``; the choice matters only where the code sets ``rho = 1/2``, in UniP-2 and UniC-1, whose ``u`` moment becomes

    bh1   half of h           bh2   half of the zeroth moment (UniP-2 is then DPM-Solver++'s midpoint rule)
    exact the true moment: the paper's varying coefficients (its code loses terms there from order 2 on)

``unic`` is the corrector alone, after another solver.

Source: Zhao et al. 2023, UniPC (arXiv 2302.04867), eq. 5 - 9, algorithms 1 - 2 and appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp
from jaxsamplers.solvers.grid import interpolate, past, phi, select, steps
from jaxsamplers.solvers.predict_correct import (
    combine,
    correction,
    listed,
    predict_correct,
    shifted,
    steps_last_table,
    unit,
)
from jaxsamplers.tableau import ABSENT, COPIED, Entry, Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep, Steps
    from jaxsamplers.solvers.predict_correct import Weight

    Rule = Callable[[int, Array], list[Array]]


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
    x, value, predictor, corrector, g = rules("unipc", process, times, order, prediction, variant)
    used = g.orders(order, lower_order_final)
    p, c = select(used, order, predictor), select(used, order, corrector)
    return predict_correct(process, g, x, value, p, c, listed(g, uncorrected))


def unic(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    solver: Callable[..., Tableau] = dpm_solver_pp,
    order: int = 2,
    prediction: str = "x0",
    variant: str = "bh2",
    lower_order_final: bool = True,
    uncorrected: Sequence[int] = (),
) -> Tableau:
    """The corrector UniC of order ``order + 1`` after any solver of order ``order``; one network call a step.

    What the solver does with its sample it does with the corrected one; what the network said remains said of the
    predicted one. After UniP, which for ``order=2`` and "bh2" is ``dpm_solver_pp``, it is ``unipc``.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times.
        solver: ``(process, times) -> Tableau``, deterministic and of one network call a step.
        order: how many values the corrector combines besides the new one, 1 to 4: the solver's own order.
        prediction: what the corrector and the solver combine, estimates "x0" or noises "epsilon".
        variant: "bh1", "bh2" or "exact", which differ for ``order=1``.
        lower_order_final: fall back to lower orders in the last steps.
        uncorrected: steps that keep their prediction.

    Raises:
        ValueError: a solver that draws noise, adds constants or takes several calls a step, or an argument that is not
            allowed.
    Source: Zhao et al. 2023 (arXiv 2302.04867), section 3.1, which lets UniC follow any solver.
    """
    x, value, _, corrector, g = rules("unic", process, times, order, prediction, variant)
    inner = solver(process, times)
    shown = checks.concrete(inner.rows.time)
    asked = checks.concrete(g.t)
    elsewhere = len(inner) != len(g.t) or (shown is not None and asked is not None and (shown != asked).any())
    if inner.stochastic or elsewhere or inner.rows.constant is not None:
        raise ValueError("unic needs a deterministic solver with one network call a step, at the step's own time")
    c = select(g.orders(order, lower_order_final), order, corrector)
    more = inner.registers - 1
    newest, _, corrected, _ = correction(g, x, value, c, listed(g, uncorrected), more)
    count = len(newest)

    def form(row: int) -> list[Entry]:
        """A register of the solver's, whose ``m`` is rewritten as sample and value where values are noises."""
        sample, *held, m = _entries(inner, row)
        if prediction == "epsilon":
            sample, m = sample + m / g.alpha, -m * g.sigma / g.alpha
        old = [(weight, unit(2 + order + j, count)) for j, weight in enumerate(held)]
        return combine((sample, corrected), (m, newest), *old)

    own = [form(row) for row in range(inner.registers)]
    return steps_last_table(process, g, [own[0], corrected, newest, *shifted(order, count), *own[1:]])


def rules(
    name: str, process: Process, times: Float[Array, " n+1"], order: int, prediction: str, variant: str
) -> tuple[PerStep, tuple[Entry, Entry], Rule, Rule, Steps]:
    """The old sample's weight, what makes a value, and the weights of UniP and UniC for each number of values."""
    checks.integer("order", order, low=1, high=4)
    checks.one_of("prediction", prediction, ("x0", "epsilon"))
    checks.one_of("variant", variant, ("bh1", "bh2", "exact"))
    g = steps(process, times)
    value: tuple[Entry, Entry]
    if prediction == "x0":
        x, sign, scale = g.keep, -1, g.alpha_next
        gain, value = g.gain, (0, 1)
    else:
        g.needs_signal(name)
        x, sign, scale = g.alpha_next / g.alpha, 1, -g.sigma_next
        gain, value = g.sigma_next - g.sigma * x, (1 / g.sigma, -g.alpha / g.sigma)
    smooth = [scale * g.h * math.factorial(p) * phi(p + 1, sign * g.h) for p in range(1, order + 1)]
    half = {"bh1": scale * g.h / 2, "bh2": gain / 2, "exact": smooth[0]}[variant]

    def predictor(k: int, here: Array) -> list[Array]:
        moments = [gain, half] if k == 2 else [gain, *smooth]
        return interpolate(past(g.h, k, here), moments)

    def corrector(k: int, here: Array) -> list[Array]:
        moments = [gain, half] if k == 1 else [gain, *smooth]
        weights = interpolate([*past(g.h, k, here), jnp.ones_like(g.h)], moments)
        return [weights[-1], *weights[:-1]]

    return x, value, predictor, corrector, g


def _entries(tableau: Tableau, row: int) -> list[Weight]:
    """A row of a table's weights as arrays whose steps are last."""
    kinds, weights = tableau.pattern[row][:-1], jnp.moveaxis(tableau.rows.weights, 0, -1)
    fixed = {ABSENT: 0.0, COPIED: 1.0}
    return [jnp.full_like(w, fixed[kind]) if kind in fixed else w for w, kind in zip(weights[row], kinds, strict=True)]
