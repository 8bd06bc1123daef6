"""LD3: a schedule by end-to-end distillation, with a teacher that is met half way.

A student of few steps cannot make what the teacher makes of every noise. It need not: it is enough that each goal is
made from *some* noise nearby,

    loss(p) = E min { d( student_p(x'), teacher(x) ) :  |x' - x| <= r },

which bounds the distance between what the two make of all noises. Each noise keeps an offset of its own from batch to
batch. Whenever it comes up, the offset takes one gradient step, is brought back into the ball, and is kept if its
sample is closer than before. What is learned is used with noises that are not moved.

Source: Tong, Hoang, Liu, Van den Broeck & Niepert 2025, Learning to discretize denoising diffusion ODEs (arXiv
2405.15506) and the authors' program, which judges the moved noise with parameters that have been updated since; here
the same parameters judge both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.builder import Builder
from jaxsamplers.learn.objectives import squared
from jaxsamplers.learn.pairs import Pairs

if TYPE_CHECKING:
    import optax
    from jaxtyping import Array, Float, Key, PyTree

    from jaxsamplers.learn.objectives import Distance
    from jaxsamplers.learn.parameters import Parameters

    PerSample = Float[Array, " batch"]

RADIUS = 1e-3  # times the numbers of a sample over the squared number of steps
RATE = 6.0  # of a noise's step, over the number of steps
TIMES_RATE, NETWORK_TIMES_RATE = 5e-3, 0.1


def ld3(
    build: Builder,
    model: Model,
    pairs: Pairs,
    *,
    steps: int,
    radius: float | None = None,
    rate: float | None = None,
    distance: Distance = squared,
) -> LD3:
    """The soft teacher's loss, for ``fit``; ``radius=0`` is the hard teacher's, ``js.learn.endpoint``.

    It costs a forward pass of the student more than the hard one, and the memory of all noises.

    Args:
        build: parameters -> sampler; any parts may be learned.
        model: the denoiser.
        pairs: all noises and goals there are; batches must be of these, by ``js.learn.batches(pairs, size)``.
        steps: of the student, from which the defaults follow.
        radius: how far a noise may be moved, in the norm of a whole sample; ``d / (1000 steps^2)`` by default for
            samples of ``d`` numbers, which is some thousandth of the noise's own norm.
        rate: of the noise's gradient steps; ``6 / steps`` by default.
        distance: of two batches of samples; the paper's is LPIPS, see ``js.learn.features``.

    Raises:
        ValueError: a radius or a rate below 0.
    """
    checks.integer("steps", steps, low=1)
    numbers = sum(math.prod(jnp.shape(leaf)[1:]) for leaf in jax.tree.leaves(pairs.x))
    radius = RADIUS * numbers / steps**2 if radius is None else radius
    rate = RATE / steps if rate is None else rate
    checks.within("radius", radius, 0.0)
    checks.within("rate", rate, 0.0)
    return LD3(build, as_pytree(model), pairs.x, jnp.asarray(radius), jnp.asarray(rate), as_pytree(distance))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LD3:
    """See ``ld3``. What is carried are the offsets of all noises, ``[count, ...]``."""

    build: Builder
    model: Model
    x: PyTree
    radius: Float[Array, ""]
    rate: Float[Array, ""]
    distance: Distance

    def carried(self) -> PyTree:
        """No noise is moved in the beginning."""
        return jax.tree.map(jnp.zeros_like, self.x)

    def each(self, parameters: Parameters, offset: PyTree, batch: Pairs, key: Key[Array, ""] | None) -> PerSample:
        """How far each sample, from its moved noise, is from its goal."""
        x = jax.tree.map(jnp.add, batch.x, offset)
        return self.distance(self.build.sample(parameters, self.model, x, key), batch.goal)

    def value_and_grad(
        self, parameters: Parameters, batch: Pairs, key: Key[Array, ""] | None, carried: PyTree
    ) -> tuple[Float[Array, ""], Parameters, PyTree]:
        """Mean loss, its gradient, and the offsets after one step of those in the batch."""

        def total(parameters: Parameters, offset: PyTree) -> tuple[Array, PerSample]:
            before = self.each(parameters, offset, batch, key)
            return before.sum(), before

        offset = jax.tree.map(lambda leaf: leaf[batch.which], carried)
        (loss, before), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(parameters, offset)
        gradient, slope = slopes
        moved = project(jax.tree.map(lambda o, s: o - self.rate * s, offset, slope), self.radius)
        closer = self.each(parameters, moved, batch, key) < before
        kept = jax.tree.map(lambda new, old: jnp.where(_spread(closer, new), new, old), moved, offset)
        carried = jax.tree.map(lambda all, some: all.at[batch.which].set(some), carried, kept)
        count = len(before)
        return loss / count, jax.tree.map(lambda leaf: leaf / count, gradient), carried


def project(offset: PyTree, radius: Float[Array, ""]) -> PyTree:
    """Each sample's offset, ``[batch, ...]``, brought back into the ball of this radius."""
    norm = jnp.sqrt(sum((leaf**2).reshape(len(leaf), -1).sum(axis=1) for leaf in jax.tree.leaves(offset)))
    shrink = jnp.where(norm > radius, radius / jnp.where(norm > 0, norm, 1.0), 1.0)
    return jax.tree.map(lambda leaf: leaf * _spread(shrink, leaf).astype(leaf.dtype), offset)


@functools.cache
def ld3_optimizer(steps: int, both_from: int = 0) -> optax.GradientTransformation:
    """The authors' optimiser for schedule and network times; each of the two has its gradient clipped at norm 1.

    RMSprop of rate 0.005 and momentum 0.9 for the schedule, plain gradient descent of rate ``0.1 / steps`` for the
    network times; everything else stays. The authors' rule for both rates is ``js.learn.Plateau(5, 0.8, 5)``. One
    object for equal arguments.

    Args:
        steps: of the student.
        both_from: the gradient step from which network times are learned; the schedule alone before.

    Raises:
        ValueError: numbers below 1, or ``both_from`` below 0.
    """
    import optax

    checks.integer("steps", steps, low=1)
    checks.integer("both_from", both_from, low=0)
    times = optax.rmsprop(TIMES_RATE, decay=0.99, eps=1e-8, eps_in_sqrt=False, momentum=0.9)
    late = optax.sgd(lambda count: jnp.where(count < both_from, 0.0, NETWORK_TIMES_RATE / steps))
    parts = {
        "gaps": optax.chain(optax.clip_by_global_norm(1.0), times),
        "network_times": optax.chain(optax.clip_by_global_norm(1.0), late),
        "kept": optax.set_to_zero(),
    }

    def labels(learned: dict[str, Any]) -> dict[str, str]:
        return {name: name if name in parts else "kept" for name in learned}

    return optax.multi_transform(parts, labels)


def _spread(each: Array, like: Array) -> Array:
    return each.reshape(each.shape + (1,) * (like.ndim - 1))
