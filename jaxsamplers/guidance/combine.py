"""What strong guidance does to the estimate besides guiding it, and how to take that back.

``rescale``: extrapolation inflates the spread of an image; give it the spread of ``c`` again,
``m' = phi m std(c) / std(m) + (1 - phi) m``. Lin et al. 2023, Common noise schedules and sample steps are flawed (arXiv
2305.08891), sec. 3.4.

``projected``: of the difference ``d = c - u``, what is parallel to ``c`` saturates colours and what is orthogonal to it
helps: ``m = c + (w - 1) (d_orthogonal + eta d_parallel)``, ``d`` first shortened to a radius. Sadat, Hilliges & Weber
2024, Eliminating oversaturation and artifacts of high guidance scales (arXiv 2410.02416), there with ``w - 1`` too.

Both act on each sample (and each array of a pytree) over all but its batch axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.denoisers import denoiser, predict, predictions
from jaxsamplers.guidance.guided import Guided

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree

    from jaxsamplers.processes import Process


def rescale(guided: Guided, process: Process, phi: float = 0.7, *, prediction: str = "x0") -> Guided:
    """The same guidance with the standard deviation of the wanted branch, for a part ``phi``.

    Args:
        guided: what to rescale.
        process: the noise process.
        phi: from 0 (nothing) to 1 (the whole standard deviation).
        prediction: what is rescaled: the estimate, or what the paper's and diffusers' networks put out ("v",
            "epsilon"), where the same factor means something else.

    Raises:
        ValueError: ``phi`` outside [0, 1], an unknown prediction.
    """
    checks.within("phi", phi, 0.0, 1.0)
    checks.one_of("prediction", prediction, predictions)
    return dataclasses.replace(guided, combine=_Rescaled(guided.combine, process, phi, prediction))


def projected(guided: Guided, *, eta: float = 0.0, radius: float = np.inf) -> Guided:
    """Adaptive projected guidance; ``momentum`` adds its memory.

    Diffusers adds the update to ``u`` unless asked for the original formulation, and then counts the scale from 0.

    Args:
        guided: what to project.
        eta: how much of the parallel part is kept: 0 none, 1 all.
        radius: differences longer than this are shortened to it; 2.5 to 15 in the paper.

    Raises:
        ValueError: a radius that is not positive.
    """
    checks.within("eta", eta, -np.inf)
    checks.within("radius", radius, 0.0, above=True)
    return dataclasses.replace(guided, combine=_Projected(guided.combine, eta, radius))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Projected:
    combine: Callable[..., PyTree]
    eta: float
    radius: float

    def __call__(self, positive: PyTree, negative: PyTree, scale: Array, x: PyTree, t: Array) -> PyTree:
        away = jax.tree.map(lambda c, u: c - self._useful(c - u, c), positive, negative)
        return self.combine(positive, away, scale, x, t)

    def _useful(self, difference: Array, positive: Array) -> Array:
        length = _ratio(_dot(difference, difference), 1.0, 0.0)
        short = length <= self.radius**2
        shrink = jnp.where(short, 1.0, self.radius / jnp.sqrt(jnp.where(short, 1.0, length)))
        parallel = _ratio(_dot(difference, positive), _dot(positive, positive), 0.0) * positive
        return shrink * (difference + (self.eta - 1) * parallel)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rescaled:
    combine: Callable[..., PyTree]
    process: Process
    phi: float
    prediction: str = dataclasses.field(metadata={"static": True})

    def __call__(self, positive: PyTree, negative: PyTree, scale: Array, x: PyTree, t: Array) -> PyTree:
        seen = lambda m: predict(lambda x, t: m, self.process, self.prediction)(x, t)
        guided = seen(self.combine(positive, negative, scale, x, t))
        output = jax.tree.map(self._scaled, guided, seen(positive))
        return denoiser(lambda x, t: output, self.process, self.prediction)(x, t)

    def _scaled(self, guided: Array, positive: Array) -> Array:
        spread = lambda v: jnp.var(v, axis=_axes(v), keepdims=True)
        ratio = _ratio(spread(positive), spread(guided), 1.0)
        positive_ratio = ratio > 0
        factor = jnp.where(positive_ratio, jnp.sqrt(jnp.where(positive_ratio, ratio, 1.0)), 0.0)
        return (self.phi * factor + 1 - self.phi) * guided


def _axes(v: Array) -> tuple[int, ...]:
    return tuple(range(1, v.ndim))


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=_axes(a), keepdims=True)


def _ratio(a: Any, b: Any, otherwise: float) -> Array:
    """``a / b``, with a constant and a zero gradient where ``b`` is 0."""
    usable = b != 0
    return jnp.where(usable, a / jnp.where(usable, b, 1.0), otherwise)
