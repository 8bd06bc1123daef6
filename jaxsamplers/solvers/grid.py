"""What every solver needs of a schedule: signal and noise at both ends of each step.

Between two times, with the estimate ``m`` held fixed, the probability-flow ODE has the exact solution

    x(t') = keep x(t) + gain m        keep = sigma'/sigma,  gain = alpha' - alpha keep = alpha' (1 - e^{-h})

with ``h`` the step in half-log-SNR: the first-order rule of DDIM and of every exponential integrator. The
difference is taken directly, not through ``h``: in float32 it is as accurate, and it is exact at both ends, where
``h`` is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.schedules import validate
from jaxsamplers.tableau import Entry, Tableau, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from jaxsamplers.processes import Process

    PerStep = Float[Array, " n"]


class Steps(NamedTuple):
    """The ``n`` steps of a schedule; ``*_next`` is the target's."""

    t: PerStep
    t_next: PerStep
    alpha: PerStep
    alpha_next: PerStep
    sigma: PerStep
    sigma_next: PerStep
    half_log_snr: PerStep
    half_log_snr_next: PerStep

    @property
    def keep(self) -> PerStep:
        """``sigma' / sigma``."""
        return self.sigma_next / self.sigma

    @property
    def gain(self) -> PerStep:
        """``alpha' - alpha sigma' / sigma``."""
        return self.alpha_next - self.alpha * self.keep

    @property
    def h(self) -> PerStep:
        """The step in half-log-SNR; 1 where it is infinite, so that no formula or gradient of it is NaN."""
        finite = self.finite
        return jnp.where(finite, self.half_log_snr_next, 1.0) - jnp.where(finite, self.half_log_snr, 0.0)

    @property
    def finite(self) -> Array:
        """False for a step from pure noise or to the clean end."""
        return jnp.isfinite(self.half_log_snr_next) & jnp.isfinite(self.half_log_snr)

    def needs_signal(self, solver: str) -> None:
        """Raise ``ValueError`` if the first time is known to be pure noise."""
        if checks.is_zero(self.alpha[0]):
            raise ValueError(f"{solver} predicts noise and needs signal at its first time, but alpha is 0 there")

    def orders(self, order: int, lower_order_final: bool) -> Int[Array, " n"]:
        """How many estimates each step may use: growing from 1, and falling to 1 again if asked.

        Estimates before an infinite step lie infinitely far away and do not count; an infinite step uses one.
        """
        n = len(self.t)
        allowed = np.minimum(order, n - np.arange(n) if lower_order_final else order)
        return jnp.where(self.finite, jnp.clip(jnp.cumsum(self.finite), 1, allowed), 1)


def steps(process: Process, times: Float[Array, " n+1"]) -> Steps:
    """The steps of a schedule, after ``schedules.validate``."""
    times = validate(process, times)
    levels = times, process.alpha(times), process.sigma(times), process.half_log_snr(times)
    return Steps(*[end for level in levels for end in (level[:-1], level[1:])])


def diffuse(g: Steps, eta: float | PerStep) -> tuple[PerStep, PerStep]:
    """Weights of ``x`` and ``z`` in an exact step of the reverse SDE of stochasticity ``eta``.

    They are ``keep e^{-eta h}`` and ``sigma' sqrt(1 - e^{-2 eta h})``. With ``eta > 0`` an infinite step forgets all of
    the old noise; with ``eta = 0``, the flow, it keeps it.
    """
    eta = jnp.broadcast_to(jnp.asarray(eta, g.t.dtype), g.t.shape)
    noisy = eta > 0
    x = g.keep * jnp.where(g.finite, jnp.exp(-eta * g.h), jnp.where(noisy, 0.0, 1.0))
    fresh = jnp.where(noisy & g.finite, -jnp.expm1(-2 * eta * g.h), 1.0)
    return x, jnp.where(noisy, g.sigma_next * jnp.sqrt(fresh), 0.0)


def lag(values: PerStep, k: int, fill: float) -> PerStep:
    """``values`` of ``k`` steps ago; ``fill`` before the first."""
    return jnp.concatenate([jnp.full_like(values[:k], fill), values[: max(len(values) - k, 0)]])


def select(used: Int[Array, " n"], order: int, formula: Callable[[int, Array], Sequence[PerStep]]) -> list[PerStep]:
    """Per step, the weights of the formula for the number of estimates that this step uses; 0 beyond them.

    ``formula(k, here)`` gives its weights for all steps; ``here`` says where they will be used, so that it can
    put harmless numbers elsewhere (a ``where`` around a NaN would make every gradient NaN).
    """
    weights: list[PerStep] = []
    for k in range(1, order + 1):
        here = used == k
        new = formula(k, here)
        weights += [jnp.zeros_like(new[0])] * (len(new) - len(weights))
        weights = [jnp.where(here, a, b) for a, b in zip([*new, *weights[len(new) :]], weights, strict=True)]
    return weights


def phi(k: int, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """``phi_k(z) = int_0^1 e^{(1-u) z} u^{k-1} / (k-1)! du``, accurate for all ``z``; ``phi_0 = exp``.

    Source: Hochbruck & Ostermann 2010, Exponential integrators, eq. 2.10 - 2.11.
    """
    checks.integer("k", k, low=0)
    small = jnp.abs(z) < 1
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.zeros_like(z)
    for j in reversed(range(18)):
        series = series * near + 1 / math.factorial(j + k)
    recursion = jnp.exp(far)
    for j in range(k):
        recursion = (recursion - 1 / math.factorial(j)) / far
    return jnp.where(small, series, recursion)


def lagrange(nodes: Sequence[PerStep]) -> list[list[PerStep]]:
    """Monomial coefficients ``[j][p]`` of the polynomials that are 1 at node ``j`` and 0 at the others."""
    polynomials = []
    for j, node in enumerate(nodes):
        coefficients = [jnp.ones_like(node)]
        for other in (*nodes[:j], *nodes[j + 1 :]):
            shifted = [jnp.zeros_like(node), *coefficients]  # u times the polynomial so far
            scaled = [*[-other * c for c in coefficients], jnp.zeros_like(node)]
            coefficients = [(a + b) / (node - other) for a, b in zip(shifted, scaled, strict=True)]
        polynomials.append(coefficients)
    return polynomials


def interpolate(nodes: Sequence[PerStep], moments: Sequence[PerStep]) -> list[PerStep]:
    """Weights of the values at ``nodes`` in the integral of their polynomial; ``moments`` are those of ``u^p``."""
    return [
        sum((c * moment for c, moment in zip(polynomial, moments, strict=False)), start=jnp.zeros_like(nodes[0]))
        for polynomial in lagrange(nodes)
    ]


def past(h: PerStep, order: int, here: Array) -> list[PerStep]:
    """Nodes ``0, -h_1, -h_1 - h_2, ...`` of the last ``order`` estimates, in units of the step ``h``."""
    distance, nodes = jnp.zeros_like(h), [jnp.zeros_like(h)]
    for k in range(1, order):
        distance = distance - jnp.where(here, lag(h, k, 1.0), 1.0)
        nodes.append(distance / h)
    return nodes


def multistep(
    process: Process, g: Steps, x: PerStep, estimates: Sequence[PerStep], prediction: str, noise: PerStep | None = None
) -> Tableau:
    """The table of ``x' = x_weight x + sum_j weight_j v_j + noise z``, which remembers its last values ``v``.

    ``v_0`` is the newest. ``prediction`` tells what they are: estimates ``m`` or noises ``(x - alpha m) / sigma``.
    """
    newest, *older = estimates
    count = len(older)
    first: list[Entry]
    value: list[Entry]
    if prediction == "x0":
        first, value = [x, *older, newest], [0] * (count + 1) + [1]
    else:
        first = [x + newest / g.sigma, *older, -newest * g.alpha / g.sigma]
        value = [1 / g.sigma, *[0] * count, -g.alpha / g.sigma]
    shift = [[0] * j + [1] + [0] * (count + 1 - j) for j in range(1, count)]
    draws = None if noise is None else [noise, *[0] * count]
    return table(process, g.t, [first, *([value] if older else []), *shift], draws)
