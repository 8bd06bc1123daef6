"""Laws: how signal and noise depend on time, and how the noise itself is distributed.

Everything is built on the half-log-SNR ``log(alpha / sigma)`` and on ``log alpha``, never on ``1 - alpha**2``,
so float32 stays accurate at both ends. Where ``sigma`` or ``alpha`` vanishes, values are exact limits and
gradients are zero rather than NaN (two ``where``: one for the value, one for the gradient).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from jaxsamplers.core import fold_in, normal_like

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Times = Float[Array, "..."]

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[Class]) -> type[Class]:
    """A frozen dataclass whose fields are all leaves or subtrees."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


class Law(Protocol):
    """How signal and noise depend on time; all four map arrays elementwise."""

    def alpha(self, t: Times) -> Times:
        """Signal level."""

    def sigma(self, t: Times) -> Times:
        """Noise level."""

    def half_log_snr(self, t: Times) -> Times:
        """``log(alpha / sigma)``, decreasing in time."""

    def time(self, half_log_snr: Times) -> Times:
        """The inverse of ``half_log_snr``."""


class Clock(Protocol):
    """``log alpha`` of a variance-preserving law and its inverse."""

    def log_alpha(self, t: Times) -> Times:
        """0 at ``t = 0``, decreasing."""

    def time(self, log_alpha: Times) -> Times:
        """The inverse of ``log_alpha``."""


@pytree
class VariancePreserving:
    """``alpha^2 + sigma^2 = 1``, given ``log alpha`` as a function of time."""

    clock: Clock

    def alpha(self, t: Times) -> Times:
        """``exp(log alpha)``."""
        return jnp.exp(self.clock.log_alpha(t))

    def sigma(self, t: Times) -> Times:
        """``sqrt(1 - alpha^2)`` through expm1."""
        return where_positive(jnp.sqrt, -jnp.expm1(2 * self.clock.log_alpha(t)), 0.0)

    def half_log_snr(self, t: Times) -> Times:
        """``log alpha - log(1 - alpha^2) / 2``."""
        log_alpha = self.clock.log_alpha(t)
        return log_alpha - where_positive(lambda v: 0.5 * jnp.log(v), -jnp.expm1(2 * log_alpha), -jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """Through ``log alpha = -log(1 + exp(-2 half_log_snr)) / 2``."""
        return self.clock.time(-0.5 * jax.nn.softplus(-2 * half_log_snr))


@pytree
class LinearBeta:
    """``beta(t) = beta_min + t (beta_max - beta_min)``."""

    beta_min: float
    beta_max: float

    def log_alpha(self, t: Times) -> Times:
        """Minus half the integral of beta."""
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def time(self, log_alpha: Times) -> Times:
        """The positive root of the quadratic, in the form without cancellation."""
        decay = -log_alpha
        slope = 0.5 * self.beta_min
        return 2 * decay / (slope + jnp.sqrt(slope**2 + (self.beta_max - self.beta_min) * decay))


@pytree
class Cosine:
    """``alpha(t) = cos(angle(t)) / cos(angle(0))`` with ``angle(t) = pi/2 (t + s) / (1 + s)``."""

    offset: float

    def log_alpha(self, t: Times) -> Times:
        """``log cos(a + d) - log cos(a)``: by ``log1p`` near ``t = 0``, by the complementary angle near ``t = 1``."""
        first, growth = self._angles(t)
        early = t < 0.5
        growth = jnp.where(early, growth, 0.0)
        near_clean = jnp.log1p(-2 * jnp.sin(growth / 2) ** 2 - jnp.tan(first) * jnp.sin(growth))
        _, complement = self._angles(jnp.where(early, 0.5, 1 - t))
        return jnp.where(early, near_clean, jnp.log(jnp.sin(complement)) - jnp.log(jnp.cos(first)))

    def time(self, log_alpha: Times) -> Times:
        """Solves ``1 - cos(d) + tan(a) sin(d) = q`` for ``d`` by the half-angle substitution, ``q = 1 - alpha``."""
        first, _ = self._angles(log_alpha)
        q, tangent = -jnp.expm1(log_alpha), jnp.tan(first)
        half = q / (tangent + jnp.sqrt(tangent**2 + q * (2 - q)))
        return 2 * jnp.arctan(half) * 2 * (1 + self.offset) / jnp.pi

    def _angles(self, t: Times) -> tuple[Times, Times]:
        unit = jnp.pi / 2 / (1 + self.offset)
        return jnp.asarray(unit * self.offset, t.dtype), unit * t


@pytree
class Table:
    """``log alpha`` at ``0, 1/n, ..., 1``, linear in between."""

    knots: Float[Array, " n+1"]

    def log_alpha(self, t: Times) -> Times:
        """Linear interpolation."""
        return jnp.interp(t, self._grid(), self.knots)

    def time(self, log_alpha: Times) -> Times:
        """Linear interpolation the other way; ``-log alpha`` is increasing."""
        return jnp.interp(-log_alpha, -self.knots, self._grid())

    def _grid(self) -> Times:
        return jnp.linspace(0.0, 1.0, self.knots.shape[0], dtype=self.knots.dtype)


@pytree
class VarianceExploding:
    """``alpha = 1``, ``sigma = t``."""

    def alpha(self, t: Times) -> Times:
        """1."""
        return jnp.ones_like(t)

    def sigma(self, t: Times) -> Times:
        """The time itself."""
        return t

    def half_log_snr(self, t: Times) -> Times:
        """``-log t``."""
        return where_positive(lambda s: -jnp.log(s), t, jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """``exp(-half_log_snr)``."""
        return jnp.exp(-half_log_snr)


@pytree
class Straight:
    """``alpha = 1 - t``, ``sigma = t``."""

    def alpha(self, t: Times) -> Times:
        """``1 - t``."""
        return 1 - t

    def sigma(self, t: Times) -> Times:
        """The time itself."""
        return t

    def half_log_snr(self, t: Times) -> Times:
        """``log((1 - t) / t)``."""
        return where_positive(jnp.log, 1 - t, -jnp.inf) - where_positive(jnp.log, t, -jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """The logistic function of ``-half_log_snr``."""
        return jax.nn.sigmoid(-half_log_snr)


@pytree
class Trigonometric:
    """``alpha = cos(pi t / 2)^power``, ``sigma = sin(pi t / 2)^power``, with finite slopes at both ends."""

    power: float

    def alpha(self, t: Times) -> Times:
        """By the complementary angle: exactly 0 at ``t = 1``."""
        return jnp.sin(jnp.pi / 2 * (1 - t)) ** self.power

    def sigma(self, t: Times) -> Times:
        """Exactly 0 at ``t = 0``."""
        return jnp.sin(jnp.pi / 2 * t) ** self.power

    def half_log_snr(self, t: Times) -> Times:
        """``-power log tan(pi t / 2)``."""
        log_sine = lambda u: where_positive(lambda v: jnp.log(jnp.sin(jnp.pi / 2 * v)), u, -jnp.inf)
        return self.power * (log_sine(1 - t) - log_sine(t))

    def time(self, half_log_snr: Times) -> Times:
        """``2 arctan(exp(-half_log_snr / power)) / pi``."""
        return jnp.arctan(jnp.exp(-half_log_snr / self.power)) * 2 / jnp.pi


@pytree
class Louder:
    """Another law with its noise ``factor`` times as large."""

    law: Law
    factor: float

    def alpha(self, t: Times) -> Times:
        """The other's."""
        return self.law.alpha(t)

    def sigma(self, t: Times) -> Times:
        """``factor`` times the other's."""
        return self.factor * self.law.sigma(t)

    def half_log_snr(self, t: Times) -> Times:
        """Lower by ``log factor``."""
        return self.law.half_log_snr(t) - jnp.log(self.factor)

    def time(self, half_log_snr: Times) -> Times:
        """The other's."""
        return self.law.time(half_log_snr + jnp.log(self.factor))


@pytree
class Residual:
    """``alpha = 1 - eta``, ``sigma = kappa sqrt(eta)``; ``sqrt(eta)`` at ``0, 1/n, ..., 1`` is linear in between."""

    knots: Float[Array, " n+1"]
    kappa: float

    def alpha(self, t: Times) -> Times:
        """``1 - eta``."""
        return 1 - self._root(t) ** 2

    def sigma(self, t: Times) -> Times:
        """``kappa sqrt(eta)``."""
        return self.kappa * self._root(t)

    def half_log_snr(self, t: Times) -> Times:
        """``log(1 - eta) - log(kappa sqrt(eta))``."""
        root = self._root(t)
        return where_positive(jnp.log, 1 - root**2, -jnp.inf) - where_positive(jnp.log, self.kappa * root, -jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """Through the positive root of ``s^2 + kappa e^l s = 1``, in the form without cancellation."""
        slope = self.kappa * jnp.exp(half_log_snr)
        return jnp.interp(2 / (slope + jnp.hypot(slope, 2.0)), self.knots, self._grid())

    def _root(self, t: Times) -> Times:
        return jnp.interp(t, self._grid(), self.knots)

    def _grid(self) -> Times:
        return jnp.linspace(0.0, 1.0, self.knots.shape[0], dtype=self.knots.dtype)


class Noise(Protocol):
    """How the noise is distributed, at unit size."""

    def draw(self, key: Key[Array, ...], like: PyTree) -> PyTree:
        """Noise shaped like ``like``, whose leading axis is the batch; ``key`` may hold one key per sample."""

    def log_density(self, squares: Times, dimensions: int) -> Times:
        """Log density in ``dimensions`` dimensions where the squared norm is ``squares``, in nats."""


@pytree
class Normal:
    """Standard normal noise."""

    def draw(self, key: Key[Array, ...], like: PyTree) -> PyTree:
        """One leaf after another."""
        return normal_like(key, like)

    def log_density(self, squares: Times, dimensions: int) -> Times:
        """``-(squares + N log(2 pi)) / 2``."""
        return -0.5 * (squares + dimensions * jnp.log(2 * jnp.pi))


@pytree
class StudentT:
    """The multivariate t law, ``p(n) ~ (1 + |n|^2 / freedom)^{-(freedom + N) / 2}``: normal as ``freedom`` grows."""

    freedom: float

    def draw(self, key: Key[Array, ...], like: PyTree) -> PyTree:
        """A normal draw over ``sqrt(chi^2 / freedom)``, one ``chi^2`` for all the numbers of a sample."""
        leaves = jax.tree.leaves(like)
        batch, dtype = leaves[0].shape[:1], leaves[0].dtype
        half = jnp.asarray(self.freedom, dtype) / 2
        if key.ndim == 0:
            log_gamma = jax.random.loggamma(fold_in(key, len(leaves)), half, batch, dtype)
        else:
            log_gamma = jax.vmap(lambda k: jax.random.loggamma(k, half, (), dtype))(fold_in(key, len(leaves)))
        stretch = jnp.exp(0.5 * (jnp.log(half) - log_gamma))
        return jax.tree.map(lambda z: stretch.reshape(batch + (1,) * (z.ndim - 1)) * z, normal_like(key, like))

    def log_density(self, squares: Times, dimensions: int) -> Times:
        """With its normalising constant."""
        nu, total = self.freedom, 0.5 * (self.freedom + dimensions)
        constant = jax.scipy.special.gammaln(total) - jax.scipy.special.gammaln(0.5 * nu)
        return constant - 0.5 * dimensions * jnp.log(jnp.pi * nu) - total * jnp.log1p(squares / nu)


def where_positive(function: Callable[[Times], Times], value: Times, otherwise: float) -> Times:
    """``function(value)`` where it is positive, else a constant, with a finite gradient in both cases."""
    positive = value > 0
    return jnp.where(positive, function(jnp.where(positive, value, 1.0)), otherwise)
