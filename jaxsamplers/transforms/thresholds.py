"""Estimates kept in the range of the data, for pixels: strong guidance leaves it, where no network was trained.

The static threshold clips to the range. The dynamic one clips to what most of a sample reaches and shrinks that to the
range, so that a sample that saturates everywhere keeps its contrasts. Put either outermost, after guidance.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree


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
