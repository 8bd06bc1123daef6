"""Noise levels that were optimised for particular networks and published as tables.

The levels between the ends are the published ones, as ``sigma / alpha``, on any process that has them; the two ends are
the times asked for, by default those of the process, which for the published network are the table's own. Other
lengths are read off the logarithm of the table, as Align your steps does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.schedules.grid import ends, resample, validate

if TYPE_CHECKING:
    from jaxsamplers.processes import Process
    from jaxsamplers.schedules.grid import Times

ALIGNED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd_if": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
GITS_CIFAR10 = (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002)
GITS_SD15 = (  # between the ends, in hundredths of the index into Stable Diffusion's table; for 2 to 20 steps
    (29,),
    (49, 18),
    (61, 33, 11),
    (66, 42, 21, 6),
    (83, 57, 34, 15, 3),
    (83, 62, 42, 23, 8, 1),
    (83, 62, 45, 29, 15, 6, 1),
    (83, 66, 50, 34, 21, 11, 4, 1),
    (83, 66, 51, 38, 27, 17, 9, 4, 1),
    (83, 67, 54, 42, 30, 21, 13, 7, 3, 1),
    (83, 68, 56, 45, 34, 25, 17, 11, 6, 3, 1),
    (86, 71, 61, 49, 38, 29, 21, 15, 10, 6, 3, 1),
    (86, 71, 62, 50, 40, 31, 23, 17, 12, 8, 5, 3, 1),
    (88, 78, 68, 58, 48, 38, 30, 23, 17, 12, 8, 5, 3, 1),
    (88, 78, 68, 58, 48, 38, 30, 23, 17, 13, 9, 6, 4, 2, 1),
    (88, 78, 68, 58, 48, 38, 30, 23, 17, 13, 10, 7, 5, 3, 2, 1),
    (88, 78, 68, 59, 50, 41, 33, 26, 20, 15, 11, 8, 6, 4, 3, 2, 1),
    (88, 78, 68, 59, 50, 42, 34, 27, 21, 16, 12, 9, 7, 5, 4, 3, 2, 1),
    (88, 78, 68, 59, 50, 42, 34, 27, 21, 17, 13, 10, 8, 6, 5, 4, 3, 2, 1),
)


def align_your_steps(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    model: str = "sd15",
) -> Times:
    """Levels that minimise a bound on the divergence of a network's samples, ten steps by ten by coordinate search.

    Args:
        process: the levels are ``sigma / alpha`` on it.
        steps: the tables have 10.
        t_start: ``t_max`` by default.
        t_end: ``t_min`` by default.
        model: ``"sd15"``, ``"sdxl"``, ``"deepfloyd_if"`` (its first stage) or ``"svd"``.

    Raises:
        ValueError: an unknown model, levels that the process does not have between its ends.
    Source: Sabour et al. 2024, Align your steps (arXiv 2404.14507) and its project page. ComfyUI and diffusers put 0
        for the last level; ``t_end=0`` does.
    """
    checks.integer("steps", steps, low=1)
    table = jnp.asarray(checks.look_up("model", model, ALIGNED))
    return _levels(
        process, t_start, t_end, jnp.exp(resample(jnp.log(table), steps))[1:-1], f"align_your_steps for {model}"
    )


def gits(
    process: Process,
    steps: int,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    model: str = "sd15",
) -> Times:
    """Levels that a dynamic program chose from a fine teacher's so that straight steps leave its path the least.

    Args:
        process: the levels are ``sigma / alpha`` on it.
        steps: there are tables of 2 to 20 for ``"sd15"`` and of 6 for ``"cifar10"``; other lengths are read off the
            longest.
        t_start: ``t_max`` by default.
        t_end: ``t_min`` by default.
        model: ``"sd15"`` (with the coefficient 1.2, which the authors give for it) or ``"cifar10"`` (EDM's).

    Raises:
        ValueError: an unknown model, levels that the process does not have between its ends.
    Source: Chen et al. 2024, On the trajectory regularity of ODE-based diffusion sampling (arXiv 2405.11326);
        the tables from their code and from their node in ComfyUI.
    """
    checks.integer("steps", steps, low=1)
    checks.one_of("model", model, ("sd15", "cifar10"))
    if model == "cifar10":
        table = np.array(GITS_CIFAR10)
    else:
        chosen = GITS_SD15[steps - 2] if 2 <= steps <= 20 else GITS_SD15[-1]
        table = _stable_diffusion(9.99 * np.array([100, *chosen, 0]))
    levels = jnp.exp(resample(jnp.log(jnp.asarray(table)), steps))
    return _levels(process, t_start, t_end, levels[1:-1], f"gits for {model}")


def _levels(process: Process, t_start: float | None, t_end: float | None, inner: Times, name: str) -> Times:
    """A schedule through these noise levels, which must lie between its ends."""
    start, end = ends(process, t_start, t_end)
    known = checks.concrete(jnp.exp(-process.half_log_snr(jnp.stack([start, end]))))
    if known is not None and len(inner) and not (known[1] < inner[-1] and inner[0] < known[0]):
        raise ValueError(
            f"{name} falls from {inner[0]:.4g} to {inner[-1]:.4g} between its ends, but sigma / alpha of this process "
            f"only from {known[0]:.4g} to {known[1]:.4g} (t_start={start:g}, t_end={end:g})"
        )
    return validate(process, jnp.concatenate([start[None], process.time(-jnp.log(inner)), end[None]]))


def _stable_diffusion(index: np.ndarray) -> np.ndarray:
    """``sigma / alpha`` at these places in Stable Diffusion's table of 1000, ``log alpha`` linear in between."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.sqrt(np.expm1(-np.interp(index, np.arange(1000), np.cumsum(np.log1p(-betas)))))
