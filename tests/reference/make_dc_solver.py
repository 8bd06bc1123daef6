"""Numbers of DC-Solver's authors' own program on the peers' problem: ``dc_solver.npz``.

    python -m tests.reference.make_dc_solver DC_SOLVER SCHEDULER

The arguments are ``stable-diffusion/ldm/models/diffusion/dc_solver/dc_solver.py`` and
``diffusers/src/diffusers/schedulers/scheduling_dcsolver_multistep.py`` of github.com/wl-zhao/DC-Solver. The former runs
in float64 on equal steps in half-log-SNR of the linear variance-preserving process, from 1 to 1e-3: with given ratios,
and searching for ratios on a path that is integrated here. Its network is written in torch, for the search takes its
derivative. The latter only evaluates the cascade's polynomial, with coefficients that are drawn here.
"""

import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.reference import problem
from tests.reference.make_official import load

STEPS = (5, 8, 10)
SCALE = 7.5


def ratios(steps):
    """Any will do."""
    return [1.0, 1.0, *(1 + 0.4 * np.sin(1.7 * np.arange(2, steps)))]


def network(torch):
    """The mixture's noise, differentiable."""
    weights, means, covariances = [torch.from_numpy(a) for a in (problem.WEIGHTS, problem.MEANS, problem.COVARIANCES)]

    def epsilon(x, alpha, sigma):
        spread = alpha**2 * covariances + sigma**2 * torch.eye(2)
        away = x[:, None] - alpha * means
        solved = torch.einsum("kij,nkj->nki", torch.linalg.inv(spread), away)
        log_density = torch.log(weights) - 0.5 * torch.logdet(spread) - 0.5 * (away * solved).sum(-1)
        return sigma * torch.einsum("nk,nki->ni", torch.softmax(log_density, dim=1), solved)

    return epsilon


def path(schedule, times, x):
    """Where the exact solution is at each of the times: Runge and Kutta's steps of ``d(x / sigma) = e^u m du``."""
    alpha, sigma = [np.array([float(f(t)) for t in times]) for f in (schedule.marginal_alpha, schedule.marginal_std)]
    levels = np.log(alpha / sigma)
    slope = lambda u, y: np.exp(u) * problem.denoise(y / np.sqrt(1 + np.exp(2 * u)), *_levels(u))
    y, places = x / sigma[0], []
    for i in range(len(times) - 1):
        h = (levels[i + 1] - levels[i]) / 200
        for j in range(200):
            u = levels[i] + j * h
            a = slope(u, y)
            b = slope(u + h / 2, y + h / 2 * a)
            c = slope(u + h / 2, y + h / 2 * b)
            d = slope(u + h, y + h * c)
            y = y + h / 6 * (a + 2 * b + 2 * c + d)
        places.append(y * sigma[i + 1])
    return np.array(places)


def _levels(u):
    return 1 / np.sqrt(1 + np.exp(-2 * u)), 1 / np.sqrt(1 + np.exp(2 * u))


def cascade(file):
    """Coefficients, and the ratios that the authors' program makes of them."""
    import diffusers.schedulers  # the file imports from it

    place = f"{diffusers.schedulers.__name__}.{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(place, file)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    ratios = theirs.DCSolverMultistepScheduler.cascade_polynomial_regression
    coefficients = np.random.default_rng(3).normal(size=36)
    with tempfile.NamedTemporaryFile(suffix=".npy") as kept:
        np.save(kept.name, coefficients)
        found = {f"cascade_{calls}": ratios(None, SCALE, calls, kept.name) for calls in STEPS}
    return {"coefficients": coefficients} | {name: np.array(values, float) for name, values in found.items()}


def main(file, scheduler):
    import torch

    torch.set_default_dtype(torch.float64)
    theirs = load(file)
    schedule = theirs.NoiseScheduleVP("linear")
    epsilon = network(torch)

    def model(x, t):
        levels = schedule.marginal_alpha(t[:1]), schedule.marginal_std(t[:1])
        return epsilon(x[:, :, 0, 0], *levels)[:, :, None, None]

    start = torch.from_numpy(problem.STARTS)[:, :, None, None]
    settings = {"order": 3, "skip_type": "logSNR", "method": "multistep", "t_start": 1.0, "t_end": 1e-3}
    results = cascade(scheduler)
    for steps in STEPS:
        for variant in ("bh1", "bh2"):
            solver = theirs.DCSolver(model, schedule, variant=variant)
            given = solver.sample(start, steps=steps, dc_ratios=list(ratios(steps)), **settings)
            results[f"{variant}_{steps}"] = given[:, :, 0, 0].numpy()
        times = solver.get_time_steps("logSNR", 1.0, 1e-3, steps, start.device)
        places = path(schedule, times, problem.STARTS)
        solver.ref_ts = np.append(times[1:-1], 1e-3) + 1e-9
        solver.ref_xs = torch.from_numpy(places)[:, :, :, None, None]
        with contextlib.redirect_stdout(io.StringIO()):
            found = solver.search_dc(start, steps=steps, **settings)
        results[f"path_{steps}"], results[f"found_{steps}"] = places, np.array(found)
        end = solver.sample(start, steps=steps, dc_ratios=list(found), **settings)
        results[f"after_{steps}"] = end[:, :, 0, 0].numpy()
    command = "python -m tests.reference.make_dc_solver DC_SOLVER SCHEDULER"
    problem.save("dc_solver", results, ["torch", "diffusers", "numpy"], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
