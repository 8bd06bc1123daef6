"""Successive refinement: the flow's integral by Lagrange interpolation inside a step, improved round by round.

In half-log-SNR a step of ``h`` is ``x(c h) = keep x + alpha(c h) int_0^{c h} e^{-(c h - s)} m ds``. The estimate ``m``
is replaced by the polynomial through its values at the nodes ``c = 0, 1/K, ..., (K - 1)/K``. A first pass through them
interpolates what there is so far; each further round asks the network again at every node but the first, where the
polynomial of the round before leads, and uses each answer at once. Then the whole step is taken. A round is worth an
order until it is ``K``: the first pass leaves order 2, or 1 for a single node, which is DDIM, and 3 for three nodes,
where the value that is off counts for little.

Source: Li, Zhou, Wei & Chen 2025, Faster diffusion models via higher-order approximation (arXiv 2506.24042), which
proves that ``d^{1 + 2/K} epsilon^{-1/K}`` calls suffice for a method of this kind, for any ``K``. Nodes equal in
half-log-SNR, interpolation of the estimate and the order of the sweeps are our choices: the paper's text was not at
hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.solvers.grid import Steps, interpolate, phi, steps
from jaxsamplers.solvers.singlestep import fraction
from jaxsamplers.tableau import Entry, Tableau, concatenate, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep


def successive_refinement(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    order: int = 3,
    rounds: int = 1,
    lower_order_final: bool = True,
) -> Tableau:
    """Lagrange interpolation with refinement, of order ``min(order, rounds + 2)``.

    A step takes ``order + rounds (order - 1)`` network calls.

    Args:
        process: the noise process; half-log-SNR must be finite at the first time.
        times: ``n + 1`` decreasing times, the ends of whole steps.
        order: ``K``, how many nodes are interpolated, 1 to 6.
        rounds: how often the nodes are asked again, from 0.
        lower_order_final: take the last step at first order, in one call, as a step to the clean end must be.

    Raises:
        ValueError: an order, a number of rounds or a schedule that is not allowed.
    """
    checks.integer("order", order, low=1, high=6)
    checks.integer("rounds", rounds, low=0)
    g = steps(process, times)
    g.needs_signal("successive_refinement")
    if not lower_order_final and checks.is_zero(g.sigma_next[-1]):
        raise ValueError("a step to the clean end is of first order: use lower_order_final=True")
    last = jax.tree.map(lambda level: level[-1:], g)
    whole = jax.tree.map(lambda level: level[:-1], g) if lower_order_final else g

    inside = [fraction(process, whole, j / order) for j in range(1, order)]
    targets = [*inside, whole]  # target j is node j + 1, and the last the end of the step
    asked = [0, *list(range(1, order)) * (rounds + 1)]

    # registers: the sample, the one at the start of the step, the values at the nodes; then the estimate
    estimate = order + 2
    tables = []
    for call, node in enumerate(asked):
        known = min(call + 1, order)  # nodes with a value
        following = asked[call + 1] if call + 1 < len(asked) else order
        keep, weights = _integral(whole, targets[following - 1], known, following / order, order)
        sample: list[Entry] = [0, keep, *[0] * order, weights[node]]
        for j in range(known):
            if j != node:
                sample[2 + j] = weights[j]
        held = [[int(i == 2 + j) for i in range(estimate + 1)] for j in range(order)]
        held[node] = [0] * estimate + [1]
        start = [0, 1, *[0] * (order + 1)]
        if call == 0:
            sample[:2], start = [keep, 0], [1, *[0] * (order + 2)]
        t = whole.t if node == 0 else inside[node - 1].t_next
        tables.append(table(process, t, [sample, start, *held]))
    stages = interleave(*tables)
    if not lower_order_final:
        return stages
    final = table(process, last.t, [[last.keep, *[0] * (order + 1), last.gain], *[[0] * (order + 3)] * (order + 1)])
    return concatenate(stages, final)


def _integral(whole: Steps, part: Steps, known: int, end: float, order: int) -> tuple[PerStep, list[PerStep]]:
    """Weights of ``x`` and of the first ``known`` values at the end of ``part``, the first ``end`` of a step."""
    h = end * whole.h
    nodes = [jnp.full_like(h, j / order) for j in range(known)]
    smooth = [part.alpha_next * h * end**p * math.factorial(p) * phi(p + 1, -h) for p in range(1, known)]
    return part.keep, interpolate(nodes, [part.gain, *smooth])
