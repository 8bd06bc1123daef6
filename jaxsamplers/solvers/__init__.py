"""Solvers: pure functions ``(process, times, ...) -> Tableau``, one file a family, one line each in ``registry``."""

from __future__ import annotations

from collections.abc import Callable

from jaxsamplers.solvers.ddim import ddim
from jaxsamplers.solvers.ddpm import ddpm
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp
from jaxsamplers.solvers.runge_kutta import euler, heun
from jaxsamplers.tableau import Tableau

registry: dict[str, Callable[..., Tableau]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler": euler,
    "heun": heun,
    "dpm_solver_pp": dpm_solver_pp,
}

__all__ = ["ddim", "ddpm", "dpm_solver_pp", "euler", "heun", "registry"]
