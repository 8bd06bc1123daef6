"""Free weights of all the network's answers, on top of any solver.

Every deterministic solver is a lower-triangular matrix: what the network sees next is a combination of the start and
of the answers ``m_0, ..., m_i`` so far. Any other such combination that is right for constant answers differs by

    x' += g_i sum_k c_ik m_{i-k},      sum_k c_ik = 0

with ``g_i``, the solver's own weight of ``m_i``, to give the numbers their scale. With all answers remembered this is
the whole family of consistent solvers: bespoke non-stationary ones, generalised solvers, solver search, S4S; their
rows sum to what they must. A table that remembers the last few is the table of a linear multistep method.

Source: Shaul et al. 2024, Bespoke non-stationary solvers (arXiv 2403.01329), eq. 14; Frankel et al. 2025, S4S (arXiv
2502.17423); Wang et al. 2025, Differentiable solver search (arXiv 2505.21114); Oganov et al. 2025, GAS (arXiv
2510.17699), whose additive form this is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers.tableau import Entry, Tableau, entries, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def with_residuals(tableau: Tableau, coefficients: Float[Array, "n k"], *, consistent: bool = True) -> Tableau:
    """The solver with weights added to the last ``k`` answers of the network.

    Args:
        tableau: any table.
        coefficients: ``[i, j]`` adds to the weight, in row ``i``, of the answer of row ``i - j``, as a multiple of the
            row's own weight of its answer. Entries that ask for answers before the first do nothing.
        consistent: subtract each row's mean, so that answers that are all the same make the sample they made before.

    Raises:
        ValueError: not one row of coefficients for each of the table's.
    """
    calls = len(tableau)
    if coefficients.ndim != 2 or coefficients.shape[0] != calls or not 1 <= coefficients.shape[1] <= calls:
        raise ValueError(
            f"coefficients must have one row for each of the {calls} network calls and at most as many columns, "
            f"got shape {coefficients.shape}"
        )
    remembered = coefficients.shape[1]
    there = jnp.arange(remembered) <= jnp.arange(calls)[:, None]
    values = jnp.where(there, coefficients, 0.0)
    if consistent:
        mean = values.sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
        values = jnp.where(there, values - mean, 0.0)

    weights, noise = entries(tableau)
    own = weights[0][-1]
    size = jnp.abs(jnp.asarray(own, values.dtype))
    scale = jnp.broadcast_to(size, (calls, *tableau.rows.weights.shape[3:]))
    added = jnp.expand_dims(scale, 1) * values.reshape(values.shape + (1,) * (scale.ndim - 1))
    none: list[Entry] = [0] * (remembered - 1)
    first = [*weights[0][:-1], *[added[:, k] for k in range(1, remembered)], own + added[:, 0]]
    kept = [[*row[:-1], *none, row[-1]] for row in weights[1:]]
    count = tableau.registers + remembered - 1
    source = [count, *range(tableau.registers, count - 1)]  # the newest answer, then each register the one before it
    shift = [[int(j == held) for j in range(count + 1)] for held in source[: remembered - 1]]
    rows = tableau.rows
    constant = None if rows.constant is None else [*jnp.moveaxis(rows.constant, 1, 0), *none]
    made = table(None, rows.time, [first, *kept, *shift], [*noise, *none], rows.extra, constant)
    return dataclasses.replace(made, origin=tableau.origin)
