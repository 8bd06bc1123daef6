"""Numbers of the MR sampler and of IR-SDE's posterior sampling, on the mixture drifting to a point.

    python -m tests.reference.make_mean_reverting MR_SAMPLER IMAGE_RESTORATION_SDE

The arguments are checkouts of github.com/grrrute/mr-sampler and github.com/Algolzw/image-restoration-sde, which are no
packages; needs torch, scipy and tqdm. Both work in float32 and the MR sampler clips its result to [0, 1]: neither here.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

from tests.reference import problem

MEAN, STATIONARY, DECAY, STEPS = np.array([0.5, -0.3]), 0.5, 0.005, 100
CALLS = (5, 8, 10, 20)
CASES = {
    "ode_1": ("ode", "data", 1),
    "ode_2": ("ode", "data", 2),
    "ode_3": ("ode", "data", 3),
    "ode_noise_2": ("ode", "noise", 2),
    "sde_1": ("sde", "data", 1),
    "sde_2": ("sde", "data", 2),
}


def load(name, path):
    """A module of a checkout, without the imports that only its pictures need."""
    for package in ("cv2", "torchvision", "torchvision.utils"):
        sys.modules.setdefault(package, types.ModuleType(package))
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(sde, alphas):
    """The exact noise prediction at an index."""

    def predict(x, mean, index, **extra):
        index = int(index)
        alpha, sigma = float(alphas[index]), float(sde.sigma_bars[index])
        return torch.from_numpy(problem.epsilon(x.numpy() - (1 - alpha) * MEAN, alpha, sigma))

    return predict


def noise_in_order(start=0):
    rows = iter(problem.NOISE[start:])
    return lambda like: torch.from_numpy(next(rows))


def mr_sampler(folder):
    utils = Path(folder) / "universal-image-restoration" / "utils"
    sys.modules["utils"] = types.ModuleType("utils")
    load("utils.sde_utils", utils / "sde_utils.py")
    module = load("utils.sampler", utils / "sampler.py")
    options = {"sde": {"max_sigma": STATIONARY, "T": STEPS, "schedule": "cosine", "eps": DECAY}}
    results = {}
    for name, (kind, prediction, order) in CASES.items():
        for calls in CALLS:
            base = module.IRSDE(STATIONARY, T=STEPS, schedule="cosine", eps=DECAY)
            sampler = module.MRSampler(base, options, calls, kind, prediction, order, fit_target="noise")
            index = np.round(np.linspace(STEPS, 0, calls + 1)).astype(int)  # 8 calls: of whole steps
            sampler.timesteps = index.tolist()
            sampler.alphas, sampler.sigmas = sampler.alpha_array[index], sampler.sigma_array[index]
            sampler.lambdas = sampler.lambda_array[index]
            sampler.sde.set_model(network(sampler.sde, sampler.alpha_array))
            start = torch.from_numpy(MEAN + float(sampler.sigmas[0]) * problem.STARTS)
            torch.randn_like = noise_in_order()
            drawn, _, _ = sampler.sampling(torch.from_numpy(MEAN), noisy_state=start)
            results[f"{name}_{calls}"] = drawn.numpy()
    results["thetas"] = sampler.sde.thetas.numpy()
    return results


def posterior_sampling(folder):
    sde = load("sde_utils", Path(folder) / "codes" / "utils" / "sde_utils.py").IRSDE(
        STATIONARY, T=STEPS, schedule="cosine", eps=DECAY
    )
    alphas = torch.exp(-sde.thetas_cumsum * sde.dt)
    sde.set_mu(torch.from_numpy(MEAN))
    sde.set_model(network(sde, alphas))
    torch.randn_like = noise_in_order()
    start = torch.from_numpy(MEAN + float(sde.sigma_bars[-1]) * problem.STARTS)
    drawn = sde.reverse_posterior(start).numpy()
    return {"posterior": drawn, "alphas": alphas.numpy(), "sigmas": sde.sigma_bars.numpy()}


def main():
    np.int = int  # noqa: NPY001, a name that NumPy no longer has
    torch.float32 = torch.float64
    torch.set_default_dtype(torch.float64)
    torch.clip = lambda x, low, high: x
    results = {**mr_sampler(sys.argv[1]), **posterior_sampling(sys.argv[2])}
    command = "python -m tests.reference.make_mean_reverting MR_SAMPLER IMAGE_RESTORATION_SDE"
    problem.save("mean_reverting", results, ["torch"], command)


if __name__ == "__main__":
    main()
