"""The coarse structure of one sample with the details of another: an estimate projected onto a reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.processes import expand

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree


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
