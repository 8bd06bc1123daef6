"""Numbers of three authors' programs that remember noises: ``history.npz``.

    python -m tests.reference.make_history MOMENTUM_SCHEDULER DENOISING

``MOMENTUM_SCHEDULER`` is the file ``stable_diffusion/diffusion/momentum_scheduler.py`` of github.com/sWizad/
momentum-diffusion, given a scheduler that has nothing but noise levels; gradient estimation is the package
smalldiffusion's ``samples``. Both move ``x0 + sigma eps``. ``DENOISING`` is ``functions/denoising.py`` of github.com/
TimofeyEfimov/AcceleratedDiffusionSamplers, on a table of betas; its samples before the last step, which goes to the
clean end at second order. All in float64.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tests.reference import problem

STEPS = (5, 8, 10, 20)
ORDERS = (0.6, 1.8, 2.5, 3.7)
GAMMAS = (1.5, 2.0)
BETAS = np.linspace(1e-4, 0.02, 1000)


def load(path):
    """A module from its file, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def levels(steps, rho=7.0, low=0.02, high=80.0):
    """Karras' noise levels, ``steps + 1`` of them, the last not 0."""
    u = np.linspace(high ** (1 / rho), low ** (1 / rho), steps + 1)
    return u**rho


def momentum(scheduler, sigmas):
    """Samples of one of the momentum schedulers."""
    x = torch.from_numpy(problem.STARTS * sigmas[0])
    for index, sigma in enumerate(sigmas[:-1]):
        noise = problem.epsilon(x.numpy(), 1.0, sigma)
        x = scheduler.step(torch.from_numpy(noise), index, x)
    return x.numpy()


def accelerated(function, steps):
    """The states of the accelerated deterministic sampler before its last step, and the indices it asks at."""
    squares = np.cumprod(1 - BETAS)
    indices = (np.arange(steps) * (len(BETAS) // steps) + 1).tolist()

    def network(x, t):
        square = squares[int(t[0])]
        noise = problem.epsilon(x[..., 0, 0].numpy(), square**0.5, (1 - square) ** 0.5)
        return torch.from_numpy(noise)[..., None, None]

    start = torch.from_numpy(problem.STARTS)[..., None, None]
    states, _ = function(start, indices, network, torch.from_numpy(BETAS))
    return states[-2][..., 0, 0].numpy(), np.array(indices[::-1])


class Network:
    """What smalldiffusion asks of a model."""

    def eval(self):
        pass

    def rand_input(self, size):
        return torch.zeros(size, 2, dtype=torch.float64)

    def predict_eps_cfg(self, x, sigma, cond, scale):
        return torch.from_numpy(problem.epsilon(x.numpy(), 1.0, float(sigma)))


if __name__ == "__main__":
    schedulers = load(Path(sys.argv[1]))
    smalldiffusion = importlib.util.find_spec("smalldiffusion").submodule_search_locations[0]
    samples = load(Path(smalldiffusion) / "diffusion.py").samples
    accelerated_ddim = load(Path(sys.argv[2])).generalized_steps_accelerated
    results = {"betas": BETAS}
    for steps in STEPS:
        sigmas = levels(steps)
        results[f"sigmas_{steps}"] = sigmas
        results[f"accelerated_{steps}"], results[f"indices_{steps}"] = accelerated(accelerated_ddim, steps)
        settings = SimpleNamespace(prediction_type="epsilon")
        known = SimpleNamespace(sigmas=torch.from_numpy(sigmas), timesteps=torch.arange(steps), config=settings)
        for order in ORDERS:
            results[f"hb_{order}_{steps}"] = momentum(schedulers.PLMSWithHBScheduler(known, order), sigmas)
            results[f"ghvb_{order}_{steps}"] = momentum(schedulers.GHVBScheduler(known, order), sigmas)
        for gamma in GAMMAS:
            start = torch.from_numpy(problem.STARTS * sigmas[0])
            device = SimpleNamespace(device="cpu")
            path = samples(Network(), torch.from_numpy(sigmas), gam=gamma, xt=start, accelerator=device)
            results[f"gradient_{gamma}_{steps}"] = list(path)[-1].numpy()
    command = "python -m tests.reference.make_history MOMENTUM_SCHEDULER DENOISING"
    problem.save("history", results, ["diffusers", "smalldiffusion", "torch"], command)
