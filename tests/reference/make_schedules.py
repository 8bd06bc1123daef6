"""Noise levels and table entries of other programs' schedules: ``schedules.npz``.

    python -m tests.reference.make_schedules PATH

where PATH is a copy of github.com/Comfy-Org/ComfyUI (here commit a125cd84), whose functions are run from its files
without importing the rest of it. k-diffusion and diffusers are run from their packages. Their tables are in float64,
but diffusers and ComfyUI round what they return to float32. Every key is ``<program>_<schedule>_<steps>``.
"""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import scipy.stats
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from diffusers.schedulers import AysSchedules

from tests.reference import problem
from tests.reference.make_k_diffusion import load

STEPS = (5, 8, 10, 20, 30)
LOW, HIGH = 0.03, 15.0
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
SQUARES = np.cumprod(1 - BETAS)
LEVELS = np.sqrt((1 - SQUARES) / SQUARES)
TOKENS = (256, 1024, 4096)


def k_diffusion():
    """Levels between ``LOW`` and ``HIGH``, and the 0 that it appends."""
    torch.set_default_dtype(torch.float64)
    sampling = load()
    for n in STEPS:
        yield f"karras_{n}", sampling.get_sigmas_karras(n, LOW, HIGH, rho=5.0)
        yield f"exponential_{n}", sampling.get_sigmas_exponential(n, LOW, HIGH)
        yield f"polyexponential_{n}", sampling.get_sigmas_polyexponential(n, LOW, HIGH, rho=2.0)
        yield f"vp_{n}", sampling.get_sigmas_vp(n)
    torch.set_default_dtype(torch.float32)


def diffusers():
    """Levels of its Euler scheduler, entries of the table that others ask for, and what its pipelines give flows."""
    common = {"trained_betas": BETAS, "num_train_timesteps": len(BETAS)}
    for n in STEPS:
        for name in ("karras", "exponential", "beta"):
            scheduler = EulerDiscreteScheduler(**common, **{f"use_{name}_sigmas": True})
            scheduler.alphas_cumprod = torch.from_numpy(SQUARES)
            scheduler.set_timesteps(n)
            yield f"{name}_{n}", scheduler.sigmas
        for spacing in ("linspace", "leading", "trailing"):
            scheduler = DDIMScheduler(**common, timestep_spacing=spacing)
            scheduler.set_timesteps(n)
            yield f"{spacing}_{n}", scheduler.timesteps
        scheduler = DDIMScheduler(**common, timestep_spacing="leading", steps_offset=1)
        scheduler.set_timesteps(n)
        yield f"leading_offset_{n}", scheduler.timesteps
        scheduler = EulerDiscreteScheduler(**common, timestep_spacing="linspace")
        scheduler.set_timesteps(n)
        yield f"normal_{n}", scheduler.timesteps
        scheduler = DPMSolverMultistepScheduler(**common, timestep_spacing="linspace")
        scheduler.set_timesteps(n)
        yield f"sgm_uniform_{n}", scheduler.timesteps  # rounded
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / n, n))
        yield f"flow_shift_{n}", scheduler.sigmas
        yield f"linear_quadratic_{n}", torch.tensor(linear_quadratic_schedule(n, 0.025))
    for tokens in TOKENS:
        scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10), mu=calculate_shift(tokens))
        yield f"resolution_{tokens}", scheduler.sigmas
    yield "sd15_10", torch.tensor(AysSchedules["StableDiffusionSigmas"])
    yield "sdxl_10", torch.tensor(AysSchedules["StableDiffusionXLSigmas"])
    yield "svd_10", torch.tensor(AysSchedules["StableDiffusionVideoSigmas"])


def comfyui(folder):
    """Levels on Stable Diffusion's table; those of ``laplace`` between ``LOW`` and ``HIGH``."""
    samplers = functions(folder / "comfy/samplers.py")
    laplace = functions(folder / "comfy/k_diffusion/sampling.py")["get_sigmas_laplace"]
    logs = np.log(LEVELS)
    table = SimpleNamespace(
        sigmas=torch.from_numpy(LEVELS),
        sigma_min=torch.tensor(LEVELS[0]),
        sigma_max=torch.tensor(LEVELS[-1]),
        timestep=lambda level: torch.tensor(float(np.abs(logs - np.log(float(level))).argmin())),
        sigma=lambda index: torch.tensor(np.exp(np.interp(float(index), np.arange(len(logs)), logs))),
    )
    aligned = functions(folder / "comfy_extras/nodes_align_your_steps.py")
    gits = functions(folder / "comfy_extras/nodes_gits.py")
    for n in STEPS:
        yield f"simple_{n}", samplers["simple_scheduler"](table, n)
        yield f"ddim_uniform_{n}", samplers["ddim_scheduler"](table, n)
        yield f"normal_{n}", samplers["normal_scheduler"](table, n)
        yield f"sgm_uniform_{n}", samplers["normal_scheduler"](table, n, sgm=True)
        yield f"beta_{n}", samplers["beta_scheduler"](table, n)
        yield f"kl_optimal_{n}", samplers["kl_optimal_scheduler"](n, LEVELS[0], LEVELS[-1])
        yield f"laplace_{n}", laplace(n, LOW, HIGH)
        for name, model in (("SD1", "sd15"), ("SDXL", "sdxl"), ("SVD", "svd")):
            yield f"{model}_{n}", torch.tensor(aligned["loglinear_interp"](aligned["NOISE_LEVELS"][name], n + 1))
        table_of = gits["NOISE_LEVELS"][1.2]
        levels = table_of[n - 2] if n <= 20 else gits["loglinear_interp"](table_of[-1], n + 1)
        yield f"gits_{n}", torch.tensor(levels)


def functions(path):
    """The functions and constants of a module, without its imports, classes and decorators."""
    body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef | ast.Assign)]
    names = {"torch": torch, "math": math, "numpy": np, "np": np, "scipy": scipy}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            for argument in node.args.args:
                argument.annotation = None
        elif not isinstance(node.value, ast.Dict):
            continue
        try:
            exec(compile(ast.fix_missing_locations(ast.Module([node], [])), str(path), "exec"), names)
        except NameError:
            continue  # a table or a default that needs the rest of the program
    return names


if __name__ == "__main__":
    results = {}
    sources = {"k_diffusion": k_diffusion(), "diffusers": diffusers(), "comfyui": comfyui(Path(sys.argv[1]))}
    for program, arrays in sources.items():
        results |= {f"{program}_{key}": value.numpy() for key, value in arrays}
    packages = ["k-diffusion", "diffusers", "torch", "scipy"]
    problem.save("schedules", results, packages, "python -m tests.reference.make_schedules PATH")
