"""Numbers of ResShift's diffusion and sampler, on the mixture shifting to a point.

    python -m tests.reference.make_resshift RESSHIFT

The argument is a checkout of github.com/zsyOAOA/ResShift, which is no package; needs torch. It works in float32: not
here. Its shortest chains are trained ones, so every number of calls is a diffusion of its own.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import torch

from tests.reference import problem

MEAN, KAPPA = np.array([0.5, -0.3]), 0.8
CALLS = (5, 8, 10, 15, 20)


def main():
    sys.path.insert(0, sys.argv[1])
    for package in ("ldm", "ldm.models", "ldm.models.autoencoder"):  # only its images need it
        sys.modules[package] = types.ModuleType(package)
    sys.modules["ldm.models.autoencoder"].AutoencoderKLTorch = None
    from models.script_util import create_gaussian_diffusion

    torch.Tensor.float = torch.Tensor.double
    mean, results = torch.from_numpy(np.broadcast_to(MEAN, problem.STARTS.shape).copy()), {}
    for calls in CALLS:
        diffusion = create_gaussian_diffusion(
            normalize_input=False,
            schedule_name="exponential",
            schedule_kwargs={"power": 0.3},
            min_noise_level=0.04,
            steps=calls,
            kappa=KAPPA,
            latent_flag=False,
        )

        def network(x, index, diffusion=diffusion):
            eta = float(diffusion.etas[int(index[0])])
            return torch.from_numpy(problem.denoise(x.numpy() - eta * MEAN, 1 - eta, KAPPA * eta**0.5))

        rows = iter(problem.NOISE)
        torch.randn_like = lambda like, rows=rows: torch.from_numpy(next(rows))
        x = diffusion.prior_sample(mean, torch.from_numpy(problem.STARTS))
        for i in reversed(range(calls)):
            index = torch.full((len(x),), i)
            x = diffusion.p_sample(network, x, mean, index, clip_denoised=False)["sample"]
        results[f"samples_{calls}"] = x.numpy()
        results[f"sqrt_etas_{calls}"] = diffusion.sqrt_etas
    problem.save("resshift", results, ["torch"], "python -m tests.reference.make_resshift RESSHIFT")


if __name__ == "__main__":
    main()
