"""Survival laws: the probability ``alpha(t)`` that a token is untouched by noise at time ``t`` in [0, 1].

``alpha(0) = 1``. Each law gives ``alpha`` and ``log alpha`` in forms that keep float32's relative precision at both
ends, so that ``1 - alpha = -expm1(log alpha)`` and ``1 - alpha(t) / alpha(s) = -expm1(log alpha(t) - log alpha(s))``
keep it too. Where ``alpha`` vanishes, values are exact limits and gradients are zero rather than NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.laws import pytree, where_positive

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float

    Times = Float[Array, "..."]


class Survival(Protocol):
    """How long tokens survive; all three map arrays elementwise."""

    def survival(self, t: Times) -> Times:
        """``alpha(t)``, decreasing."""

    def log_survival(self, t: Times) -> Times:
        """``log alpha(t)``; -inf where nothing survives."""

    def time(self, log_survival: Times) -> Times:
        """The inverse of ``log_survival``."""


@pytree
class LogLinear:
    """``alpha = 1 - (1 - rest) t``: the expected number of noisy tokens grows linearly."""

    rest: float

    def survival(self, t: Times) -> Times:
        """A straight line."""
        return (1 - t) + self.rest * t

    def log_survival(self, t: Times) -> Times:
        """By log1p."""
        return _log_complement((1 - self.rest) * t)

    def time(self, log_survival: Times) -> Times:
        """By expm1."""
        return -jnp.expm1(log_survival) / (1 - self.rest)


@pytree
class Cosine:
    """``alpha = cos(pi t / 2)^power``."""

    power: float

    def survival(self, t: Times) -> Times:
        """By the complementary angle: exactly 0 at ``t = 1``."""
        return _power(jnp.sin(jnp.pi / 2 * (1 - t)), self.power)

    def log_survival(self, t: Times) -> Times:
        """``log(1 - 2 sin^2(pi t / 4))`` near the clean end, by the complementary angle near the other."""
        early = t < 0.5
        near_clean = jnp.log1p(-2 * jnp.sin(jnp.pi / 4 * jnp.where(early, t, 0.0)) ** 2)
        near_noise = where_positive(jnp.log, jnp.sin(jnp.pi / 2 * (1 - t)), -jnp.inf)
        return self.power * jnp.where(early, near_clean, near_noise)

    def time(self, log_survival: Times) -> Times:
        """The angle whose cosine is ``alpha^(1 / power)``, from its sine and cosine."""
        log_cosine = log_survival / self.power
        sine = where_positive(jnp.sqrt, -jnp.expm1(2 * log_cosine), 0.0)
        return jnp.arctan2(sine, jnp.exp(log_cosine)) * 2 / jnp.pi


@pytree
class Sine:
    """``alpha = 1 - sin(pi t / 2)``: few tokens are cleaned in the first steps, many in the last."""

    def survival(self, t: Times) -> Times:
        """``2 sin^2(pi (1 - t) / 4)``."""
        return 2 * jnp.sin(jnp.pi / 4 * (1 - t)) ** 2

    def log_survival(self, t: Times) -> Times:
        """By log1p near the clean end."""
        early = t < 0.5
        near_clean = _log_complement(jnp.sin(jnp.pi / 2 * jnp.where(early, t, 0.0)))
        return jnp.where(early, near_clean, where_positive(jnp.log, self.survival(t), -jnp.inf))

    def time(self, log_survival: Times) -> Times:
        """The angle whose sine is ``1 - alpha``, from its sine and cosine."""
        sine = -jnp.expm1(log_survival)
        cosine = where_positive(jnp.sqrt, jnp.exp(log_survival) * (1 + sine), 0.0)
        return jnp.arctan2(sine, cosine) * 2 / jnp.pi


@pytree
class Geometric:
    """``-log alpha = low^(1 - t) high^t``, and 0 at the clean end itself."""

    low: float
    high: float

    def survival(self, t: Times) -> Times:
        """``exp(log alpha)``."""
        return jnp.exp(self.log_survival(t))

    def log_survival(self, t: Times) -> Times:
        """Geometric in time; the last step, to ``t = 0``, removes the noise of level ``low``."""
        return jnp.where(t > 0, -(self.low ** (1 - t)) * self.high**t, 0.0)

    def time(self, log_survival: Times) -> Times:
        """By logarithms; 0 for less noise than ``low``."""
        place = where_positive(lambda v: jnp.log(v / self.low), -log_survival, -jnp.inf)
        return jnp.maximum(place / jnp.log(self.high / self.low), 0.0)


@pytree
class Polynomial:
    """``alpha = 1 - t^power``."""

    power: float

    def survival(self, t: Times) -> Times:
        """By expm1, exact near ``t = 1``."""
        return -jnp.expm1(where_positive(lambda v: self.power * jnp.log(v), t, -jnp.inf))

    def log_survival(self, t: Times) -> Times:
        """By log1p near the clean end."""
        early = t < 0.5
        near_clean = jnp.log1p(-(jnp.where(early, t, 0.0) ** self.power))
        return jnp.where(early, near_clean, where_positive(jnp.log, self.survival(t), -jnp.inf))

    def time(self, log_survival: Times) -> Times:
        """``(1 - alpha)^(1 / power)``."""
        return where_positive(lambda v: v ** (1 / self.power), -jnp.expm1(log_survival), 0.0)


@pytree
class Convex:
    """``alpha = (1 - t)^power``."""

    power: float

    def survival(self, t: Times) -> Times:
        """A power."""
        return _power(1 - t, self.power)

    def log_survival(self, t: Times) -> Times:
        """By log1p."""
        return self.power * _log_complement(t)

    def time(self, log_survival: Times) -> Times:
        """By expm1."""
        return -jnp.expm1(log_survival / self.power)


def log_linear(rest: float = 0.0) -> LogLinear:
    """``alpha = 1 - (1 - rest) t``.

    Args:
        rest: what survives at ``t = 1``. With 0, the rate of the noise is infinite there: fine for masks; SEDD, MDLM
            and UDLM use 1e-3.

    Raises:
        ValueError: ``rest`` outside [0, 1).
    Source: Lou et al. 2024, SEDD (arXiv 2310.16834); Sahoo et al. 2024, MDLM (arXiv 2406.07524).
    """
    checks.within("rest", rest, 0.0)
    checks.within("1 - rest", 1 - rest, 0.0, above=True)
    return LogLinear(rest)


def cosine(power: float = 1.0) -> Cosine:
    """``alpha = cos(pi t / 2)^power``.

    Raises:
        ValueError: ``power`` below 1.
    Source: Austin et al. 2021, D3PM (arXiv 2107.03006), whose offset 0.008 is left out; powers 1 and 2 are in
        Sahoo et al. 2024 (arXiv 2406.07524).
    """
    checks.within("power", power, 1.0)
    return Cosine(power)


def sine() -> Sine:
    """``alpha = 1 - cos(pi (1 - t) / 2)``, the "cosine schedule" of MaskGIT and MD4.

    Source: Chang et al. 2022, MaskGIT (arXiv 2202.04200), sec. 3.3; Shi et al. 2024, MD4 (arXiv 2406.04329).
    """
    return Sine()


def geometric(low: float = 1e-3, high: float = 20.0) -> Geometric:
    """``-log alpha = low^(1 - t) high^t``.

    Args:
        low: the level of noise next to the clean end.
        high: that at ``t = 1``.

    Raises:
        ValueError: unless ``0 < low < high``.
    Source: Lou et al. 2024, SEDD (arXiv 2310.16834).
    """
    checks.within("low", low, 0.0, above=True)
    checks.within("high / low", high / low, 1.0, above=True)
    return Geometric(low, high)


def polynomial(power: float = 2.0) -> Polynomial:
    """``alpha = 1 - t^power``.

    Raises:
        ValueError: ``power`` below 1.
    Source: Shi et al. 2024, MD4 (arXiv 2406.04329).
    """
    checks.within("power", power, 1.0)
    return Polynomial(power)


def convex(power: float = 2.0) -> Convex:
    """``alpha = (1 - t)^power``, discrete flow matching's scheduler ``kappa`` with time reversed.

    Raises:
        ValueError: ``power`` below 1.
    Source: Gat et al. 2024, Discrete flow matching (arXiv 2407.15595), sec. 3.
    """
    checks.within("power", power, 1.0)
    return Convex(power)


registry: dict[str, Callable[..., Survival]] = {
    "log_linear": log_linear,
    "cosine": cosine,
    "sine": sine,
    "geometric": geometric,
    "polynomial": polynomial,
    "convex": convex,
}


def _power(v: Times, power: float) -> Times:
    """``v^power`` with derivatives at ``v = 0`` where ``power`` is 1, too."""
    straight = jnp.equal(power, 1.0)
    return jnp.where(straight, v, v ** jnp.where(straight, 2.0, power))


def _log_complement(v: Times) -> Times:
    """``log(1 - v)``, -inf at 1."""
    inside = v < 1
    return jnp.where(inside, jnp.log1p(-jnp.where(inside, v, 0.0)), -jnp.inf)
