"""Guidance with a memory: it follows a running sum of the differences ``c - u`` instead of the last one.

    d' = (c - u) + beta d,    then as before with u = c - d'

``beta`` below 0 takes away what the guidance keeps repeating from row to row, so that new directions count for more.

Source: Sadat, Hilliges & Weber 2024 (arXiv 2410.02416), together with ``projected``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.guidance.guided import Guided

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree


def momentum(guided: Guided, beta: float = -0.5) -> Momentum:
    """Guidance along a running sum of differences; a model with a memory, for ``js.remembering(sampler)``.

    Args:
        guided: what guides without a memory.
        beta: the paper's choices lie from -0.75 to 0.

    Raises:
        ValueError: ``beta`` outside [-1, 1].
    """
    checks.within("beta", beta, -1.0, 1.0)
    return Momentum(guided, beta)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Momentum:
    """A guided denoiser whose memory is the running sum of differences."""

    guided: Guided
    beta: float

    def __call__(
        self, x: PyTree, t: Array, *, memory: PyTree, scale: Array | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        """The estimate and the new memory."""
        positive, negative = self.guided.branches(x, t, **extra)
        total = jax.tree.map(lambda c, u, d: c - u + self.beta * d, positive, negative, memory)
        negative = jax.tree.map(jnp.subtract, positive, total)
        return self.guided.mix(positive, negative, scale, x, t), total
