"""Solvers: pure functions ``(process, times, ...) -> Tableau``, one file a family, one line each in ``registry``."""

from __future__ import annotations

from collections.abc import Callable

from jaxsamplers.solvers.accelerated import accelerated_ddim, accelerated_ddpm
from jaxsamplers.solvers.ancestral import (
    ancestral,
    dpm2_ancestral,
    dpm_solver_pp_singlestep_ancestral,
    dpm_solver_singlestep_ancestral,
)
from jaxsamplers.solvers.consistency import consistency, ddcm, tcd
from jaxsamplers.solvers.ddim import ddim, euler_ancestral, resshift
from jaxsamplers.solvers.ddpm import ddpm
from jaxsamplers.solvers.deis import deis, ipndm, ipndm_v, lms
from jaxsamplers.solvers.deis_rk import deis_rk
from jaxsamplers.solvers.dpm_solver import dpm_solver
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp, sde_dpm_solver_pp
from jaxsamplers.solvers.dpm_solver_v3 import dpm_solver_v3
from jaxsamplers.solvers.dualfast import dualfast
from jaxsamplers.solvers.edm import edm_stochastic
from jaxsamplers.solvers.er_sde import er_sde
from jaxsamplers.solvers.flow_sde import coefficients_preserving, flow_sde
from jaxsamplers.solvers.gradient_estimation import gradient_estimation
from jaxsamplers.solvers.iia import biia_heun, iia_ddim, iia_heun
from jaxsamplers.solvers.learned_variance import ddpm_learned_variance, with_variance
from jaxsamplers.solvers.momentum import ghvb, heavy_ball
from jaxsamplers.solvers.pndm import plms, pndm
from jaxsamplers.solvers.restart import restart
from jaxsamplers.solvers.runge_kutta import euler, heun, midpoint, pseudo_corrector
from jaxsamplers.solvers.sa_solver import sa_solver
from jaxsamplers.solvers.sde_singlestep import sde_dpm_solver_pp_singlestep
from jaxsamplers.solvers.seeds import seeds
from jaxsamplers.solvers.singlestep import dpm2, dpm_solver_pp_singlestep, dpm_solver_singlestep, fast_orders
from jaxsamplers.solvers.successive_refinement import successive_refinement
from jaxsamplers.solvers.unipc import unic, unipc
from jaxsamplers.tableau import Tableau

registry: dict[str, Callable[..., Tableau]] = {
    "ddim": ddim,
    "ddpm": ddpm,
    "euler_ancestral": euler_ancestral,
    "resshift": resshift,
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "pseudo_corrector": pseudo_corrector,
    "dpm_solver": dpm_solver,
    "dpm_solver_pp": dpm_solver_pp,
    "sde_dpm_solver_pp": sde_dpm_solver_pp,
    "dpm_solver_singlestep": dpm_solver_singlestep,
    "dpm_solver_pp_singlestep": dpm_solver_pp_singlestep,
    "edm_stochastic": edm_stochastic,
    "restart": restart,
    "dpm_solver_singlestep_ancestral": dpm_solver_singlestep_ancestral,
    "dpm2": dpm2,
    "dpm2_ancestral": dpm2_ancestral,
    "dpm_solver_pp_singlestep_ancestral": dpm_solver_pp_singlestep_ancestral,
    "sde_dpm_solver_pp_singlestep": sde_dpm_solver_pp_singlestep,
    "unipc": unipc,
    "unic": unic,
    "deis": deis,
    "deis_rk": deis_rk,
    "lms": lms,
    "ipndm": ipndm,
    "ipndm_v": ipndm_v,
    "sa_solver": sa_solver,
    "seeds": seeds,
    "er_sde": er_sde,
    "consistency": consistency,
    "ddcm": ddcm,
    "tcd": tcd,
    "flow_sde": flow_sde,
    "coefficients_preserving": coefficients_preserving,
    "plms": plms,
    "pndm": pndm,
    "ghvb": ghvb,
    "heavy_ball": heavy_ball,
    "gradient_estimation": gradient_estimation,
    "accelerated_ddim": accelerated_ddim,
    "accelerated_ddpm": accelerated_ddpm,
    "dualfast": dualfast,
    "successive_refinement": successive_refinement,
}

__all__ = [
    "accelerated_ddim",
    "accelerated_ddpm",
    "ancestral",
    "biia_heun",
    "coefficients_preserving",
    "consistency",
    "ddcm",
    "ddim",
    "ddpm",
    "ddpm_learned_variance",
    "deis",
    "deis_rk",
    "dpm2",
    "dpm2_ancestral",
    "dpm_solver",
    "dpm_solver_pp",
    "dpm_solver_pp_singlestep",
    "dpm_solver_pp_singlestep_ancestral",
    "dpm_solver_singlestep",
    "dpm_solver_singlestep_ancestral",
    "dpm_solver_v3",
    "dualfast",
    "edm_stochastic",
    "er_sde",
    "euler",
    "euler_ancestral",
    "fast_orders",
    "flow_sde",
    "ghvb",
    "gradient_estimation",
    "heavy_ball",
    "heun",
    "iia_ddim",
    "iia_heun",
    "ipndm",
    "ipndm_v",
    "lms",
    "midpoint",
    "plms",
    "pndm",
    "pseudo_corrector",
    "registry",
    "resshift",
    "restart",
    "sa_solver",
    "sde_dpm_solver_pp",
    "sde_dpm_solver_pp_singlestep",
    "seeds",
    "successive_refinement",
    "tcd",
    "unic",
    "unipc",
    "with_variance",
]
