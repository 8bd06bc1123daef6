"""Against exposure bias: while sampling a network sees its own outputs, noisier than what it was trained on.

``epsilon_scaling`` corrects what it answers, ``time_shift`` what it is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.processes import Process, centre, expand, uncentre

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree


def epsilon_scaling(
    model: Model, process: Process, factor: float | Float[Array, " batch"] | Callable[[Array], Array] = 1.0
) -> EpsilonScaled:
    """The noise the estimate implies, divided by ``factor``: networks overestimate it along their own trajectories.

    ``eps -> eps / factor`` is ``m -> m + (1 - 1 / factor) (x / alpha - m)``. Where ``alpha`` is 0 nothing changes.

    Args:
        model: the denoiser.
        process: the noise process.
        factor: slightly above 1 (1.005 for ADM at 100 steps on FFHQ, 1.017 on CIFAR-10): a number, one a sample or a
            function of time. One a row rides in the sampler, ``js.with_extra(sampler, epsilon_factor=array)``, and
            goes before this one.

    Raises:
        ValueError: a factor that is not positive.
    Source: Ning et al. 2024, Elucidating the exposure bias in diffusion models (arXiv 2308.15321).
    """
    if callable(factor):
        return EpsilonScaled(as_pytree(model), process, as_pytree(factor))
    checks.within("factor", factor, 0.0, above=True)
    return EpsilonScaled(as_pytree(model), process, factor)


def time_shift(
    model: Model, process: Process, window: float, *, cutoff: float = 0.0, variance: float = 0.0, candidates: int = 33
) -> TimeShifted:
    """The denoiser, asked at the time whose variance each sample really has.

    The variance ``v`` of a sample over its own values is compared with ``alpha^2 variance + sigma^2`` at times
    ``t - window / 2 ... t + window / 2``; the nearest replaces ``t``. The steps between rows stay those of the table;
    the authors' code instead moves the target of the step, which no fixed table has.

    Args:
        model: a denoiser that takes one time a sample, ``[batch]``.
        process: the noise process.
        window: width of the search, in units of time; 0 shifts nothing.
        cutoff: times at or below it are left alone.
        variance: of the clean data around each sample's mean; the paper takes 0.
        candidates: how many times are compared.

    Raises:
        ValueError: a negative window, cutoff or variance, or fewer than 2 candidates.
    Source: Li et al. 2024, Alleviating exposure bias in diffusion models through sampling with shifted time steps
        (arXiv 2305.15583), algorithm 3.
    """
    checks.within("window", window, 0.0)
    checks.within("cutoff", cutoff, 0.0)
    checks.within("variance", variance, 0.0)
    checks.integer("candidates", candidates, low=2)
    return TimeShifted(as_pytree(model), process, window, cutoff, variance, candidates)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EpsilonScaled:
    """See ``epsilon_scaling``."""

    model: Model
    process: Process
    factor: Any

    def __call__(self, x: PyTree, t: Array, *, epsilon_factor: Array | None = None, **extra: Any) -> PyTree:
        """The estimate with its noise scaled."""
        own = self.factor(t) if callable(self.factor) else self.factor
        factor = jnp.asarray(own if epsilon_factor is None else epsilon_factor)
        alpha = self.process.alpha(t)
        signal = alpha > 0
        alpha, less = jnp.where(signal, alpha, 1.0), jnp.where(signal, 1 - 1 / factor, 0.0)

        def scaled(m: Array, y: Array) -> Array:
            return m + expand(less, m).astype(m.dtype) * (y / expand(alpha, y).astype(y.dtype) - m)

        origin = self.process.origin
        estimate = centre(self.model(x, t, **extra), origin)
        return uncentre(jax.tree.map(scaled, estimate, centre(x, origin)), origin)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TimeShifted:
    """See ``time_shift``."""

    model: Model
    process: Process
    window: float
    cutoff: float
    variance: float
    candidates: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The estimate at the shifted times."""
        return self.model(x, self.times(x, t), **extra)

    def times(self, x: PyTree, t: Array) -> Float[Array, " batch"]:
        """The time that fits each sample best."""
        flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)], axis=1)
        spread = jnp.var(flat, axis=1)
        t = jnp.zeros_like(spread) + t  # one a sample, sharded like them

        def near(fraction: Array) -> Array:
            first = jnp.minimum(t, self.process.t_min)
            shifted = t[:, None] + self.window * (fraction - 0.5)
            return jnp.clip(shifted, first[:, None], self.process.t_max)

        tried = near(jnp.linspace(0.0, 1.0, self.candidates, dtype=t.dtype))
        expected = self.process.alpha(tried) ** 2 * self.variance + self.process.sigma(tried) ** 2
        best = jnp.argmin(jnp.abs(spread[:, None] - expected), axis=1)
        return jnp.where(t > self.cutoff, near(best[:, None] / (self.candidates - 1))[:, 0], t)
