"""PNDM: classical multistep and Runge-Kutta methods whose every move is DDIM's transfer.

With ``e = (x - alpha m) / sigma`` the noise the denoiser implies, DDIM carries a sample to another time as

    transfer(x, e) = alpha' / alpha x + (sigma' - sigma alpha' / alpha) e

and stays on the curve of points that ``e`` and its ``x0`` span, however long the step. A pseudo numerical method puts
the slope of a classical one, computed with the weights of equal steps whatever the grid, in the place of ``e``:

    PLMS   (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3) / 24, remembered values, one call; (3 e_0 - e_1) / 2 with two of them
    PRK    (e_1 + 2 e_2 + 2 e_3 + e_4) / 6, the last three asked where the transfer of the stage before leads

``plms`` starts with one step of Heun's rule (S-PNDM), ``pndm`` with three of Runge-Kutta (F-PNDM). Both converge at
second order: a transfer weighs the noise by the mean of ``d(sigma / alpha)``, not point by point.

Source: Liu, Ren, Lin & Zhao 2022, Pseudo numerical methods for diffusion models on manifolds (arXiv 2202.09778), eq. 9,
12, 13 and algorithm 2. The authors' code takes the noise levels of index ``i + 1`` but shows the network ``i``; as
diffusers, we do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.deis import ADAMS_BASHFORTH
from jaxsamplers.solvers.grid import Steps, multistep, select, steps
from jaxsamplers.tableau import Entry, Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def plms(process: Process, times: Float[Array, " n+1"], *, order: int = 4, lower_order_final: bool = False) -> Tableau:
    """Pseudo linear multistep, S-PNDM for ``order=2``; ``n + 1`` network calls, the first step taking two.

    The first step is Heun's, the next ones combine as many values as there are: diffusers' PNDMScheduler with
    ``skip_prk_steps=True``, which asks its second timestep twice.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times.
        order: how many values are combined, 2 to 4.
        lower_order_final: fall back to fewer values in the last steps.

    Raises:
        ValueError: an order or a schedule that is not allowed.
    """
    checks.integer("order", order, low=2, high=4)
    g = steps(process, times)
    g.needs_signal("plms")
    first = _part(g, slice(1))
    x, gain = _transfer(first)
    here, there = _noise(first.alpha, first.sigma), _noise(first.alpha_next, first.sigma_next)
    half = jnp.where(first.finite, 0.5, 0.0)  # a step to the clean end cannot ask the noise there

    # registers: the sample, the values from the newest, the sample at the start of the step; then the estimate
    start, estimate = order, order + 1
    predict: list[dict[int, Entry]] = [{**_along(gain, here, estimate), 0: x + gain * here[0]}]
    remember = [_along(1.0, here, estimate), *[{}] * (order - 2), {0: 1}]
    correct: list[dict[int, Entry]] = [{**_along(gain * half, there, estimate), 1: gain * (1 - half), start: x}]
    return concatenate(
        _table(process, first.t, predict + remember),
        _table(process, first.t_next, [*correct, *[{j: 1} for j in range(1, order + 1)]]),
        _adams_bashforth(process, _part(g, slice(1, None)), g.orders(order, lower_order_final)[1:], order),
    )


def pndm(process: Process, times: Float[Array, " n+1"]) -> Tableau:
    """F-PNDM, three pseudo Runge-Kutta steps and then PLMS; ``n + 9`` network calls, the first steps taking four.

    The stages inside a step are asked half-way in time, which is half-way between two indices of a table of betas.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times; with three steps or fewer, all are Runge-Kutta's.

    Raises:
        ValueError: a schedule that is not allowed.
    """
    g = steps(process, times)
    g.needs_signal("pndm")
    first = _part(g, slice(3))
    middle = (first.t + first.t_next) / 2
    inside = first._replace(t_next=middle, alpha_next=process.alpha(middle), sigma_next=process.sigma(middle))
    x, gain = _transfer(first)
    x_half, gain_half = _transfer(inside)
    here, midway = _noise(first.alpha, first.sigma), _noise(inside.alpha_next, inside.sigma_next)
    there = _noise(first.alpha_next, first.sigma_next)
    sixth = jnp.where(first.finite, 1 / 6, 0.0)  # a step to the clean end cannot ask the noise there
    alone = jnp.where(first.finite, 0.0, 1.0)

    # registers: the sample, three values from the newest, the sample at the start of the step, a sum of slopes
    newest, start, total, estimate = 1, 4, 5, 6
    kept: list[dict[int, Entry]] = [{1: 1}, {2: 1}, {3: 1}, {start: 1}]
    remember = [_along(1.0, here, estimate), {1: 1}, {2: 1}, {0: 1}]

    stages = [
        [{**_along(gain_half, here, estimate), 0: x_half + gain_half * here[0]}, *remember, {}],
        [{**_along(gain_half, midway, estimate), start: x_half}, *kept, {**_along(2.0, midway, estimate), newest: 1}],
        [{**_along(gain, midway, estimate), start: x}, *kept, {**_along(2.0, midway, estimate), total: 1}],
        [{**_along(gain * sixth, there, estimate), newest: gain * alone, start: x, total: gain * sixth}, *kept, {}],
    ]
    asked = [first.t, middle, middle, first.t_next]
    return concatenate(
        interleave(*[_table(process, t, rows) for t, rows in zip(asked, stages, strict=True)]),
        _adams_bashforth(process, _part(g, slice(3, None)), g.orders(4, False)[3:], 4),
    )


def _adams_bashforth(process: Process, g: Steps, used: Int[Array, " n"], order: int) -> Tableau:
    """Steps that combine ``used`` values each with the weights of equal steps."""
    x, gain = _transfer(g)
    e = select(used, order, lambda k, here: [gain * weight for weight in ADAMS_BASHFORTH[k - 1]])
    return multistep(process, g, x, e, "epsilon")


def _transfer(g: Steps) -> tuple[PerStep, PerStep]:
    """Weights of the sample and of the noise in a step."""
    x = g.alpha_next / g.alpha
    return x, g.sigma_next - g.sigma * x


def _noise(alpha: PerStep, sigma: PerStep) -> tuple[PerStep, PerStep]:
    """Weights of the sample and of the estimate in the noise; finite, and of no use, where there is none."""
    inverse = 1 / jnp.where(sigma > 0, sigma, 1.0)
    return inverse, -alpha * inverse


def _along(weight: PerStep | float, noise: tuple[PerStep, PerStep], estimate: int) -> dict[int, Entry]:
    """``weight`` times a noise, as entries for the sample and for the estimate, which is source ``estimate``."""
    return {0: weight * noise[0], estimate: weight * noise[1]}


def _part(g: Steps, which: slice) -> Steps:
    return jax.tree.map(lambda level: level[which], g)


def _table(process: Process, t: PerStep, rows: list[dict[int, Entry]]) -> Tableau:
    """A table from the entries that are not 0."""
    return table(process, t, [[row.get(j, 0) for j in range(len(rows) + 1)] for row in rows])
