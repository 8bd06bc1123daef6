"""Gaussian noise processes ``x_t = alpha(t) x0 + sigma(t) eps``, ``eps ~ N(0, I)``.

A process is a *law* (how ``alpha`` and ``sigma`` depend on time), the range of times it is used on, and
optionally an origin that it drifts to: ``x_t - origin = alpha (x0 - origin) + sigma eps``. Time decreases
while sampling; at ``t = 0``, the clean end, ``alpha = 1`` and ``sigma = 0``.

Everything is built on the half-log-SNR ``log(alpha / sigma)`` and on ``log alpha``, never on ``1 - alpha**2``,
so float32 stays accurate at both ends. Where ``sigma`` or ``alpha`` vanishes, values are exact limits and
gradients are zero rather than NaN (two ``where``: one for the value, one for the gradient).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import normal_like

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Times = Float[Array, "..."]

Class = TypeVar("Class")


@dataclass_transform(frozen_default=True)
def _pytree(cls: type[Class]) -> type[Class]:
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


@_pytree
class Process:
    """A Gaussian noise process; made by the functions below.

    Attributes:
        law: signal and noise levels.
        t_min: where schedules end by default.
        t_max: where they start; times above it are refused.
        origin: the point the process drifts to (a pytree that broadcasts against ``x``), or ``None`` for 0.
    """

    law: Law
    t_min: float
    t_max: float
    origin: PyTree = None

    def alpha(self, t: Times | float) -> Times:
        """Signal level at ``t``, elementwise."""
        return self.law.alpha(_float(t))

    def sigma(self, t: Times | float) -> Times:
        """Noise level at ``t``, elementwise."""
        return self.law.sigma(_float(t))

    def half_log_snr(self, t: Times | float) -> Times:
        """``log(alpha / sigma)`` at ``t``; +inf at the clean end, -inf where ``alpha`` is 0."""
        return self.law.half_log_snr(_float(t))

    def time(self, half_log_snr: Times | float) -> Times:
        """The time at which the half-log-SNR is this."""
        return self.law.time(_float(half_log_snr))

    def prior(self, key: Key[Array, ""], shape: Any, t: float | None = None) -> PyTree:
        """Noise to start from, ``origin + sigma(t) z``.

        Args:
            key: PRNG key, or one per sample.
            shape: a shape, giving float32, or a pytree of arrays or ``ShapeDtypeStruct`` to look like.
            t: the time to start at, ``t_max`` by default.
        """
        if isinstance(shape, tuple) and all(isinstance(n, int | np.integer) for n in shape):
            shape = jax.ShapeDtypeStruct(shape, jnp.float32)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
        sigma = self.sigma(self.t_max if t is None else t)
        noise = jax.tree.map(lambda z: (sigma * z).astype(z.dtype), normal_like(key, zeros))
        return uncentre(noise, self.origin)

    def forward(self, key: Key[Array, ""], x0: PyTree, t: Times) -> PyTree:
        """A draw of ``x_t`` given ``x0``; ``t`` is a scalar or has the batch shape ``[batch]``."""
        noise = normal_like(key, x0)
        centred = jax.tree.map(
            lambda x, z: expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * z, centre(x0, self.origin), noise
        )
        return jax.tree.map(lambda y, x: y.astype(x.dtype), uncentre(centred, self.origin), x0)

    def velocity_coefficients(self, t: Times) -> tuple[Times, Times]:
        """``(d alpha / dt, d sigma / dt)``, elementwise."""
        t = _float(t)
        slope = lambda f: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]
        return slope(self.law.alpha), slope(self.law.sigma)


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0, *, t_min: float = 1e-3, t_max: float = 1.0) -> Process:
    """Variance preserving, ``beta(t)`` linear in time.

    ``log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2``, time in ``[0, 1]``.
    Source: Song et al. 2021, Score-based generative modelling through SDEs (arXiv 2011.13456), eq. 33.
    """
    checks.within("beta_min", beta_min, 0.0, above=True)
    checks.within("beta_max", beta_max, 0.0, above=True)
    return _process(VariancePreserving(LinearBeta(beta_min, beta_max)), t_min, t_max)


def vp_cosine(offset: float = 0.008, *, t_min: float = 1e-3, t_max: float = 0.9946) -> Process:
    """Variance preserving, ``alpha(t) = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s))``.

    ``t_max`` stops short of ``t = 1``, where ``alpha`` is 0, as in Lu et al. 2022 (arXiv 2206.00927), app. D.
    Source: Nichol & Dhariwal 2021, Improved DDPM (arXiv 2102.09672), eq. 17.
    """
    checks.within("offset", offset, 0.0)
    return _process(VariancePreserving(Cosine(offset)), t_min, t_max)


def from_betas(betas: Float[Array, " n"], *, t_min: float | None = None) -> Process:
    """Variance preserving, from a table of ``n`` betas as DDPM checkpoints carry it.

    ``alpha(i)^2 = prod_{j <= i} (1 - beta_j)`` sits at time ``(i + 1) / n``; ``log alpha`` is linear in between,
    and 0 at ``t = 0``. A network that wants the index ``i`` gets it from ``denoiser(..., time=lambda t: n * t - 1)``.

    Args:
        betas: each in (0, 1).
        t_min: ``1 / n`` (index 0) by default.

    Raises:
        ValueError: betas that are not a one-dimensional table in (0, 1).
    Source: Ho et al. 2020 (arXiv 2006.11239); interpolation of Lu et al. 2022 (arXiv 2206.00927), app. D.1.
    """
    known = checks.concrete(betas)
    if jnp.ndim(betas) != 1 or jnp.size(betas) == 0:
        raise ValueError(f"betas must be a one-dimensional table, got shape {jnp.shape(betas)}")
    if known is not None and not ((known > 0) & (known < 1)).all():
        raise ValueError(f"betas must lie in (0, 1), got values from {known.min():g} to {known.max():g}")
    if known is None:
        log_alpha = 0.5 * jnp.cumsum(jnp.log1p(-betas))
    else:  # float64 on the host: a cumulative sum of 1000 float32 terms loses a digit
        log_alpha = jnp.asarray(0.5 * np.cumsum(np.log1p(-known.astype(np.float64))))
    steps = log_alpha.shape[0]
    law = VariancePreserving(Table(jnp.concatenate([jnp.zeros_like(log_alpha[:1]), log_alpha])))
    return _process(law, 1.0 / steps if t_min is None else t_min, 1.0)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Variance exploding with time equal to the noise level: ``alpha = 1``, ``sigma(t) = t``.

    Source: Karras et al. 2022, Elucidating the design space (arXiv 2206.00364), table 1.
    """
    return _process(VarianceExploding(), sigma_min, sigma_max)


def rectified_flow(*, t_min: float = 0.0, t_max: float = 1.0) -> Process:
    """The straight path ``x_t = (1 - t) x0 + t eps``: noise at ``t = 1``, data at ``t = 0``.

    Its range includes both ends, where the half-log-SNR is infinite: schedules spaced in it need
    ``t_start`` below 1 and ``t_end`` above 0.
    Source: Liu et al. 2023 (arXiv 2209.03003); Lipman et al. 2023 (arXiv 2210.02747), with time reversed.
    """
    checks.within("t_max", t_max, 0.0, 1.0)
    return _process(Straight(), t_min, t_max)


def shifted(process: Process, origin: PyTree) -> Process:
    """The same process drifting to ``origin`` instead of 0: ``x_t = alpha x0 + (1 - alpha) origin + sigma eps``.

    Mean-reverting SDEs (Luo et al. 2023, arXiv 2301.11699) and residual shifting (Yue et al. 2023,
    arXiv 2307.12348) have this form, with a degraded image as the origin. Every solver runs on it unchanged.
    """
    return Process(process.law, process.t_min, process.t_max, uncentre(origin, process.origin))


def centre(x: PyTree, origin: PyTree) -> PyTree:
    """``x - origin``; an origin of ``None`` is 0, and one that is a single array serves every leaf of ``x``."""
    return x if origin is None else jax.tree.map(jnp.subtract, x, _like(origin, x))


def uncentre(x: PyTree, origin: PyTree) -> PyTree:
    """``x + origin``, the inverse of ``centre``."""
    return x if origin is None else jax.tree.map(jnp.add, x, _like(origin, x))


def expand(coefficient: Times, x: Array) -> Array:
    """``coefficient`` (scalar or ``[batch]``) with trailing axes added, to broadcast against ``x``."""
    coefficient = jnp.asarray(coefficient)
    if coefficient.ndim > x.ndim:
        raise ValueError(f"times of shape {coefficient.shape} do not match a sample of shape {x.shape}")
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


def _process(law: Law, t_min: float, t_max: float) -> Process:
    checks.within("t_min", t_min, 0.0)
    if checks.concrete(t_min) is not None and checks.concrete(t_max) is not None and not t_max > t_min:
        raise ValueError(f"the range of times must have t_max above t_min, got t_min={t_min} and t_max={t_max}")
    return Process(law, t_min, t_max)


def _float(value: Times | float) -> Times:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


def same_structure(a: PyTree, b: PyTree) -> bool:
    """Whether two pytrees have the same structure, whatever their leaves."""
    return bool(jax.tree.structure(a) == jax.tree.structure(b))  # type: ignore[operator]


def _like(origin: PyTree, x: PyTree) -> PyTree:
    """``origin`` with the dtypes of ``x``; an origin that is one array serves every leaf."""
    if not same_structure(origin, x):
        origin = jax.tree.map(lambda _: origin, x)
    return jax.tree.map(lambda o, leaf: jnp.asarray(o, jnp.result_type(leaf)), origin, x)


class Clock(Protocol):
    """``log alpha`` of a variance-preserving law and its inverse."""

    def log_alpha(self, t: Times) -> Times:
        """0 at ``t = 0``, decreasing."""

    def time(self, log_alpha: Times) -> Times:
        """The inverse of ``log_alpha``."""


@_pytree
class VariancePreserving:
    """``alpha^2 + sigma^2 = 1``, given ``log alpha`` as a function of time."""

    clock: Clock

    def alpha(self, t: Times) -> Times:
        """``exp(log alpha)``."""
        return jnp.exp(self.clock.log_alpha(t))

    def sigma(self, t: Times) -> Times:
        """``sqrt(1 - alpha^2)`` through expm1."""
        return _where_positive(jnp.sqrt, -jnp.expm1(2 * self.clock.log_alpha(t)), 0.0)

    def half_log_snr(self, t: Times) -> Times:
        """``log alpha - log(1 - alpha^2) / 2``."""
        log_alpha = self.clock.log_alpha(t)
        return log_alpha - _where_positive(lambda v: 0.5 * jnp.log(v), -jnp.expm1(2 * log_alpha), -jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """Through ``log alpha = -log(1 + exp(-2 half_log_snr)) / 2``."""
        return self.clock.time(-0.5 * jax.nn.softplus(-2 * half_log_snr))


@_pytree
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


@_pytree
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


@_pytree
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


@_pytree
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
        return _where_positive(lambda s: -jnp.log(s), t, jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """``exp(-half_log_snr)``."""
        return jnp.exp(-half_log_snr)


@_pytree
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
        return _where_positive(jnp.log, 1 - t, -jnp.inf) - _where_positive(jnp.log, t, -jnp.inf)

    def time(self, half_log_snr: Times) -> Times:
        """The logistic function of ``-half_log_snr``."""
        return jax.nn.sigmoid(-half_log_snr)


def _where_positive(function: Callable[[Times], Times], value: Times, otherwise: float) -> Times:
    """``function(value)`` where it is positive, else a constant, with a finite gradient in both cases."""
    positive = value > 0
    return jnp.where(positive, function(jnp.where(positive, value, 1.0)), otherwise)


registry: dict[str, Callable[..., Process]] = {
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    "edm": edm,
    "rectified_flow": rectified_flow,
}
