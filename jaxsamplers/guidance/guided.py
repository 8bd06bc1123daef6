"""Guidance by two answers of a network: away from the weak one, ``m = c + (w - 1) (c - u)``.

``c`` is the estimate that is wanted (under the condition, or of the better network), ``u`` the one to move away from
(under the null condition, or of a worse network). ``w = 1`` is ``c`` itself, to the last bit. Estimates, noises, scores
and velocities at one ``(x, t)`` are affine in each other, so the rule is the same for all; here it acts on estimates.

A ``Guided`` is a denoiser, and a pytree: its scale, conditions and weights are leaves. It is three parts, each of which
the other functions of this package replace: the branches that answer ``(c, u)``, the scale, and how they are combined.

Sources: Ho & Salimans 2022, Classifier-free diffusion guidance (arXiv 2207.12598), eq. 6, there with ``w - 1``; Karras
et al. 2024, Guiding a diffusion model with a bad version of itself (arXiv 2406.02507), eq. 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.processes import expand, same_structure
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PyTree

    Scale = float | Float[Array, ""] | Float[Array, " batch"] | Callable[[Array], Array]


class Branches(Protocol):
    """The two answers."""

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> tuple[PyTree, PyTree]:
        """``(c, u)``."""

    def positive(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """``c`` alone, at the cost of one branch."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guided:
    """A guided denoiser; see the module's docstring.

    Attributes:
        branches: what answers ``(c, u)``.
        scale: ``(t, given) -> w``, where ``given`` is the row's own scale or ``None``.
        combine: ``(c, u, w, x, t) -> estimate``.
    """

    branches: Branches
    scale: Callable[..., Any]
    combine: Callable[..., PyTree]

    def __call__(self, x: PyTree, t: Array, *, scale: Array | None = None, **extra: Any) -> PyTree:
        """The guided estimate; a ``scale`` in the sampler's row (``js.with_extra``) goes before the guide's own."""
        return self.mix(*self.branches(x, t, **extra), scale, x, t)

    def mix(self, positive: PyTree, negative: PyTree, scale: Array | None, x: PyTree, t: Array) -> PyTree:
        """The combination of two answers."""
        return self.combine(positive, negative, self.scale(t, scale), x, t)


def classifier_free(
    model: Model, condition: Mapping[str, PyTree], null: Mapping[str, PyTree], scale: Scale | None = None
) -> Guided:
    """Classifier-free guidance by one network, in one call of twice the batch.

    Args:
        model: a denoiser that takes the condition as keyword arguments.
        condition: those arguments, each an array ``[batch, ...]`` or a pytree of them.
        null: the same keywords for "no condition" (or a negative prompt); anything that broadcasts to them.
        scale: ``w``: a number, one a sample, or a function of time; 1 is the plain conditional model. One a row rides
            in the sampler, ``js.with_extra(sampler, scale=array)``, and goes before this one.

    Raises:
        ValueError: a null condition with other keywords or structure, a scale that is no number; when called, a
            condition of another batch size than ``x``, or no scale at all.
    """
    condition, null = dict(condition), dict(null)
    if not same_structure(condition, null):
        raise ValueError(f"null must have the keywords and structure of condition {condition}, got {null}")
    return Guided(_OneNetwork(as_pytree(model), condition, null), _scale(scale), Partial(_extrapolate))


def autoguidance(model: Model, weak: Model, scale: Scale | None = None) -> Guided:
    """Guidance by a second denoiser, in two calls: a smaller, less trained, perturbed or unconditional network.

    Args:
        model: the denoiser that is wanted.
        weak: the one to move away from; ``conditional`` gives both the condition.
        scale: as in ``classifier_free``.

    Raises:
        ValueError: a scale that is no number; when called, no scale at all.
    """
    return Guided(_TwoNetworks(as_pytree(model), as_pytree(weak)), _scale(scale), Partial(_extrapolate))


def conditional(model: Model, condition: Mapping[str, PyTree]) -> Conditional:
    """The denoiser with its condition: keyword arguments, each an array ``[batch, ...]`` or a pytree of them."""
    return Conditional(as_pytree(model), dict(condition))


def unguided(guided: Guided) -> Unguided:
    """The wanted branch alone, at its own cost; for the rows of a sampler that need no guidance."""
    return Unguided(guided.branches)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditional:
    """A denoiser with keyword arguments given once."""

    model: Model
    condition: dict[str, PyTree]

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        """The estimate under the condition."""
        return self.model(x, t, **self.condition, **extra)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unguided:
    """The wanted branch of a guided denoiser."""

    branches: Branches

    def __call__(self, x: PyTree, t: Array, *, scale: Array | None = None, **extra: Any) -> PyTree:
        """``c``; a scale in the row is not read."""
        return self.branches.positive(x, t, **extra)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _OneNetwork:
    model: Model
    condition: dict[str, PyTree]
    null: dict[str, PyTree]

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> tuple[PyTree, PyTree]:
        batch = jax.tree.leaves(x)[0].shape[0]
        both = jax.tree.map(_zipped, x, x)
        condition = jax.tree.map(lambda c, n: _against(jnp.asarray(c), n, batch), self.condition, self.null)
        answer = conform(self.model(both, t if jnp.ndim(t) == 0 else _zipped(t, t), **condition, **extra), both)
        pairs = jax.tree.map(lambda m: m.reshape(batch, 2, *m.shape[1:]), answer)
        return jax.tree.map(lambda m: m[:, 0], pairs), jax.tree.map(lambda m: m[:, 1], pairs)

    def positive(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        return conform(self.model(x, t, **self.condition, **extra), x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _TwoNetworks:
    model: Model
    weak: Model

    def __call__(self, x: PyTree, t: Array, **extra: Any) -> tuple[PyTree, PyTree]:
        return self.positive(x, t, **extra), conform(self.weak(x, t, **extra), x)

    def positive(self, x: PyTree, t: Array, **extra: Any) -> PyTree:
        return conform(self.model(x, t, **extra), x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Scale:
    value: Any

    def __call__(self, t: Array, given: Array | None) -> Array:
        if given is None and self.value is None:
            raise ValueError("guidance needs a scale: give scale=, or one a row with js.with_extra(sampler, scale=...)")
        if given is not None:
            return given
        return self.value(t) if callable(self.value) else jnp.asarray(self.value)


def _scale(value: Scale | None) -> _Scale:
    if value is None or callable(value):
        return _Scale(None if value is None else as_pytree(value))
    checks.within("scale", value, -np.inf)
    return _Scale(value)


def _extrapolate(positive: PyTree, negative: PyTree, scale: Array, x: PyTree, t: Array) -> PyTree:
    return jax.tree.map(lambda c, u: c + expand(scale - 1, c).astype(c.dtype) * (c - u), positive, negative)


def _zipped(a: Array, b: Array) -> Array:
    """``a[0], b[0], a[1], b[1], ...``: on a mesh both stay where their sample is; concatenated, they would travel."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _against(condition: Array, null: Any, batch: int) -> Array:
    if condition.ndim == 0 or condition.shape[0] != batch:
        raise ValueError(f"the condition must have the batch size of x, {batch}, got shape {condition.shape}")
    null = jnp.where(jnp.zeros_like(condition, bool), condition, jnp.asarray(null, condition.dtype))  # and its sharding
    return _zipped(condition, null)
