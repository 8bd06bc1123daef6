"""Tables written out row by row in NumPy, for methods whose rows are not one formula: what diffusers' schedulers need.

A row is written as the scheduler's step reads: with the registers, the estimate ``m`` and the noise ``z`` as unit
vectors, any affine step is arithmetic on vectors, and the vectors it ends with are the row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxsamplers.recipes.levels import Numbers
from jaxsamplers.tableau import ABSENT, COPIED, WEIGHTED, Rows, Tableau

Step = Callable[[int, list[Numbers], Numbers, Numbers], Sequence[Numbers]]


def written(times: Numbers, registers: int, step: Step) -> Tableau:
    """The table whose row ``i`` is ``step(i, registers, m, z)``, the new registers."""
    unit = np.eye(registers + 2)
    rows = [np.stack(step(i, list(unit[:registers]), unit[-2], unit[-1])) for i in range(len(times))]
    return dense(times, np.stack(rows))


def dense(times: Numbers, values: Numbers) -> Tableau:
    """A table from its numbers ``[n, R, R + 2]``, noise last; what is always 0 or always 1 becomes structure."""
    kinds = np.where((values == 0).all(axis=0), ABSENT, np.where((values == 1).all(axis=0), COPIED, WEIGHTED))
    pattern = tuple(tuple(int(kind) for kind in row) for row in kinds)
    return Tableau(Rows(jnp.asarray(times), jnp.asarray(values[:, :, :-1]), jnp.asarray(values[:, :, -1])), pattern)


def rescaled(tableau: Tableau, factor: float) -> Tableau:
    """The same table, whose final sample is ``factor`` times as large."""
    rows = tableau.rows
    weights, noise = rows.weights.at[-1, 0].multiply(factor), rows.noise.at[-1, 0].multiply(factor)
    return dataclasses.replace(tableau, rows=dataclasses.replace(rows, weights=weights, noise=noise))


def with_last(tableau: Tableau, last: Tableau) -> Tableau:
    """``tableau`` with its last row replaced by that of ``last``, which has no more registers."""
    n, wide, narrow = len(tableau), tableau.registers, last.registers
    values = np.concatenate([tableau.rows.weights, np.asarray(tableau.rows.noise)[:, :, None]], axis=2)
    values[n - 1] = 0
    columns = [*range(narrow), wide, wide + 1]
    row = np.concatenate([last.rows.weights[-1], np.asarray(last.rows.noise[-1])[:, None]], axis=1)
    values[n - 1][np.ix_(range(narrow), columns)] = row
    return dense(np.asarray(tableau.rows.time), values)


def showing(tableau: Tableau, shown: Numbers) -> Tableau:
    """The same table, whose rows tell the network ``shown``."""
    extra = {"network_time": jnp.asarray(shown, jnp.result_type(float))}
    return dataclasses.replace(tableau, rows=dataclasses.replace(tableau.rows, extra=extra))


def singlestep(
    times: Numbers, alpha: Numbers, sigma: Numbers, orders: Sequence[int], kind: str, exact: bool
) -> Tableau:
    """diffusers' singlestep DPM-Solver: the stages of a step are the grid's own points, wherever they lie.

    Args:
        times: of the rows.
        alpha: ``n + 1`` signal levels.
        sigma: ``n + 1`` noise levels; 0 only at the end of a row of order 1.
        orders: of every row; a row of order ``k`` goes again from where the last row of order 1 started.
        kind: "dpmsolver" on the noise, "dpmsolver++" and "sde-dpmsolver++" on the estimate.
        exact: integrate the polynomial ("heun", the authors' "taylor"), else the shorter formulas.
    """
    with np.errstate(divide="ignore"):
        half_log_snr = np.log(alpha) - np.log(sigma)
    noisy, on_noise = kind.startswith("sde"), kind == "dpmsolver"

    def step(i: int, registers: list[Numbers], m: Numbers, z: Numbers) -> list[Numbers]:
        x, anchor, *past = registers
        order, start = orders[i], i + 1 - orders[i]
        anchor = x if order == 1 else anchor
        values = [(x - alpha[i] * m) / sigma[i] if on_noise else m, *past]
        h = (half_log_snr[i + 1] - half_log_snr[start]) * (2 if noisy else 1)
        a, s = alpha[i + 1], sigma[i + 1]
        decay = np.exp(-h / 2) if noisy else 1.0
        if on_noise:
            keep, gain, slope = a / alpha[start], -s * np.expm1(h), -s * (np.expm1(h) / h - 1)
            bend = -s * ((np.expm1(h) - h) / h**2 - 0.5)
        else:
            keep, gain = s / sigma[start] * decay, -a * np.expm1(-h)
            slope = a * (np.expm1(-h) / h + 1) if order > 1 else 0.0
            bend = -a * ((np.expm1(-h) + h) / h**2 - 0.5) if order > 1 else 0.0
        first = values[order - 1]
        new = keep * anchor + gain * first
        fraction = [
            (half_log_snr[j] - half_log_snr[start]) / (half_log_snr[i + 1] - half_log_snr[start])
            for j in range(start + 1, i + 1)
        ]
        if order == 2:
            new = new + (slope if exact else gain / 2) * (values[0] - first) / fraction[0]
        if order == 3:
            near, far = [(v - first) / r for v, r in zip([values[1], values[0]], fraction, strict=True)]
            if exact:
                spread = fraction[1] - fraction[0]
                new = new + slope * (fraction[1] * near - fraction[0] * far) / spread + bend * 2 * (far - near) / spread
            else:
                new = new + slope * far
        fresh = s * np.sqrt(-np.expm1(-h)) if noisy else 0.0
        return [new + fresh * z, anchor, *values[: len(past)]]

    return written(times, max(orders) + 1, step)
