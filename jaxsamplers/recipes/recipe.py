"""A recipe: a sampler as plain numbers, with what it needs of the network and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.denoisers import denoiser as plain_denoiser
from jaxsamplers.laws import pytree
from jaxsamplers.processes import Process, expand
from jaxsamplers.transforms import dynamic_threshold, static_threshold

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree


class Clip(NamedTuple):
    """How the denoiser's estimate is kept in range.

    Attributes:
        high: static, ``quantile=None``: the estimate is clipped to ``[-high, high]``; dynamic: the largest threshold.
        quantile: dynamic, by this quantile of each sample's absolute values; see ``transforms.dynamic_threshold``.
    """

    high: float
    quantile: float | None = None


class Recipe(NamedTuple):
    """A sampler and what belongs to it; everything but the sampler may be absent.

    Attributes:
        sampler: the table, of numbers or of tokens.
        process: the noise process its rows' times belong to.
        times: the ``steps + 1`` times the solver was given.
        start: standard deviation of the noise to start from, in the process's own scale.
        prediction: what the network predicts, as ``js.denoiser`` has it.
        sigma_data: standard deviation of the data, if the network is wrapped as in EDM: it is shown
            ``x / sqrt(sigma^2 + sigma_data^2)`` and predicts "v" of ``x0 / sigma_data``, or "-v" (EDM's own sign).
        clip: how its estimate is kept in range.
        solver: ``{"name": ..., "options": {...}}``: of ``js.solvers.registry``, or a rule that only the recipe has.
        provenance: anything else worth keeping, as plain JSON.
    """

    sampler: Any
    process: Process | None = None
    times: Float[Array, " n+1"] | None = None
    start: float | None = None
    prediction: str | None = None
    sigma_data: float | None = None
    clip: Clip | None = None
    solver: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None


def denoiser(recipe: Recipe, apply: Callable[..., Any]) -> Callable[..., Any]:
    """The denoiser that a recipe's sampler is meant for, from the network.

    Args:
        recipe: it says what the network predicts, in which scale it is shown ``x``, and how its estimate is clipped.
        apply: ``(x, t, **extra) -> output``; ``t`` is the row's ``network_time`` where the recipe has one.

    Raises:
        ValueError: the recipe has no process or prediction.
    """
    if recipe.process is None or recipe.prediction is None:
        raise ValueError("this recipe does not say which process and prediction its network has")
    model: Callable[..., Any]
    if recipe.sigma_data is None:
        model = plain_denoiser(apply, recipe.process, recipe.prediction)
    else:
        signs = {"v": 1.0, "-v": -1.0}
        sign = checks.look_up("prediction of a network with sigma_data", recipe.prediction, signs)
        model = Preconditioned(as_pytree(apply), recipe.process, recipe.sigma_data, sign)
    return model if recipe.clip is None else Clipped(as_pytree(model), recipe.clip)


@pytree
class Clipped:
    """A denoiser kept in range, all the way or, where a row says so, further or less."""

    model: Callable[..., Any]
    clip: Clip

    def __call__(self, x: PyTree, t: Array, *, clip_weight: Array | None = None, **extra: Any) -> PyTree:
        """``m + clip_weight (clip(m) - m)``: with a weight above 1, a row mixes ``clip(m)`` with the noise of ``m``."""
        m = self.model(x, t, **extra)
        known = lambda *_, **__: m
        high, quantile = self.clip
        keep = static_threshold(known, high) if quantile is None else dynamic_threshold(known, quantile, ceiling=high)
        inside = keep(x, t)
        if clip_weight is None:
            return inside
        return jax.tree.map(lambda a, b: a + expand(clip_weight, a).astype(a.dtype) * (b - a), m, inside)


@pytree
class Preconditioned:
    """EDM's wrapping of a network that predicts ``sign`` times v, in the variance-preserving scale of unit data.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1 and section 5.
    """

    apply: Callable[..., Any]
    process: Process
    sigma_data: float
    sign: float

    def __call__(self, x: PyTree, t: Array, *, network_time: Array | None = None, **extra: Any) -> PyTree:
        """The clean-data estimate at ``x``."""
        sigma = self.process.sigma(t)
        radius = jnp.hypot(sigma, self.sigma_data)
        like = lambda level, leaf: expand(level, leaf).astype(leaf.dtype)
        shown = 0.25 * jnp.log(sigma) if network_time is None else network_time
        output = self.apply(jax.tree.map(lambda leaf: leaf / like(radius, leaf), x), shown, **extra)
        alpha, fraction = self.sigma_data / radius, sigma / radius

        def leaf(y: Array, v: Array) -> Array:
            return like(alpha**2, y) * y - like(self.sign * fraction * self.sigma_data, y) * v.astype(y.dtype)

        return jax.tree.map(leaf, x, output)
