"""DDPM with a variance that the network predicts, value by value.

Improved DDPM's network answers with a pair, the estimate ``m`` and ``v`` in [-1, 1]; the variance of the posterior's
noise lies between its two bounds, on a logarithmic scale (see ``ddpm``):

    x' = mean(x, m) + b (sigma' / sigma)^{1 - f} z        f = (1 + v) / 2

The noise multiplies a function of ``v``, so this is no table: the mean is one, and the noise has a step of its own.

Source: Nichol & Dhariwal 2021, Improved DDPM (arXiv 2102.09672), eq. 15; guided-diffusion's ``learn_sigma``.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers.core import Model, SolverState, normal_like, step_key, take_rows
from jaxsamplers.denoisers import Denoiser
from jaxsamplers.solvers.ddpm import posterior
from jaxsamplers.solvers.grid import steps
from jaxsamplers.tableau import Pattern, Rows, Tableau, conform, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    from jaxsamplers.processes import Process


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VarianceRows:
    """One row per network call.

    Attributes:
        mean: the row of the table of means.
        spread: the noise at the larger variance.
        log_ratio: what its logarithm loses at the smaller.
    """

    mean: Rows
    spread: Float[Array, " n"]
    log_ratio: Float[Array, " n"]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rows", "origin"], meta_fields=["pattern"])
@dataclasses.dataclass(frozen=True)
class LearnedVariance:
    """A sampler whose model returns ``(estimate, v)``; see the module's docstring.

    Attributes:
        rows: the numbers.
        pattern: that of the table of means.
        origin: the process's origin, or ``None`` for 0.
    """

    rows: VarianceRows
    pattern: Pattern
    origin: PyTree = None

    def __len__(self) -> int:
        return self.rows.spread.shape[0]

    def __getitem__(self, rows: slice) -> LearnedVariance:
        return take_rows(self, rows)

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """The sample, promoted to at least float32."""
        if key is None:
            raise ValueError("this sampler draws noise: give it a PRNG key, such as jax.random.key(0)")
        return Tableau(self.rows.mean, self.pattern, self.origin).init(x, key)

    def step(self, state: SolverState, row: VarianceRows, model: Model) -> SolverState:
        """One network call: the posterior's mean, and noise of the size that the network wants."""
        estimate, v = model(state.x, row.mean.time, **row.mean.extra)
        v = conform(v, state.x)
        moved = Tableau(row.mean, self.pattern, self.origin).step(state, row.mean, lambda *_, **__: estimate)

        def add(x: Array, v: Array, z: Array) -> Array:
            return x + (row.spread * jnp.exp((1 - v) / 2 * row.log_ratio)).astype(x.dtype) * z

        x = jax.tree.map(add, moved.x, v, normal_like(step_key(state, role=0), state.x))
        return dataclasses.replace(moved, x=x)


def ddpm_learned_variance(process: Process, times: Float[Array, " n+1"]) -> LearnedVariance:
    """Ancestral sampling with the network's own variance, stochastic; one network call a step.

    Args:
        process: the noise process.
        times: ``n + 1`` decreasing times. A step to the clean end returns the estimate.

    Returns:
        A sampler for a model ``(x, t) -> (x0, v)``, as ``with_variance`` makes one.

    Raises:
        ValueError: a schedule that ``schedules.validate`` refuses.
    """
    g = steps(process, times)
    x, m, b = posterior(g)
    noisy = g.sigma_next > 0
    mean = table(process, g.t, [[x, m]])
    rows = VarianceRows(mean.rows, jnp.where(noisy, b, 0.0), jnp.log(jnp.where(noisy, g.keep, 1.0)))
    return LearnedVariance(rows, mean.pattern, mean.origin)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["denoiser"], meta_fields=["axis"])
@dataclasses.dataclass(frozen=True)
class VarianceDenoiser:
    """A network of twice the channels as ``(x, t, **extra) -> (x0, v)``."""

    denoiser: Denoiser
    axis: int

    def __call__(
        self, x: PyTree, t: Array, *, network_time: Array | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        """The clean-data estimate and the fraction of the log variance, both shaped like ``x``."""
        d = self.denoiser
        shown = network_time if network_time is not None else t if d.time is None else d.time(t)
        output = d.apply(x, shown, **extra)
        first, second = [jax.tree.map(lambda y, k=k: jnp.split(y, 2, self.axis)[k], output) for k in range(2)]
        return dataclasses.replace(d, apply=lambda *_, **__: first)(x, t), second


def with_variance(denoiser: Denoiser, *, axis: int = -1) -> VarianceDenoiser:
    """A model for ``ddpm_learned_variance`` from a denoiser whose network has twice the channels of ``x``.

    Args:
        denoiser: as ``denoiser(apply, process, prediction, time=...)`` makes it; the first half of the output of
            ``apply`` is its prediction, the second is ``v``.
        axis: the axis of the channels.
    """
    return VarianceDenoiser(denoiser, axis)
