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


def lag(values: PerStep, k: int, fill: float) -> PerStep:
    """``values`` of ``k`` steps ago; ``fill`` before the first."""
    return jnp.concatenate([jnp.full_like(values[:k], fill), values[: values.shape[0] - k]])


def select(used: Int[Array, " n"], order: int, formula: Callable[[int, Array], Sequence[PerStep]]) -> list[PerStep]:
    """Per step, the ``order`` weights of the formula for the number of estimates that this step uses.

    ``formula(k, here)`` gives ``k`` weights for all steps; ``here`` says where they will be used, so that it can
    put harmless numbers elsewhere (a ``where`` around a NaN would make every gradient NaN).
    """
    weights: list[PerStep] = [jnp.zeros(())] * order
    for k in range(1, order + 1):
        here = used == k
        for j, weight in enumerate(formula(k, here)):
            weights[j] = jnp.where(here, weight, weights[j])
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
