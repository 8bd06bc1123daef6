"""Numbers of k-diffusion (0.1.1.post1): its samplers on its own noise levels, and those levels.

    python -m tests.reference.make_k_diffusion

needs torch, torchsde, torchdiffeq, scipy and k-diffusion. Its package imports training code at once, and with it
torchvision, scikit-image and more; only ``k_diffusion.sampling`` is run here, so the package is entered without its
``__init__`` and the modules that its ``utils`` merely names are empty ones. Everything is in float64.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from unittest import mock

import numpy as np
import torch

from tests.reference import problem

STEPS = (5, 8, 10, 20)
LOW, HIGH = 0.03, 15.0


def load():
    """``k_diffusion.sampling`` alone."""
    package = ModuleType("k_diffusion")
    package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
    sys.modules["k_diffusion"] = package
    unused = ("PIL", "PIL.Image", "safetensors", "torchvision", "torchvision.transforms")
    for name in unused:
        stub = ModuleType(name)
        stub.Image = stub.functional = stub
        sys.modules.setdefault(name, stub)
    return importlib.import_module("k_diffusion.sampling")


def model(x, sigma):
    """The exact denoiser."""
    return torch.from_numpy(problem.denoise(x.numpy(), 1.0, float(sigma[0])))


class Draws:
    """``NOISE``, one after another, whatever asks for it."""

    def __init__(self):
        self.count = 0

    def __call__(self, *_):
        self.count += 1
        return torch.from_numpy(problem.NOISE[self.count - 1])


def correlation(sampling, levels):
    """Of its own noise over the first half of a step with its noise over the whole: 40000 draws."""
    sigma, half, to = levels
    noise = sampling.BrownianTreeNoiseSampler(torch.zeros(40000), LOW, HIGH, seed=0)
    return float(torch.corrcoef(torch.stack([noise(sigma, half), noise(sigma, to)]))[0, 1])


def main():
    torch.set_default_dtype(torch.float64)
    sampling = load()
    results = {}

    churned = {"s_churn": 4.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.01}
    everywhere = {"s_churn": 3.0}  # the first step too
    runs = {
        "euler": {},
        "euler-churn": churned,
        "heun": {},
        "heun-churn": churned,
        "heun-churn-all": everywhere,
        "dpm_2": {},
        "dpm_2-churn": churned,
        "lms": {},
        "euler_ancestral": {"eta": 0.7, "s_noise": 1.02},
        "dpm_2_ancestral": {},
        "dpm_2_ancestral-eta": {"eta": 0.7, "s_noise": 1.02},
        "dpmpp_2s_ancestral": {},
        "dpmpp_2s_ancestral-eta": {"eta": 0.7, "s_noise": 1.02},
        "dpmpp_sde": {},
        "dpmpp_sde-eta": {"eta": 0.7, "s_noise": 1.02},
        "dpmpp_2m": {},
        "dpmpp_2m_sde": {},
        "dpmpp_2m_sde-heun": {"solver_type": "heun", "eta": 0.5, "s_noise": 1.02},
        "dpmpp_3m_sde": {},
    }
    for steps in STEPS:
        sigmas = sampling.get_sigmas_karras(steps, LOW, HIGH)
        start = torch.from_numpy(problem.STARTS) * HIGH
        results[f"karras-{steps}"] = sigmas.numpy()
        results[f"exponential-{steps}"] = sampling.get_sigmas_exponential(steps, LOW, HIGH).numpy()
        results[f"polyexponential-{steps}"] = sampling.get_sigmas_polyexponential(steps, LOW, HIGH, rho=1.5).numpy()
        results[f"vp-{steps}"] = sampling.get_sigmas_vp(steps).numpy()
        for name, options in runs.items():
            sampler = getattr(sampling, f"sample_{name.partition('-')[0]}")
            draws = Draws()
            takes = inspect.signature(sampler).parameters
            given = {**options, "noise_sampler": draws} if "noise_sampler" in takes else options
            with mock.patch.object(sampling.torch, "randn_like", draws):
                results[f"{name}-{steps}"] = sampler(model, start, sigmas, disable=True, **given).numpy()
        results[f"dpm_fast-{steps}"] = sampling.sample_dpm_fast(model, start, LOW, HIGH, steps, disable=True).numpy()
    levels = np.array([[3.0, 1.5, 0.75], [1.0, 0.3, 0.09]])  # the middle one half-way in log sigma
    results["levels"] = levels
    results["correlation"] = np.array([correlation(sampling, step) for step in levels])
    problem.save(
        "k_diffusion", results, ["k-diffusion", "torch", "scipy"], "python -m tests.reference.make_k_diffusion"
    )


if __name__ == "__main__":
    main()
