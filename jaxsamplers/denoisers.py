"""From what a network predicts to a denoiser ``(x, t) -> x0``, the canonical form inside the library.

With ``x = alpha x0 + sigma eps`` (centred on the process's origin), a network may predict

    epsilon    the noise
    x0         the clean data
    v          alpha eps - sigma x0                  (Salimans & Ho 2022, arXiv 2202.00512)
    score      grad log p_t(x) = -eps / sigma
    velocity   dx/dt = alpha' x0 + sigma' eps        (flow matching)

Each pair ``(prediction, x)`` determines ``(x0, eps)``; the table ``_to_x0`` solves for ``x0``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.processes import Process, centre, expand, same_structure, uncentre
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree

_to_x0: dict[str, Callable[..., Any]] = {
    "epsilon": lambda out, x, a, s, da, ds: (x - s * out) / a,
    "v": lambda out, x, a, s, da, ds: (a * x - s * out) / (a**2 + s**2),
    "score": lambda out, x, a, s, da, ds: (x + s**2 * out) / a,
    "velocity": lambda out, x, a, s, da, ds: (s * out - ds * x) / (s * da - ds * a),
}
_from_x0: dict[str, Callable[..., Any]] = {
    "epsilon": lambda x0, x, a, s, da, ds: (x - a * x0) / s,
    "v": lambda x0, x, a, s, da, ds: (a * x - (a**2 + s**2) * x0) / s,
    "score": lambda x0, x, a, s, da, ds: (a * x0 - x) / s**2,
    "velocity": lambda x0, x, a, s, da, ds: da * x0 + ds * (x - a * x0) / s,
}
predictions = ("x0", *_to_x0)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["apply", "process", "time"],
    meta_fields=["prediction"],
)
@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network turned into ``(x, t, **extra) -> x0``; a pytree, so its parameters can be traced."""

    apply: Callable[..., Any]
    process: Process
    prediction: str
    time: Callable[..., Any] | None = None

    def __call__(self, x: PyTree, t: Array, *, network_time: Array | None = None, **extra: Any) -> PyTree:
        """The clean-data estimate at ``x``; ``t`` is a scalar or has the batch shape ``[batch]``.

        ``network_time`` is shown to the network instead of ``time(t)``: a sampler's rows may carry it as an extra
        input, where what the network is told is decoupled from the noise level (a rounded index, a learned time).
        """
        shown = network_time if network_time is not None else t if self.time is None else self.time(t)
        output = conform(self.apply(x, shown, **extra), x)
        if self.prediction == "x0":
            return output
        origin = self.process.origin
        clean = _mix(_to_x0[self.prediction], _levels(self.process, t), output, centre(x, origin))
        return uncentre(clean, origin)


def denoiser(
    apply: Callable[..., Any],
    process: Process,
    prediction: str = "epsilon",
    *,
    time: Callable[..., Any] | None = None,
) -> Denoiser:
    """A denoiser from a network.

    Args:
        apply: ``(x, t, **extra) -> output`` shaped like ``x``: a plain function, ``from_linen(...)``, ``from_nnx(...)``
            or any callable. ``t`` reaches it in the precision of the schedule, never in the network's own.
        process: the noise process the network was trained on.
        prediction: what it predicts: "epsilon", "x0", "v", "score" or "velocity".
        time: the network's own clock as a function of the process's time, such as ``lambda t: 1000 * t - 1`` for
            DDPM indices; the time itself by default.

    Raises:
        ValueError: an unknown prediction; when called, an output that does not look like ``x``.
    """
    checks.one_of("prediction", prediction, predictions)
    return Denoiser(as_pytree(apply), process, prediction, None if time is None else as_pytree(time))


def predict(model: Callable[..., Any], process: Process, prediction: str) -> Callable[..., Any]:
    """The inverse: a denoiser read as a noise, v, score or velocity network.

    Raises:
        ValueError: an unknown prediction.
    """
    checks.one_of("prediction", prediction, predictions)

    def apply(x: PyTree, t: Array, **extra: Any) -> PyTree:
        estimate = conform(model(x, t, **extra), x)
        if prediction == "x0":
            return estimate
        centred = centre(estimate, process.origin)
        return _mix(_from_x0[prediction], _levels(process, t), centred, centre(x, process.origin))

    return apply


def convert(model: Callable[..., Any], process: Process, to: Process) -> Callable[..., Any]:
    """A denoiser trained on ``process``, as the denoiser of another: exact, whatever the data.

    At equal half-log-SNR the two noisy samples differ by a factor and a shift, so the estimate is the same:
    ``(x, t) -> model((r' / r) (x - (1 - alpha) origin) + (1 - alpha') origin', t')``, with ``r^2 = alpha^2 + sigma^2``,
    primes for ``process`` at the time ``t'`` of that half-log-SNR. The noise must have one law under both.

    Args:
        model: the denoiser ``(x, t, **extra) -> x0`` of ``process``.
        process: what it was trained on.
        to: what is to be sampled.

    Raises:
        ValueError: the two processes' noise has different laws.
    Source: Karras et al. 2022 (arXiv 2206.00364), app. B; Lipman et al. 2024, Flow matching guide (arXiv 2412.06264),
        sec. 4.6.2; Kim et al. 2025 (arXiv 2503.19385), where it turns a flow into a diffusion at inference.
    """
    if not same_structure(process.noise, to.noise):
        names = [type(p.noise).__name__ for p in (process, to)]
        raise ValueError(f"the noise must have one law under both processes, got {names[0]} and {names[1]}")
    return Partial(_converted, as_pytree(model), process, to)


def _converted(model: Callable[..., Any], process: Process, to: Process, x: PyTree, t: Array, **extra: Any) -> PyTree:
    then = process.time(to.half_log_snr(t))
    radius = jnp.hypot(process.alpha(then), process.sigma(then)) / jnp.hypot(to.alpha(t), to.sigma(t))
    centred = _drifted(x, to, t, -1)
    scaled = jax.tree.map(lambda leaf: expand(radius, leaf).astype(leaf.dtype) * leaf, centred)
    return model(_drifted(scaled, process, then, 1), then, **extra)


def _drifted(x: PyTree, process: Process, t: Array, sign: int) -> PyTree:
    """``x + sign (1 - alpha) origin``."""
    if process.origin is None:
        return x
    origin = uncentre(jax.tree.map(jnp.zeros_like, x), process.origin)
    gone = sign * (1 - process.alpha(t))
    return jax.tree.map(lambda leaf, o: leaf + expand(gone, leaf).astype(leaf.dtype) * o, x, origin)


def _levels(process: Process, t: Array) -> tuple[Array, ...]:
    return process.alpha(t), process.sigma(t), *process.velocity_coefficients(t)


def _mix(formula: Callable[..., Any], levels: tuple[Array, ...], value: PyTree, x: PyTree) -> PyTree:
    def leaf(v: Array, y: Array) -> Array:
        return formula(v, y, *[expand(level, y).astype(y.dtype) for level in levels])

    return jax.tree.map(leaf, value, x)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` itself if it is a pytree, else wrapped as one without leaves, equal by identity."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function


@functools.partial(jax.tree_util.register_dataclass, data_fields=["variables"], meta_fields=["module", "keywords"])
@dataclasses.dataclass(frozen=True)
class Linen:
    """A Flax linen module with its variables, as a callable pytree."""

    variables: PyTree
    module: Any
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """``module.apply(variables, x, t, ...)``."""
        return self.module.apply(self.variables, x, t, **dict(self.keywords), **extra)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["graphdef"])
@dataclasses.dataclass(frozen=True)
class Nnx:
    """A Flax NNX module as static structure and flat leaves: cheap to pass to a jitted function."""

    leaves: tuple[Array, ...]
    graphdef: Any

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The merged module, called."""
        from flax import nnx

        definition, treedef = self.graphdef
        return nnx.merge(definition, jax.tree.unflatten(treedef, self.leaves))(x, t, **extra)


def from_linen(module: Any, variables: PyTree, **keywords: Any) -> Linen:
    """``apply`` for a linen module; ``keywords`` (``train=False``, ``method=...``) go to ``module.apply``.

    The result is a pytree: pass it through jit and new variables compile nothing.
    """
    return Linen(variables, module, tuple(sorted(keywords.items())))


def from_nnx(module: Any) -> Nnx:
    """``apply`` for an NNX module, read at this moment, in evaluation mode.

    Dropout and batch statistics are frozen on a copy; the module itself stays in its mode.
    """
    from flax import nnx

    frozen = nnx.clone(module)
    frozen.eval()
    graphdef, state = nnx.split(frozen)
    leaves, treedef = jax.tree.flatten(state)
    return Nnx(tuple(leaves), (graphdef, treedef))
