"""Singlestep DPM-Solver and DPM-Solver++: Runge-Kutta methods of order 1 to 3 in half-log-SNR.

A step of ``h`` asks the network again inside it, at the fractions ``r`` of ``h`` below; one row a stage. With ``v`` the
noise or the estimate, ``K(r)`` the exact weight of ``x`` over the first ``r h``, ``G(r)`` that of a constant ``v``, and
``M(r)`` that of a ``v`` that grows from 0 to 1 over ``r h``:

    order 2   u  = K(1/2) x + G(1/2) v_0                               x' = K(1) x + G(1) v(u)
    order 3   u  = K(1/3) x + G(1/3) v_0
              w  = K(2/3) x + G(2/3) v_0 + 2 M(2/3) (v(u) - v_0)       x' = K(1) x + G(1) v_0 + 3/2 M(1) (v(w) - v_0)

Nothing is remembered from step to step, which suits large guidance scales and wide, uneven steps. The order may differ
from step to step: DPM-Solver-fast is order 3 with an end of order 2 and 1 that makes up the number of calls.

Source: Lu et al. 2022, DPM-Solver (arXiv 2206.00927), algorithms 1 - 2 and section 3.4; Lu et al. 2022, DPM-Solver++
(arXiv 2211.01095), algorithm 1 ("2S").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax

from jaxsamplers import checks
from jaxsamplers.solvers.grid import Steps, phi, steps
from jaxsamplers.tableau import Entry, Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep

    Kernel = Callable[[Steps], tuple[PerStep, PerStep, PerStep]]


def dpm_solver_singlestep(
    process: Process, times: Float[Array, " n+1"], *, order: int | Sequence[int] = 2, lower_order_final: bool = True
) -> Tableau:
    """Singlestep DPM-Solver on the noise prediction, of orders 1 to 3; ``order`` network calls a step.

    Args:
        process: the noise process; its signal must not vanish at the first time.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        order: stages of a step, or those of each step (then ``lower_order_final`` is not read).
        lower_order_final: take the last step at first order, in one call, as a step to the clean end must be.

    Raises:
        ValueError: an order or a schedule that is not allowed.
    """
    g = steps(process, times)
    g.needs_signal("dpm_solver_singlestep")

    def kernel(g: Steps) -> tuple[PerStep, PerStep, PerStep]:
        x = g.alpha_next / g.alpha
        return x, g.sigma_next - g.sigma * x, -g.sigma_next * g.h * phi(2, g.h)

    return _singlestep(process, g, order, lower_order_final, kernel, "epsilon")


def dpm2(process: Process, times: Float[Array, " n+1"], *, lower_order_final: bool = True) -> Tableau:
    """k-diffusion's DPM2 (diffusers' KDPM2), second order: two network calls a step, one in the last.

    The midpoint method in ``sigma / alpha`` with a geometric midpoint, which is ``dpm_solver_singlestep(order=2)``.
    Arguments and errors as there.
    """
    return dpm_solver_singlestep(process, times, order=2, lower_order_final=lower_order_final)


def dpm_solver_pp_singlestep(
    process: Process, times: Float[Array, " n+1"], *, order: int | Sequence[int] = 2, lower_order_final: bool = True
) -> Tableau:
    """Singlestep DPM-Solver++ on the data prediction, of orders 1 to 3 ("2S"); ``order`` network calls a step.

    Args:
        process: the noise process; half-log-SNR must be finite at the first time for orders above 1.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        order: stages of a step, or those of each step (then ``lower_order_final`` is not read).
        lower_order_final: take the last step at first order, in one call, as a step to the clean end must be.

    Raises:
        ValueError: an order or a schedule that is not allowed.
    """

    def kernel(g: Steps) -> tuple[PerStep, PerStep, PerStep]:
        return g.keep, g.gain, g.alpha_next * g.h * phi(2, -g.h)

    return _singlestep(process, steps(process, times), order, lower_order_final, kernel, "x0")


def fast_orders(calls: int) -> tuple[int, ...]:
    """The orders with which DPM-Solver-fast spends ``calls`` network calls; as many steps as there are orders.

    For example ``dpm_solver_singlestep(process, half_log_snr(process, len(orders)), order=orders)``.
    """
    checks.integer("calls", calls, low=1)
    threes, rest = divmod(calls, 3)
    return (*[3] * threes, rest) if rest else (*[3] * (threes - 1), 2, 1)


def _singlestep(
    process: Process,
    g: Steps,
    order: int | Sequence[int],
    lower_order_final: bool,
    kernel: Kernel,
    prediction: str,
) -> Tableau:
    """``kernel`` gives K, G and M of the whole of the steps it is given; see the module's docstring."""
    whole = len(g.t) - lower_order_final
    orders = [*order] if isinstance(order, Sequence) else [order] * whole + [1] * lower_order_final
    for each in orders if isinstance(order, Sequence) else [order]:
        checks.integer("order", each, low=1, high=3)
    if len(orders) != len(g.t):
        raise ValueError(f"order must be one number or one for each of the {len(g.t)} steps, got {len(orders)}")
    if orders[0] > 1 and checks.is_zero(g.alpha[0]):
        raise ValueError("a singlestep method of order above 1 needs signal at its first time, but alpha is 0 there")
    if orders[-1] > 1 and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("a step to the clean end is of first order: use lower_order_final=True")

    def value(alpha: PerStep, sigma: PerStep) -> tuple[PerStep, PerStep]:
        """``v`` as weights of what the network saw and of what it answered."""
        return (0 * sigma, 1 + 0 * sigma) if prediction == "x0" else (1 / sigma, -alpha / sigma)

    def first(g: Steps, x: PerStep, v: PerStep) -> Tableau:
        """The stage asked at the start; registers: the sample, the one at the start of the step, the value there."""
        seen, answer = value(g.alpha, g.sigma)
        held = [0, 0, 0, 1] if prediction == "x0" else [seen, 0, 0, answer]
        return table(process, g.t, [[x + v * seen, 0, 0, v * answer], [1, 0, 0, 0], held])

    def later(inside: Steps, x: PerStep, v_0: Entry, v: PerStep) -> Tableau:
        """A stage asked where ``inside`` ends."""
        seen, answer = value(inside.alpha_next, inside.sigma_next)
        entry = 0 if prediction == "x0" else v * seen
        return table(process, inside.t_next, [[entry, x, v_0, v * answer], [0, 1, 0, 0], [0, 0, 1, 0]])

    def stages(order: int, g: Steps) -> Tableau:
        """Steps of one order."""
        x, constant, growing = kernel(g)
        if order == 1:
            return first(g, x, constant)
        if order == 2:
            half = fraction(process, g, 1 / 2)
            return interleave(first(g, *kernel(half)[:2]), later(half, x, 0, constant))
        third, two = fraction(process, g, 1 / 3), fraction(process, g, 2 / 3)
        x_2, constant_2, growing_2 = kernel(two)
        return interleave(
            first(g, *kernel(third)[:2]),
            later(third, x_2, constant_2 - 2 * growing_2, 2 * growing_2),
            later(two, x, constant - 1.5 * growing, 1.5 * growing),
        )

    tables, begin = [], 0
    for each, group in itertools.groupby(orders):
        end = begin + len(list(group))
        tables.append(stages(each, jax.tree.map(lambda level: level[begin:end], g)))  # noqa: B023
        begin = end
    return tables[0] if len(tables) == 1 else concatenate(*tables)


def fraction(process: Process, g: Steps, r: float) -> Steps:
    """The first ``r h`` of every step."""
    half_log_snr = g.half_log_snr + r * (g.half_log_snr_next - g.half_log_snr)
    t = process.time(half_log_snr)
    return g._replace(
        t_next=t, alpha_next=process.alpha(t), sigma_next=process.sigma(t), half_log_snr_next=half_log_snr
    )
