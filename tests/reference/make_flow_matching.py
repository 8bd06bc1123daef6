"""Numbers of Meta's flow_matching package (1.0.10): fixed-step solvers, prediction conversions, change of schedule.

    python -m tests.reference.make_flow_matching

needs torch, torchdiffeq and flow_matching. Their time runs from noise at 0 to data at 1.
"""

from __future__ import annotations

import numpy as np
import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler, CosineScheduler, ScheduleTransformedModel, VPScheduler
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

from tests.reference import problem

CALLS = (5, 8, 10, 20)
STAGES = {"euler": 1, "midpoint": 2, "heun2": 2}
END = 1 - 1e-3  # heun2 asks for the velocity at the end, which the mixture's noise prediction lacks at the clean one


class Velocity(ModelWrapper):
    """The exact velocity of the straight path, in their time."""

    def __init__(self):
        super().__init__(model=None)

    def forward(self, x, t, **extras):
        return -torch.from_numpy(problem.velocity(x.numpy(), 1 - float(t)))


class Differentiable(ModelWrapper):
    """The same in torch, without a division by the noise level, so that it has gradients and reaches the data."""

    def __init__(self):
        super().__init__(model=None)

    def forward(self, x, t, **extras):
        means, covariances = torch.from_numpy(problem.MEANS), torch.from_numpy(problem.COVARIANCES)
        spread = t**2 * covariances + (1 - t) ** 2 * torch.eye(2)
        away = x[:, None] - t * means
        solved = torch.einsum("kij,nkj->nki", torch.linalg.inv(spread), away)
        log_weights = torch.log(torch.from_numpy(problem.WEIGHTS)) - 0.5 * torch.linalg.slogdet(spread)[1]
        chosen = torch.softmax(log_weights - 0.5 * torch.sum(away * solved, dim=-1), dim=1)
        velocities = means + t * torch.einsum("kij,nkj->nki", covariances, solved) - (1 - t) * solved
        return torch.einsum("nk,nki->ni", chosen, velocities)


def log_normal(x):
    return -0.5 * torch.sum(x**2, dim=1) - np.log(2 * np.pi)


def main():
    torch.set_default_dtype(torch.float64)
    start = torch.from_numpy(problem.STARTS)
    results = {}
    for method, stages in STAGES.items():
        for calls in CALLS:
            if calls % stages == 0:
                grid = torch.linspace(0.0, END, calls // stages + 1)
                drawn = ODESolver(Velocity()).sample(start, step_size=None, method=method, time_grid=grid)
                results[f"{method}_{calls}"] = drawn.numpy()
    changed = ScheduleTransformedModel(Velocity(), CondOTScheduler(), CosineScheduler())
    for calls in CALLS:
        grid = torch.linspace(0.0, END, calls + 1)
        results[f"cosine_{calls}"] = (
            ODESolver(changed).sample(start, step_size=None, method="euler", time_grid=grid).numpy()
        )

    grid = torch.tensor([1.0, 0.0])
    results["noise"], results["log_likelihood"] = (
        array.numpy()
        for array in ODESolver(Differentiable()).compute_likelihood(
            start.clone(), log_normal, None, "dopri5", 1e-10, 1e-10, grid, exact_divergence=True
        )
    )
    levels = VPScheduler(0.1, 20.0)(torch.linspace(0.0, 0.99, 12))
    results["vp"] = np.stack([level.numpy() for level in (levels.alpha_t, levels.sigma_t)])

    t = torch.linspace(0.05, 0.95, len(start))[:, None]
    x, value = start, torch.from_numpy(problem.NOISE[0])
    for name, scheduler in {"straight": CondOTScheduler(), "trigonometric": CosineScheduler()}.items():
        path = AffineProbPath(scheduler)
        to = {"x0": "target", "velocity": "velocity", "epsilon": "epsilon"}
        for one, theirs in to.items():
            for other, their_other in to.items():
                if one != other:
                    made = getattr(path, f"{theirs}_to_{their_other}")(value, x, t)
                    results[f"{name}_{one}_{other}"] = made.numpy()
    problem.save(
        "flow_matching",
        results,
        ["flow_matching", "torch", "torchdiffeq"],
        "python -m tests.reference.make_flow_matching",
    )
    assert all(np.isfinite(array).all() for array in results.values())


if __name__ == "__main__":
    main()
