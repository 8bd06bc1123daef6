"""SEEDS: singlestep exponential Runge-Kutta methods for the reverse SDE.

The stages of a step of ``h`` stand at equal fractions ``r`` of it in half-log-SNR. With ``K(r)`` the weight of ``x`` in
the exact step of ``r h``, ``G(r)`` that of a constant estimate, ``M(r)`` that of one that grows from 0 to 1 over it,
and ``n(r)`` the noise of the SDE up to there,

    order 2   u  = K(1/2) x + G(1/2) m_0 + n(1/2)                      x' = K(1) x + G(1) m(u) + n(1)
    order 3   u  = K(1/3) x + G(1/3) m_0 + n(1/3)
              w  = K(2/3) x + G(2/3) m_0 + 2 M(2/3) (m(u) - m_0) + n(2/3)
              x' = K(1) x + G(1) m_0 + 3/2 M(1) (m(w) - m_0) + n(1)

The noises of a step are one path at several times: every stage adds its own part ``z`` and carries the parts before it,
scaled as ``x`` is. A row therefore adds its ``z`` to all registers that its step has still to finish.

``eta = 0`` is singlestep DPM-Solver++; order 1 is SDE-DPM-Solver++ of order 1.

Source: Gonzalez et al. 2023, SEEDS (arXiv 2305.14267), SEEDS-1 to SEEDS-3 on the data prediction, at ``eta = 1``; their
code's "2a" and "3a". In stage ``w`` that code has ``(e^{-2h/3} - 1) / (h/3) + 1`` for ``(e^{-4h/3} - 1) / (4h/3) + 1``,
which does not vanish with ``h`` and costs an order; this follows the derivation. The strong order is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import Steps, diffuse, phi, steps
from jaxsamplers.tableau import Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def seeds(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 3,
    eta: float | Float[Array, " n"] = 1.0,
    lower_order_final: bool = True,
) -> Tableau:
    """SEEDS-1 to SEEDS-3, stochastic; ``order`` network calls a step.

    Args:
        process: the noise process; half-log-SNR must be finite at the first time for orders above 1.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        order: stages of a step.
        eta: stochasticity, 1 for the reverse SDE, 0 for the flow; a number, or one a step.
        lower_order_final: take the last step at first order, in one call, as a step to the clean end must be.

    Raises:
        ValueError: an order, ``eta`` or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=3)
    checks.within("eta", eta, 0.0)
    g = steps(process, times)
    if order > 1 and checks.is_zero(g.alpha[0]):
        raise ValueError("a singlestep method of order above 1 needs signal at its first time, but alpha is 0 there")
    if order > 1 and not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("a step to the clean end is of first order: use lower_order_final=True")
    eta = jnp.broadcast_to(jnp.asarray(eta, g.t.dtype), g.t.shape)

    def kernel(g: Steps, eta: PerStep) -> tuple[PerStep, PerStep, PerStep, PerStep]:
        """K, G, M and the size of the noise."""
        x, noise = diffuse(g, eta)
        h = (1 + eta) * g.h
        return x, g.alpha_next - g.alpha * x, g.alpha_next * h * phi(2, -h), noise

    if order == 1:
        x, constant, _, noise = kernel(g, eta)
        return table(process, g.t, [[x, constant]], [noise])

    whole, whole_eta = g, eta
    if lower_order_final:
        whole, whole_eta = jax.tree.map(lambda level: level[:-1], (g, eta))
    between = lambda start, end: kernel(_part(process, whole, start, end), whole_eta)
    x, constant, growing, _ = between(0, 1)
    times_inside = [_part(process, whole, 0, k / order).t_next for k in range(order)]
    if order == 2:
        x_1, constant_1, _, noise_1 = between(0, 1 / 2)
        carry, _, _, noise_2 = between(1 / 2, 1)
        # registers: what the network sees; the end of the step as far as it is known
        stages = [
            table(process, times_inside[0], [[x_1, 0, constant_1], [x, 0, 0]], [noise_1, carry * noise_1]),
            table(process, times_inside[1], [[0, 1, constant], [0, 0, 0]], [noise_2, 0]),
        ]
    else:
        x_1, constant_1, _, noise_1 = between(0, 1 / 3)
        x_2, constant_2, growing_2, _ = between(0, 2 / 3)
        carry_2, _, _, noise_2 = between(1 / 3, 2 / 3)
        carry_3, _, _, noise_3 = between(2 / 3, 1)
        # registers: what the network sees; the second stage and the end of the step as far as they are known
        stages = [
            table(
                process,
                times_inside[0],
                [
                    [x_1, 0, 0, constant_1],
                    [x_2, 0, 0, constant_2 - 2 * growing_2],
                    [x, 0, 0, constant - 1.5 * growing],
                ],
                [noise_1, carry_2 * noise_1, carry_3 * carry_2 * noise_1],
            ),
            table(
                process,
                times_inside[1],
                [[0, 1, 0, 2 * growing_2], [0, 0, 0, 0], [0, 0, 1, 0]],
                [noise_2, 0, carry_3 * noise_2],
            ),
            table(process, times_inside[2], [[0, 0, 1, 1.5 * growing], [0, 0, 0, 0], [0, 0, 0, 0]], [noise_3, 0, 0]),
        ]
    if not lower_order_final:
        return interleave(*stages)
    return concatenate(interleave(*stages), seeds(process, times[-2:], order=1, eta=eta[-1:]))


def _part(process: Process, g: Steps, start: float, end: float) -> Steps:
    """From the fraction ``start`` of every step to the fraction ``end``, in half-log-SNR."""

    def at(r: float) -> tuple[PerStep, PerStep, PerStep, PerStep]:
        if r in (0, 1):
            return tuple(level[int(r)] for level in zip(g[::2], g[1::2], strict=True))  # type: ignore[return-value]
        half_log_snr = g.half_log_snr + r * (g.half_log_snr_next - g.half_log_snr)
        t = process.time(half_log_snr)
        return t, process.alpha(t), process.sigma(t), half_log_snr

    return Steps(*[level for pair in zip(at(start), at(end), strict=True) for level in pair])
