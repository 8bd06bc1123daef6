"""Consistency models as denoisers: a skip connection that makes the answer at the boundary the input itself.

A consistency function ``f`` maps every point of a trajectory of the flow to where it ends, at ``t_min``; a network is
given that boundary condition by construction,

    f(x, t) = skip(t) x + out(t) F(x, t)        skip(t_min) = 1,  out(t_min) = 0

The results are pytrees ``(x, t, **extra) -> x0``, and go wherever a denoiser goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxsamplers import checks
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.processes import expand
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree


def consistency_model(network: Callable[..., Any], *, sigma_data: float = 0.5, sigma_min: float = 0.002) -> Partial:
    """Song et al.'s consistency model, for ``processes.edm``: the network, its input and its output scaled.

    Args:
        network: ``(c_in x, c_noise, **extra) -> F`` with ``c_in = (t^2 + sigma_data^2)^{-1/2}`` and
            ``c_noise = log(t) / 4`` (their code shows it a thousand times that).
        sigma_data: standard deviation of the data.
        sigma_min: noise level of the boundary; 0 gives the preconditioning of Karras et al. 2022 (arXiv 2206.00364).

    Raises:
        ValueError: a ``sigma_data`` that is not positive, or a negative ``sigma_min``.
    Source: Song et al. 2023 (arXiv 2303.01469), appendix C.
    """
    checks.within("sigma_data", sigma_data, 0.0, above=True)
    checks.within("sigma_min", sigma_min, 0.0)
    return Partial(_scaled, as_pytree(network), sigma_data, sigma_min)


def latent_consistency_model(
    denoiser: Callable[..., Any],
    *,
    time: Callable[..., Any] = lambda t: 1000 * t - 1,
    sigma_data: float = 0.5,
    timestep_scaling: float = 10.0,
) -> Partial:
    """A latent consistency model from its denoiser; the skip differs from 0 only at the very first of its timesteps.

    Args:
        denoiser: the estimate that the distilled network implies, as ``denoiser(...)`` makes it.
        time: the timestep as a function of the process's time; the indices of ``from_betas`` of 1000 by default.
        sigma_data: scale in the skip connection.
        timestep_scaling: factor on the timestep there.

    Raises:
        ValueError: a scale that is not positive.
    Source: Luo et al. 2023 (arXiv 2310.04378); diffusers' ``LCMScheduler``.
    """
    checks.within("sigma_data", sigma_data, 0.0, above=True)
    checks.within("timestep_scaling", timestep_scaling, 0.0, above=True)
    return Partial(_skipped, as_pytree(denoiser), as_pytree(time), sigma_data, timestep_scaling)


def _scaled(
    network: Callable[..., Any], sigma_data: float, sigma_min: float, x: PyTree, t: Array, **extra: Any
) -> PyTree:
    t = jnp.asarray(t)
    spread = jnp.sqrt(t**2 + sigma_data**2)
    scaled = jax.tree.map(lambda leaf: leaf / expand(spread, leaf).astype(leaf.dtype), x)
    output = conform(network(scaled, jnp.log(t) / 4, **extra), x)
    above = t - sigma_min
    return _skip(sigma_data**2 / (above**2 + sigma_data**2), sigma_data * above / spread, x, output)


def _skipped(
    denoiser: Callable[..., Any],
    time: Callable[..., Any],
    sigma_data: float,
    timestep_scaling: float,
    x: PyTree,
    t: Array,
    **extra: Any,
) -> PyTree:
    shown = timestep_scaling * jnp.asarray(time(t))
    squared = shown**2 + sigma_data**2
    return _skip(sigma_data**2 / squared, shown / jnp.sqrt(squared), x, conform(denoiser(x, t, **extra), x))


def _skip(skip: Array, out: Array, x: PyTree, output: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf, y: expand(skip, leaf).astype(leaf.dtype) * leaf + expand(out, leaf).astype(leaf.dtype) * y,
        x,
        output,
    )
