"""Predictors and correctors: between steps, rates that leave the law of ``x_t`` as it is repair what steps spoil.

At a time ``t`` the rates of noise lead from the law of ``x_t`` one way, those of a sampler the other way. Both together
lead nowhere, but move tokens: one or several such moves after each step bring tokens that were drawn independently of
each other into accord.

    reverse    noise's rates, and those of the reversed process        clean l, noise b (1 - alpha), refresh b
    flow       noise's rates, and discrete flow matching's             clean l,                      refresh b

with ``l = -alpha' / (1 - alpha)`` and ``b = -alpha' / alpha``; on masks they are the same. A row is a row, so that the
sampler is again a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.discrete.samplers import ancestral, rate_coefficients
from jaxsamplers.discrete.table import TokenTable, grid, per_step, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.discrete.processes import Replacement

    Times = Float[Array, " n+1"]

Rates = tuple[Any, Any, Any]


def reverse(process: Replacement, t: Times) -> Rates:
    """Noise and its reversal. Source: Campbell et al. 2022 (arXiv 2205.14987), sec. 4.4."""
    return *rate_coefficients(process, t), process.rate(t)


def flow(process: Replacement, t: Times) -> Rates:
    """Noise and discrete flow matching's velocity. Source: Gat et al. 2024 (arXiv 2407.15595), ``alpha_t = beta_t``."""
    return rate_coefficients(process, t)[0], jnp.zeros_like(t), process.rate(t)


correctors: dict[str, Callable[..., Rates]] = {"reverse": reverse, "flow": flow}


def predictor_corrector(
    process: Replacement,
    times: Times,
    *,
    predictor: Callable[..., TokenTable] = ancestral,
    corrector: str = "reverse",
    corrections: int | Sequence[int] = 1,
    stride: float | Float[Array, " n-1"] = 1.0,
) -> TokenTable:
    """A sampler's steps with corrector steps between them; one call a row, ``n`` and as many as there are corrections.

    What a corrector step expects to move becomes a probability by the predictor's own rule. With that of ``ancestral``
    and ``euler`` it leaves the law of a single token exactly as it is, while no more than one move is expected.

    Args:
        process: masked, uniform or marginal.
        times: ``n + 1`` decreasing times.
        predictor: ``(process, times)`` to a table of one row a step, such as ``ancestral``, ``euler``, ``tau_leaping``,
            ``flow_exact``.
        corrector: "reverse" or "flow".
        corrections: how many corrector rows come after each step but the last: a number, or ``n - 1`` of them, so that
            they can act in a part of the time only.
        stride: the length of a corrector step in those of the step before: a number, or ``n - 1``. The authors' is 1.5.

    Raises:
        ValueError: unknown names, negative numbers, other than ``n - 1`` of them, infinite rates, a predictor of
            another kind, or a schedule that is not allowed.
    Source: Campbell et al. 2022 (arXiv 2205.14987), sec. 4.4, whose program corrects 10 times where ``t <= 0.1``.
    """
    checks.within("stride", stride, 0.0, above=True)
    rates = checks.look_up("corrector", corrector, correctors)
    times = grid(process, times, "predictor_corrector")
    steps = len(times) - 1
    given = np.asarray(corrections).tolist()
    counts = given if isinstance(given, list) else [given] * (steps - 1)
    if len(counts) != steps - 1:
        raise ValueError(f"corrections must be a number or {steps - 1} of them, one a step but the last, got {counts}")
    counts = [checks.integer("corrections", count, low=0) for count in counts]
    predicted = predictor(process, times)
    if not isinstance(predicted, TokenTable) or len(predicted) != steps:
        raise ValueError("predictor must make a table of one row a step, such as ancestral, euler or flow_exact does")
    lengths = per_step("stride", stride, steps - 1) * (times[:-2] - times[1:-1])
    corrected = table(process, times[1:], *(lengths * rate for rate in rates(process, times[1:-1])))
    order = [row for k in range(steps) for row in [k, *[steps + k] * (*counts, 0)[k]]]
    join = lambda mine, theirs: jnp.concatenate([mine, theirs])[jnp.array(order)]
    return dataclasses.replace(predicted, rows=jax.tree.map(join, predicted.rows, corrected.rows))
