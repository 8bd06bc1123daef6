"""Numbers of DC-Solver's authors' own program on the peers' problem: ``dc_solver.npz``.

    python -m tests.reference.make_dc_solver DC_SOLVER

The argument is ``stable-diffusion/ldm/models/diffusion/dc_solver/dc_solver.py`` of github.com/wl-zhao/DC-Solver. It
runs in float64 on equal steps in half-log-SNR of the linear variance-preserving process, from 1 to 1e-3: with given
ratios, and searching for ratios on a path that is integrated here. Its network is written in torch, for the search
takes its derivative.
"""

import contextlib
import io
import sys

import numpy as np

from tests.reference import problem
from tests.reference.make_official import load

STEPS = (5, 8, 10)


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


def main(file):
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
    results = {}
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
    problem.save("dc_solver", results, ["torch", "numpy"], "python -m tests.reference.make_dc_solver DC_SOLVER")


if __name__ == "__main__":
    main(sys.argv[1])
