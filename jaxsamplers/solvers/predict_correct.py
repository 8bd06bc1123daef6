"""A predictor and a corrector in one row: PEC, the frame of UniPC and DPM-Solver-v3.

The network is asked once a step, at the predicted point. With its answer the step just taken is taken again, through
the new value as well, and the next prediction starts from the corrected sample; values stay those of predicted points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers.tableau import Entry, Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep, Steps

    Weight = Float[Array, "... n"]  # steps last: other axes broadcast against the sample


def predict(
    process: Process,
    g: Steps,
    x: Weight,
    value: tuple[Entry, Entry],
    predictor: Sequence[Weight],
    constant: Weight | None = None,
) -> Tableau:
    """The table of ``x' = x_weight x + sum_j predictor_j v_j``, never corrected; arguments as ``predict_correct``."""
    newest, *older = predictor
    sample = [x + newest * value[0], *older, newest * value[1]]
    count = len(older)
    shift = [[0] * j + [1] + [0] * (count + 1 - j) for j in range(1, count)]
    rows = [sample, [value[0], *[0] * count, value[1]]] if older else [sample]
    return steps_last_table(process, g, [*rows, *shift], None if constant is None else [constant, *[0] * count])


def predict_correct(
    process: Process,
    g: Steps,
    x: Weight,
    value: tuple[Entry, Entry],
    predictor: Sequence[Weight],
    corrector: Sequence[Weight],
    kept: Bool[Array, " n"],
    constants: tuple[Weight, Weight] | None = None,
) -> Tableau:
    """The table of ``x' = x_weight x + sum_j predictor_j v_j``, corrected when ``v'`` is known.

    Args:
        process: the noise process.
        g: its steps.
        x: the old sample's weight in a step.
        value: what makes ``v`` of what the network saw and of what it answered.
        predictor: weights of ``v_0`` (the newest), ``v_1``, ...
        corrector: weights in the same step of the new ``v'``, then of ``v_0``, ``v_1``, ...
        kept: the steps that stay as they were predicted.
        constants: what a step adds, predicted and corrected.
    """
    order = len(corrector) - 1
    newest, remembered, corrected, again = correction(g, x, value, corrector, kept)
    predicted = combine((x, corrected), *zip(predictor, [newest, *remembered], strict=False))
    added = None
    if constants is not None:
        late = again * _before(constants[1])
        added = [constants[0] + x * late, late, *[0] * order]
    return steps_last_table(process, g, [predicted, corrected, newest, *shifted(order, len(newest))], added)


def correction(
    g: Steps,
    x: Weight,
    value: tuple[Entry, Entry],
    corrector: Sequence[Weight],
    kept: Bool[Array, " n"],
    others: int = 0,
) -> tuple[list[Entry], list[list[Entry]], list[Weight], PerStep]:
    """Linear forms of the newest value, the remembered ones and the corrected sample, and where it is corrected.

    They are forms over: the prediction, the corrected sample before it, the remembered values (one fewer than the
    corrector combines), ``others``, the answer. Arguments as ``predict_correct``.
    """
    order = len(corrector) - 1
    count = order + 3 + others
    newest = [value[0], *[0] * (count - 2), value[1]]
    remembered = [unit(2 + j, count) for j in range(order)]
    first = jnp.arange(len(g.t)) == 0  # the first sample needs no correction
    stays = jnp.where(first | _before(kept), 1.0, 0.0).astype(g.t.dtype)
    again = 1.0 - stays
    corrected = combine(
        (again * _before(x), unit(1, count)),
        (again * _before(corrector[0]), newest),
        *[(again * _before(weight), old) for weight, old in zip(corrector[1:], remembered, strict=True)],
        (stays, unit(0, count)),
    )
    return newest, remembered, corrected, again


def unit(index: int, count: int) -> list[Entry]:
    """The form that is one source."""
    return [int(i == index) for i in range(count)]


def shifted(order: int, count: int) -> list[list[Entry]]:
    """Each remembered value but the newest is the one remembered before it."""
    return [unit(2 + k, count) for k in range(order - 1)]


def listed(g: Steps, uncorrected: Sequence[int]) -> Bool[Array, " n"]:
    """Which steps are in the list."""
    return jnp.isin(jnp.arange(len(g.t)), jnp.asarray([-1, *uncorrected]))


def combine(*terms: tuple[Weight, list[Entry]]) -> list[Weight]:
    """``sum_k factor_k form_k`` of linear forms over the sources."""
    return [sum((factor * form[i] for factor, form in terms), start=jnp.zeros(())) for i in range(len(terms[0][1]))]


def _before(weight: Weight) -> Weight:
    """That of the step before; 0 in the first."""
    return jnp.concatenate([jnp.zeros_like(weight[..., :1]), weight[..., :-1]], axis=-1)


def steps_last_table(
    process: Process, g: Steps, rows: list[list[Entry]], constant: list[Entry] | None = None
) -> Tableau:
    """The table of entries whose steps are last."""
    steps_first = lambda row: [e if isinstance(e, int) else jnp.moveaxis(e, -1, 0) for e in row]
    added = None if constant is None else steps_first(constant)
    return table(process, g.t, [steps_first(row) for row in rows], constant=added)
