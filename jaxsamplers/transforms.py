"""Denoiser -> denoiser transforms: corrections of a network's answer that no table can express.

Each returns a callable pytree: its numbers are leaves. Put guidance inside, ``static_threshold`` and
``dynamic_threshold`` outermost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree, denoiser, predict
from jaxsamplers.processes import Process, centre, expand, uncentre

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree


def static_threshold(model: Model, limit: float = 1.0) -> Clipped:
    """Estimates clipped to ``[-limit, limit]``: for data known to lie there, pixels but not latents.

    Args:
        model: the denoiser.
        limit: in units of the data.

    Raises:
        ValueError: a limit that is not positive.
    Source: Ho et al. 2020, DDPM's code (arXiv 2006.11239); Saharia et al. 2022 (arXiv 2205.11487), sec. 2.3.
    """
    checks.within("limit", limit, 0.0, above=True)
    return Clipped(as_pytree(model), limit)


def dynamic_threshold(
    model: Model, quantile: float = 0.995, *, floor: float = 1.0, ceiling: float = np.inf
) -> DynamicallyClipped:
    """Estimates clipped to ``[-s, s]`` and divided by ``s``, where ``s`` follows each sample: always in ``[-1, 1]``.

    ``s`` is the quantile of ``|m|`` over a sample, brought into ``[floor, ceiling]``. DPM-Solver's ``max_val`` is the
    floor; diffusers' ``sample_max_value`` is the ceiling (its default, 1, makes this the static threshold) and its
    floor is 1. With a floor above 1 the division shrinks every estimate, saturated or not.

    Args:
        model: the denoiser of data in ``[-1, 1]``, with the batch on the first axis.
        quantile: from 0 to 1, interpolated linearly.
        floor: the least ``s``.
        ceiling: the greatest ``s``.

    Raises:
        ValueError: a quantile outside [0, 1], a floor that is not positive or lies above the ceiling.
    Source: Saharia et al. 2022, Imagen (arXiv 2205.11487), sec. 2.3 and app. A.
    """
    checks.within("quantile", quantile, 0.0, 1.0)
    checks.within("floor", floor, 0.0, above=True)
    known = checks.concrete(floor)
    checks.within("ceiling", ceiling, 0.0 if known is None else float(known))
    return DynamicallyClipped(as_pytree(model), quantile, floor, ceiling)


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


def structural_guidance(
    model: Model, low: Callable[[PyTree], PyTree], reference: PyTree, *, until: float = 0.0
) -> StructurallyGuided:
    """Estimates with the coarse structure of a reference: ``m -> m + low(reference) - low(m)``, down to ``until``.

    DiffuseHigh's ``low`` keeps the low band of one level of a wavelet transform, and its reference is an upsampled and
    sharpened sample of low resolution; it guides the first 5 steps of the high one (see ``js.cascade``).

    Args:
        model: the denoiser.
        low: what is taken from the reference, a linear projection.
        reference: a clean sample that looks like ``x``.
        until: the last time that is not guided.

    Raises:
        ValueError: a negative time.
    Source: Kim et al. 2025, DiffuseHigh (arXiv 2406.18459), sec. 4.
    """
    checks.within("until", until, 0.0)
    return StructurallyGuided(as_pytree(model), as_pytree(low), reference, until)


def remember_velocity(model: Model, process: Process) -> RememberVelocity:
    """A denoiser that leaves its velocity behind for a ``velocity_refiner``; for ``js.remembering(sampler)``."""
    return RememberVelocity(as_pytree(model), process)


def velocity_refiner(refine: Callable[..., PyTree], process: Process) -> VelocityRefiner:
    """FlowTurbo's cheap steps: the velocity of the last call, corrected by a small network.

    Along a flow's trajectory the velocity hardly changes, so after some calls of the large network its last answer and
    a light correction do. The two share a sampler:

        full = {"lower_order_final": False}
        early = js.solvers.pseudo_corrector(process, times[:7], **full)  # 6 steps in 7 calls
        late = js.solvers.heun(process, times[6:], **full)
        early, late = (js.remembering(part) for part in js.align(early, late))
        heavy, light = remember_velocity(model, process), velocity_refiner(refine, process)
        x = js.stitch([(early, heavy), (late, light)], noise)

    The refined velocity is remembered in its turn, at every call (the authors' two codes remember it at one call of
    their two a step, each at another one).

    Args:
        refine: ``(x, t, velocity, **extra) -> change of velocity``.
        process: the noise process; ``velocity`` is its ``dx/dt``.

    Source: Zhao et al. 2024, FlowTurbo (arXiv 2409.18128), sec. 3.
    """
    return VelocityRefiner(as_pytree(refine), process)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Clipped:
    """See ``static_threshold``."""

    model: Model
    limit: float

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The clipped estimate."""
        return jax.tree.map(lambda m: jnp.clip(m, -self.limit, self.limit), self.model(x, t, **extra))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DynamicallyClipped:
    """See ``dynamic_threshold``."""

    model: Model
    quantile: float
    floor: float
    ceiling: float

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The clipped and divided estimate."""

        def clipped(m: Array) -> Array:
            size = jnp.quantile(jnp.abs(m), self.quantile, axis=tuple(range(1, m.ndim)), keepdims=True)
            size = jnp.clip(size, self.floor, self.ceiling)
            return jnp.clip(m, -size, size) / size

        return jax.tree.map(clipped, self.model(x, t, **extra))


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
        t = jnp.broadcast_to(t, flat.shape[:1])
        near = t[:, None] + self.window * jnp.linspace(-0.5, 0.5, self.candidates)
        near = jnp.clip(near, jnp.minimum(t, self.process.t_min)[:, None], self.process.t_max)
        expected = self.process.alpha(near) ** 2 * self.variance + self.process.sigma(near) ** 2
        best = jnp.argmin(jnp.abs(jnp.var(flat, axis=1)[:, None] - expected), axis=1)
        shifted = jnp.take_along_axis(near, best[:, None], axis=1)[:, 0]
        return jnp.where(t > self.cutoff, shifted, t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StructurallyGuided:
    """See ``structural_guidance``."""

    model: Model
    low: Callable[[PyTree], PyTree]
    reference: PyTree
    until: float

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The estimate with the reference's structure."""
        estimate = self.model(x, t, **extra)
        missing = jax.tree.map(jnp.subtract, self.low(self.reference), self.low(estimate))
        active = jnp.asarray(t) > self.until
        return jax.tree.map(lambda m, d: m + jnp.where(expand(active, m), d, 0), estimate, missing)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RememberVelocity:
    """See ``remember_velocity``."""

    model: Model
    process: Process

    def __call__(self, x: PyTree, t: Array, *, memory: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        """The estimate, and its velocity."""
        estimate = self.model(x, t, **extra)
        return estimate, predict(lambda x, t: estimate, self.process, "velocity")(x, t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VelocityRefiner:
    """See ``velocity_refiner``."""

    refine: Callable[..., PyTree]
    process: Process

    def __call__(self, x: PyTree, t: Array, *, memory: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        """The estimate of the refined velocity, and that velocity."""
        velocity = jax.tree.map(jnp.add, memory, self.refine(x, t, memory, **extra))
        return denoiser(lambda x, t: velocity, self.process, "velocity")(x, t), velocity
