"""Where one step of a first-order solver is a straight line: the coordinates that AMED and PAS are written in.

With ``y = x / scale`` and ``tau`` in the place of time the probability flow is, for both choices of the scale,

    dy/dtau = (y - m) / tau        m the network's estimate of the data

    "edm"     scale = alpha,            tau = sigma / alpha                the slope is the noise
    "flow"    scale = alpha + sigma,    tau = sigma / (alpha + sigma)      the slope is the velocity, noise - data

DDIM's step is Euler's in either. The first is the literature's; the second exists for pure noise, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.learn.dynamic import COORDINATES
from jaxsamplers.processes import Process

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    Times = Float[Array, "..."]


def chosen(process: Process, times: Float[Array, " n+1"], coordinate: str | None) -> str:
    """``coordinate``, or "edm" where the first time has signal and "flow" where it has none.

    Raises:
        ValueError: an unknown one, or "edm" where the first time is pure noise.
    """
    noise = checks.is_zero(process.alpha(times[0]))
    coordinate = ("flow" if noise else "edm") if coordinate is None else coordinate
    checks.one_of("coordinate", coordinate, COORDINATES)
    if coordinate == "edm" and noise:
        raise ValueError('the first time is pure noise, where sigma / alpha is infinite: use coordinate="flow"')
    return coordinate


def straight(process: Process, t: Times, coordinate: str) -> tuple[Times, Times]:
    """``scale`` and ``tau`` at ``t``, elementwise."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    scale = alpha if coordinate == "edm" else alpha + sigma
    return scale, sigma / scale


def time_of(process: Process, tau: Times, coordinate: str) -> Times:
    """The time at which ``tau`` is this, elementwise."""
    ratio = tau if coordinate == "edm" else tau / (1 - tau)
    return process.time(-jnp.log(ratio))
