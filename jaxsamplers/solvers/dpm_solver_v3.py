"""DPM-Solver-v3: exponential integrators whose linear part is measured on the network.

In half-log-SNR ``u``, with ``y = x / alpha`` and the network's statistics ``l``, ``s``, ``b`` (see ``statistics``), the
value ``f = (1 - l) y - m`` moves slowly about ``f' = s f + b``. With ``L``, ``S`` the integrals of ``l`` and ``s`` from
the start of a step and ``B`` that of ``e^{-S} b``, ``g = e^{-S} f - B`` moves hardly at all, and exactly

    y' = e^{-L(h)} (y - int_0^h e^{L + S} (g + B) du)

Order ``k`` replaces ``g`` by the polynomial through its last ``k`` values; the corrector goes through the new one
too. "pseudo" estimates each derivative from as few values as can be: less accurate for small steps, steadier for large.
``l = 1, s = b = 0`` is DPM-Solver++, ``l = 0, s = -1, b = 0`` is DPM-Solver.

The authors' integrals are trapezoids on the statistics' grid and their times are moved to its levels; here ``l``, ``s``
and ``b`` are cubic between levels, so that order 3 is kept, the integrals are Simpson's, and the times any.

Source: Zheng, Lu, Chen & Zhu 2023, DPM-Solver-v3 (arXiv 2310.13268), sections 3.1 - 3.3, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.solvers.grid import interpolate, lag, past, select, steps
from jaxsamplers.solvers.predict_correct import listed, predict, predict_correct
from jaxsamplers.statistics import Statistics, at, validate
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process
    from jaxsamplers.solvers.grid import PerStep, Steps

    Weight = Float[Array, "... n"]

SLACK = 1e-3  # in half-log-SNR: how far times may pass the statistics' ends


class Integrals(NamedTuple):
    """Over every step from its start, steps last; ``L``, ``S`` and ``B`` are those at its end."""

    l_start: Weight
    keep: Weight  # e^{-L}
    s: Weight  # S
    b: Weight  # B
    moments: Weight  # [k, ...]: int e^{L(u) - L + S(u)} ((u - start) / h)^k du
    bias: Weight  # int e^{L(u) - L + S(u)} B(u) du


def dpm_solver_v3(
    process: Process,
    times: Float[Array, " n+1"],
    *,
    statistics: Statistics,
    order: int = 3,
    variant: str = "exact",
    corrector: str = "exact",
    lower_order_final: bool = True,
    uncorrected: Sequence[int] = (),
) -> Tableau:
    """DPM-Solver-v3 of orders 1 to 3; one network call a step.

    The authors take ``variant="pseudo"`` up to 5 steps and ``corrector="none"`` from 7 on. Their half corrector, for
    large guidance, leaves out the steps that arrive at half the time or below: list them in ``uncorrected``.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end is always first order: it returns the estimate.
        statistics: the network's, from ``statistics.empirical_statistics``; they must cover the times.
        order: how many values the predictor combines; the first steps use those there are.
        variant: the predictor's derivatives, "exact" or "pseudo".
        corrector: "exact", through as many values as the predictor, the new one among them; "pseudo", one value more;
            or "none".
        lower_order_final: fall back to order 2 and 1 in the last steps.
        uncorrected: steps that keep their prediction.

    Raises:
        ValueError: an option or a schedule that is not allowed, or times that the statistics do not cover.
    """
    checks.integer("order", order, low=1, high=3)
    checks.one_of("variant", variant, ("exact", "pseudo"))
    checks.one_of("corrector", corrector, ("exact", "pseudo", "none"))
    g = steps(process, times)
    if not isinstance(statistics, Statistics):
        raise ValueError(f"statistics must be a Statistics (see empirical_statistics), got {statistics!r}")
    statistics = validate(statistics)
    _check_cover(statistics, g)
    i = _integrals(statistics, g, order + 1)
    alpha = jnp.where(g.finite, g.alpha, 1.0)
    x = jnp.where(g.finite, g.alpha_next * i.keep / alpha, g.keep)
    scale, moments = -g.alpha_next, [*i.moments]
    transports = _transports(i, order)

    def weigh(nodes: list[PerStep], from_nodes: Sequence[tuple[Weight, Weight]], rule: str) -> list[Weight]:
        """What a step adds, and the weights of the values ``f`` of ``g = factor f - lost`` at the nodes."""
        weights = {"exact": interpolate, "pseudo": _pseudo}[rule](nodes, moments)
        lost = [w * lost for w, (_, lost) in zip(weights, from_nodes, strict=True)]
        factors = [scale * w * factor for w, (factor, _) in zip(weights, from_nodes, strict=True)]
        simple = [-g.gain, *[jnp.zeros_like(g.gain)] * (len(factors) - 1)]  # DDIM's step where it is infinite
        settled = [jnp.where(g.finite, a, b) for a, b in zip(factors, simple, strict=True)]
        return [jnp.where(g.finite, scale * (i.bias - sum(lost, start=jnp.zeros(()))), 0.0), *settled]

    def predicted(k: int, here: Array) -> list[Weight]:
        return weigh(past(g.h, k, here), transports[:k], variant)

    def corrected(k: int, here: Array) -> list[Weight]:
        old = k if corrector == "pseudo" else max(k - 1, 1)
        start, *older = past(g.h, old, here)
        if (corrector, k) == ("exact", 1):
            constant, weight = weigh([start], transports[:1], "exact")
            return [constant, jnp.zeros_like(weight), weight]
        nodes = [start, jnp.ones_like(g.h), *older]
        from_nodes = [transports[0], (jnp.exp(-i.s), i.b), *transports[1:old]]
        constant, first, new, *rest = weigh(nodes, from_nodes, corrector)
        return [constant, new, first, *rest]

    used = g.orders(order, lower_order_final)
    added, *p = select(used, order, predicted)
    value = (jnp.where(g.finite, (1 - i.l_start) / alpha, 0.0), -jnp.ones_like(g.t))
    if corrector == "none":
        return predict(process, g, x, value, p, added)
    added_again, *c = select(used, order, corrected)
    infinite = ~g.finite
    kept = infinite | jnp.append(infinite[1:], False) | listed(g, uncorrected)
    return predict_correct(process, g, x, value, p, c, kept, (added, added_again))


def _check_cover(statistics: Statistics, g: Steps) -> None:
    known = checks.concrete(statistics.half_log_snr), checks.concrete(jnp.append(g.half_log_snr, g.half_log_snr_next))
    if known[0] is None or known[1] is None:
        return
    grid, asked = known[0], known[1][np.isfinite(known[1])]
    if len(asked) and (asked.min() < grid[0] - SLACK or asked.max() > grid[-1] + SLACK):
        raise ValueError(
            f"statistics cover half-log-SNR from {grid[0]:.4g} to {grid[-1]:.4g}, "
            f"but times go from {asked.min():.4g} to {asked.max():.4g}"
        )


def _integrals(statistics: Statistics, g: Steps, moments: int) -> Integrals:
    """Simpson's rule between the levels inside each step; harmless numbers for an infinite step."""
    statistics = jax.tree.map(lambda leaf: leaf.astype(g.t.dtype), statistics)
    grid = statistics.half_log_snr

    def single(ends: tuple[Array, Array]) -> Integrals:
        start, end = ends
        levels = _between(jnp.concatenate([start[None], jnp.clip(grid, start, end), end[None]]))
        here = at(statistics, levels)
        shape = (-1, *[1] * (here.linear.ndim - 1))
        widths = jnp.diff(levels[::2]).reshape(shape)
        whole_l, whole_s = _cumulative(widths, here.linear), _cumulative(widths, here.scaling)
        whole_b = _cumulative(widths, jnp.exp(-whole_s) * here.bias)
        weight = jnp.exp(whole_l - whole_l[-1] + whole_s)
        u = ((levels - start) / (end - start)).reshape(shape)
        return Integrals(
            here.linear[0],
            jnp.exp(-whole_l[-1]),
            whole_s[-1],
            whole_b[-1],
            jnp.stack([_cumulative(widths, weight * u**k)[-1] for k in range(moments)]),
            _cumulative(widths, weight * whole_b)[-1],
        )

    start, end = jnp.where(g.finite, g.half_log_snr, grid[0]), jnp.where(g.finite, g.half_log_snr_next, grid[-1])
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), jax.lax.map(single, (start, end)))


def _between(values: Array) -> Array:
    """With the mean of each two neighbours put between them."""
    middles = (values[:-1] + values[1:]) / 2
    pairs = jnp.stack([values[:-1], middles], axis=1).reshape(-1, *values.shape[1:])
    return jnp.concatenate([pairs, values[-1:]])


def _cumulative(widths: Array, values: Array) -> Array:
    """The integral up to every level and middle, through the parabola of each interval."""
    first, middle, last = values[:-1:2], values[1::2], values[2::2]
    halves = widths * (5 * first + 8 * middle - last) / 24
    whole = jnp.cumsum(widths * (first + 4 * middle + last) / 6, axis=0)
    before = jnp.concatenate([jnp.zeros_like(whole[:1]), whole[:-1]])
    pairs = jnp.stack([before, before + halves], axis=1).reshape(-1, *whole.shape[1:])
    return jnp.concatenate([pairs, whole[-1:]])


def _transports(i: Integrals, order: int) -> list[tuple[Weight, Weight]]:
    """``e^{-S}`` and ``B`` at the starts of this step and of the ones before it, counted from this step's."""
    s = b = jnp.zeros_like(i.s)
    both = [(jnp.ones_like(s), b)]
    for k in range(1, order):
        s = s - _ago(i.s, k)
        b = b - jnp.exp(-s) * _ago(i.b, k)
        both.append((jnp.exp(-s), b))
    return both


def _ago(values: Weight, k: int) -> Weight:
    """``values`` of ``k`` steps ago; 0 before the first."""
    return jnp.moveaxis(lag(jnp.moveaxis(values, -1, 0), k, 0.0), 0, -1)


def _pseudo(nodes: Sequence[PerStep], moments: Sequence[Weight]) -> list[Weight]:
    """As ``interpolate``, but each Taylor coefficient is the divided difference of the fewest values."""
    weights: list[Weight] = []
    for j, node in enumerate(nodes):
        total, product = jnp.zeros(()), jnp.ones_like(node)
        for k, other in enumerate(nodes):
            product = product if k == j else product * (node - other)
            total = total + moments[k] / product if k >= j else total
        weights.append(total)
    return weights
