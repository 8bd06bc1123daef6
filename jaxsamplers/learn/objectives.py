"""What is to be small: how far the learned sampler ends, or goes, from its teacher.

An objective is a pytree that is called with ``(parameters, batch, key)`` and gives a number. Distances are means over
the numbers of one sample, so that a loss does not grow with resolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers.core import Model, run
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.builder import Builder
from jaxsamplers.learn.pairs import Pairs
from jaxsamplers.learn.parameters import Parameters

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    PerSample = Float[Array, " batch"]
    Distance = Callable[[PyTree, PyTree], PerSample]
    Objective = Callable[[Any, Any, Any], Float[Array, ""]]


def squared(x: PyTree, y: PyTree) -> PerSample:
    """Mean squared difference."""
    return _mean(lambda d: d**2, x, y)


def rms(x: PyTree, y: PyTree) -> PerSample:
    """Root of the mean squared difference: the distance itself, so that its mean is the mean error of a sample."""
    return jnp.sqrt(squared(x, y) + 1e-12)  # the square root of 0 has no gradient


def log_squared(x: PyTree, y: PyTree) -> PerSample:
    """Logarithm of the mean squared difference: minus the PSNR, but for its scale. Every sample counts by its ratio.

    Source: Shaul et al. 2024, Bespoke non-stationary solvers (arXiv 2403.01329), eq. 12.
    """
    return jnp.log(squared(x, y) + 1e-12)


def absolute(x: PyTree, y: PyTree) -> PerSample:
    """Mean absolute difference."""
    return _mean(jnp.abs, x, y)


def pseudo_huber(width: float = 0.03) -> Distance:
    """Mean of ``sqrt(d^2 + width^2) - width``: squared for differences below ``width``, absolute above.

    Source: Song & Dhariwal 2024, Improved techniques for training consistency models (arXiv 2310.14189), eq. 7, whose
    constant is taken entry by entry here.
    """
    return Partial(_pseudo_huber, jnp.asarray(width))


def features(extract: Callable[[PyTree], PyTree], distance: Distance = squared) -> Distance:
    """A distance between what ``extract`` makes of the two samples: a feature network, or a decoder of latents."""
    return Partial(_features, as_pytree(extract), as_pytree(distance))


def endpoint(build: Builder, model: Model, *, distance: Distance = squared) -> Endpoint:
    """The distance between the sample and its goal, mean over a batch of ``Pairs``.

    Args:
        build: parameters -> sampler.
        model: the denoiser, with any of the sampler's extra inputs as keywords.
        distance: of two batches of samples, one number a sample.
    """
    return Endpoint(build, as_pytree(model), as_pytree(distance))


def trajectory(build: Builder, model: Model, *, distance: Distance = squared) -> Trajectory:
    """The distance between the path and the teacher's, mean over steps and a batch of ``Pairs``.

    ``goal`` is ``[batch, calls, ...]``: where the teacher is after each of the sampler's network calls. Teachers on a
    learned schedule move with it, so this is for coefficients and network times on a schedule that stays.
    """
    return Trajectory(build, as_pytree(model), as_pytree(distance))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Endpoint:
    """See ``endpoint``."""

    build: Builder
    model: Model
    distance: Distance

    def __call__(self, parameters: Parameters, batch: Pairs, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The loss."""
        return self.each(parameters, batch, key).mean()

    def each(self, parameters: Parameters, batch: Pairs, key: Key[Array, ""] | None) -> PerSample:
        """One number a sample."""
        return self.distance(self.build.sample(parameters, self.model, batch.x, key), batch.goal)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory:
    """See ``trajectory``."""

    build: Builder
    model: Model
    distance: Distance

    def __call__(self, parameters: Parameters, batch: Pairs, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The loss."""
        x = self.build.begin(parameters, batch.x)
        _, path = run(self.build(parameters), self.model, x, key, record=lambda state: state.x)
        goal = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), batch.goal)
        return jax.vmap(self.distance)(path, goal).mean()


def _mean(of: Callable[[Array], Array], x: PyTree, y: PyTree) -> PerSample:
    leaves = jax.tree.leaves(jax.tree.map(lambda a, b: of(a - b).reshape(a.shape[0], -1), x, y))
    return sum(leaf.sum(axis=1) for leaf in leaves) / sum(leaf.shape[1] for leaf in leaves)


def _pseudo_huber(width: Array, x: PyTree, y: PyTree) -> PerSample:
    return _mean(lambda d: jnp.sqrt(d**2 + width**2) - width, x, y)


def _features(extract: Callable[[PyTree], PyTree], distance: Distance, x: PyTree, y: PyTree) -> PerSample:
    return distance(extract(x), extract(y))
