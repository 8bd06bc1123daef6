"""Numbers of diffusers' PNDMScheduler, with and without its Runge-Kutta steps: ``pndm.npz``.

    python -m tests.reference.make_pndm

A table of 960 betas, so that every step has an index half-way: at an odd step the scheduler asks the network at one
index and takes the noise levels of the next. ``steps_offset=1`` keeps its last step from being none at all.
"""

import numpy as np
import torch
from diffusers import PNDMScheduler

from tests.reference import problem

BETAS = np.linspace(1e-4, 0.02, 960)
STEPS = (5, 8, 10, 20)


def draw(steps, skip):
    """The samples, in float64, and the indices the network was asked at."""
    scheduler = PNDMScheduler(len(BETAS), trained_betas=BETAS, skip_prk_steps=skip, steps_offset=1)
    scheduler.alphas_cumprod = torch.cumprod(1 - torch.from_numpy(BETAS), dim=0)  # it keeps float32 otherwise
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(problem.STARTS)
    for t in scheduler.timesteps:
        square = float(scheduler.alphas_cumprod[t])
        noise = problem.epsilon(x.numpy(), square**0.5, (1 - square) ** 0.5)
        x = scheduler.step(torch.from_numpy(noise), int(t), x).prev_sample
    return x.numpy(), scheduler.timesteps.numpy()


if __name__ == "__main__":
    results = {"betas": BETAS}
    for steps in STEPS:
        for name, skip in (("plms", True), ("pndm", False)):
            results[f"{name}_{steps}"], results[f"{name}_{steps}_asked"] = draw(steps, skip)
    problem.save("pndm", results, ["diffusers", "torch"], "python -m tests.reference.make_pndm")
