"""Sampling schedules: the ``steps + 1`` decreasing times ``t_0 > ... > t_N`` that a sampler visits.

Each is a pure function ``(process, steps, *, t_start, t_end, ...) -> times``, differentiable in the times it starts and
ends at and in its numbers; a schedule from anywhere else is just as good. The ends are those of the process by default,
and exact. Many pipelines take their last step to the clean end from wherever the schedule ends: ``jnp.append(times,
0.0)``, one step more, or ``t_end=0`` where the schedule can end there.

``rho = sigma / alpha`` is the noise level in the scaling where the signal is 1 (EDM's sigma). ``python -m jaxsamplers
schedules`` draws them all; ``docs/schedules.md`` says which is whose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxsamplers.schedules.equal import (
    arctan_uniform,
    cosine,
    exponential,
    half_log_snr,
    karras,
    kl_optimal,
    polyexponential,
    quadratic,
    sigmoid,
    uniform,
    vp,
)
from jaxsamplers.schedules.flow import flow_shift, linear_quadratic, resolution_factor, shift
from jaxsamplers.schedules.grid import interpolate, validate
from jaxsamplers.schedules.published import align_your_steps, gits
from jaxsamplers.schedules.quantiles import beta, laplace
from jaxsamplers.schedules.tables import ddim_uniform, leading, linspace, normal, sgm_uniform, simple, trailing

if TYPE_CHECKING:
    from jaxsamplers.schedules.grid import Times

registry: dict[str, Callable[..., Times]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "half_log_snr": half_log_snr,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "karras": karras,
    "vp": vp,
    "cosine": cosine,
    "kl_optimal": kl_optimal,
    "arctan_uniform": arctan_uniform,
    "sigmoid": sigmoid,
    "laplace": laplace,
    "beta": beta,
    "flow_shift": flow_shift,
    "linear_quadratic": linear_quadratic,
    "normal": normal,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "linspace": linspace,
    "trailing": trailing,
    "leading": leading,
    "ddim_uniform": ddim_uniform,
    "align_your_steps": align_your_steps,
    "gits": gits,
}

__all__ = [*registry, "interpolate", "registry", "resolution_factor", "shift", "validate"]
