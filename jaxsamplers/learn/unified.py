"""The unified sampling framework: what each step does is decided step by step.

How many values a step combines, whether these are estimates or noises, and whether it is corrected once the value at
its end is known may differ from step to step. With the same decisions everywhere this is UniPC; without corrections
DPM-Solver++ or DPM-Solver. Both kinds of value are remembered, so that a step can extrapolate noises after one that
extrapolated estimates. Decisions may be traced: searching over them compiles one program.

Source: Liu, Ning, Yang & Wang 2024, A unified sampling framework for solver searching (arXiv 2312.07243), section 4;
the steps are those of Zhao et al. 2023, UniPC (arXiv 2302.04867).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import select
from jaxsamplers.solvers.predict_correct import combine, predict_correct, steps_last_table, unit
from jaxsamplers.solvers.unipc import rules
from jaxsamplers.tableau import Entry, Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.predict_correct import Weight

PREDICTIONS = ("x0", "epsilon")


def unified(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int | Int[Array, " n"] = 2,
    prediction: str | Int[Array, " n"] = "x0",
    corrected: bool | Bool[Array, " n"] = True,
    variant: str = "bh2",
    highest: int = 3,
) -> Tableau:
    """UniPC with an order, a prediction and a corrector of its own for each step; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        order: how many values each step combines, 1 to ``highest``; the first steps use those there are.
        prediction: what is extrapolated: "x0" or "epsilon" for all steps, or 0 (the estimate) or 1 (the noise) for
            each, which needs signal at the first time.
        corrected: which steps are taken again when the value at their end is known; for the last it never is.
        variant: "bh1", "bh2" or "exact", as in ``unipc``.
        highest: the largest order there may be, 1 to 4: so many values are remembered.

    Raises:
        ValueError: a decision, a variant or a schedule that is not allowed.
    """
    checks.integer("highest", highest, low=1, high=4)
    mixed = not isinstance(prediction, str)
    kinds: Sequence[str] = PREDICTIONS if mixed else (str(prediction),)
    banks = [rules("unified", process, times, highest, kind, variant) for kind in kinds]
    g = banks[0][-1]
    order = _decisions("order", order, len(g.t), 1, highest)
    keeps = ~_decisions("corrected", corrected, len(g.t), 0, 1).astype(bool)
    used = jnp.minimum(order, g.orders(highest, False))
    predictors = [select(used, highest, predictor) for _, _, predictor, _, _ in banks]
    correctors = [select(used, highest, corrector) for _, _, _, corrector, _ in banks]
    if not mixed:
        return predict_correct(process, g, banks[0][0], banks[0][1], predictors[0], correctors[0], keeps)
    kind = _decisions("prediction", prediction, len(g.t), 0, 1)
    here = [kind == k for k in range(2)]
    only = lambda weights: [[jnp.where(h, w, 0.0) for w in bank] for h, bank in zip(here, weights, strict=True)]
    x = jnp.where(here[0], banks[0][0], banks[1][0])

    # the sources: the prediction, the corrected sample before it, estimates, noises, the answer
    count = 2 * highest + 3
    newest = [unit(count - 1, count), [1 / g.sigma, *[0] * (count - 2), -g.alpha / g.sigma]]
    remembered = [[unit(2 + k * highest + j, count) for j in range(highest)] for k in range(2)]
    values: list[list[list[Entry]]] = [[new, *old] for new, old in zip(newest, remembered, strict=True)]
    first = jnp.arange(len(g.t)) == 0
    stays = jnp.where(first | _before(keeps), 1.0, 0.0).astype(g.t.dtype)
    again = 1.0 - stays

    def terms(weights: list[list[Weight]]) -> list[tuple[Weight, list[Entry]]]:
        pairs = [zip(bank, forms, strict=False) for bank, forms in zip(weights, values, strict=True)]
        return [pair for bank in pairs for pair in bank]

    late = [[again * _before(w) for w in bank] for bank in only(correctors)]
    corrected_form = combine((again * _before(x), unit(1, count)), *terms(late), (stays, unit(0, count)))
    predicted = combine((x, corrected_form), *terms(only(predictors)))
    held = [form for k in range(2) for form in [newest[k], *remembered[k][: highest - 1]]]
    return steps_last_table(process, g, [predicted, corrected_form, *held])


def _decisions(name: str, value: Any, steps: int, low: int, high: int) -> Array:
    """One whole number a step.

    Raises:
        ValueError: not one number or one for each step, or one out of range.
    """
    value = jnp.asarray(value)
    if value.shape not in ((), (steps,)) or not (value.dtype == bool or jnp.issubdtype(value.dtype, jnp.integer)):
        raise ValueError(
            f"{name} must be one whole number or one for each of the {steps} steps, "
            f"got {value.dtype} of shape {value.shape}"
        )
    known = checks.concrete(value)
    if known is not None and not ((known >= low) & (known <= high)).all():
        raise ValueError(f"{name} must be from {low} to {high}, got {known}")
    return jnp.broadcast_to(value.astype(int), (steps,))


def _before(values: Array) -> Array:
    """That of the step before; 0 in the first."""
    return jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]])
