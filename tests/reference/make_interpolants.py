"""Numbers of the authors' code for stochastic interpolants: levels, the flow, the SDE forward and backward.

    python -m tests.reference.make_interpolants STOCHASTIC_INTERPOLANTS

The argument is a checkout of github.com/malbergo/stochastic-interpolants, which is no package; needs torch and
torchdiffeq. From a normal law to the mixture, between times 0.02 and 0.98.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from tests.reference import problem

PATHS = {"linear": "brownian", "trig": "brownian", "encoding-decoding": "sinesquared"}
CALLS = (5, 8, 10, 20)
ENDS, EPSILON = (0.02, 0.98), 0.3


class Field(torch.nn.Module):
    """The exact velocity, or the score, of one of their interpolants."""

    def __init__(self, path, which):
        super().__init__()
        self.path, self.which = path, which

    def forward(self, x, t):
        t, path = t.reshape(()), self.path
        levels = [float(level(t)) for level in (path.a, path.b, path.gamma)]
        slopes = float(path.a(t) * path.adot(t)), float(path.bdot(t)), float(path.gg_dot(t))
        velocity, noise = problem.bridge(x.numpy(), levels, slopes)
        return torch.from_numpy(velocity if self.which == "velocity" else -noise / levels[2])


def main():
    sys.path.insert(0, sys.argv[1])
    from interflow import stochastic_interpolant as theirs

    torch.set_default_dtype(torch.float64)
    start, results = torch.from_numpy(problem.STARTS), {}
    t = torch.linspace(0.0, 1.0, 21)
    for name, gamma in PATHS.items():
        path = theirs.Interpolant(name, gamma)
        results[f"{name}_levels"] = np.stack([level(t).numpy() for level in (path.a, path.b, path.gamma)])
        for calls in CALLS:
            velocity, score = Field(path, "velocity"), Field(path, "score")
            for method in ("euler", "heun2"):
                if calls % (2 if method == "heun2" else 1) == 0:
                    points = calls // (2 if method == "heun2" else 1) + 1
                    flow = theirs.PFlowIntegrator(velocity, method, path, ENDS, points, sample_only=True)
                    results[f"{name}_{method}_{calls}"] = flow.rollout(start)[0][-1].numpy()
            rows = iter(problem.NOISE)
            torch.randn = lambda size, rows=rows: torch.from_numpy(next(rows))
            epsilon = torch.tensor(EPSILON)
            sde = theirs.SDEIntegrator(velocity, score, epsilon, path, n_save=1, start_end=ENDS, n_step=calls + 1)
            results[f"{name}_forward_{calls}"] = sde.rollout_forward(start, method="euler")[-1].numpy()
            rows = iter(problem.NOISE)
            torch.randn = lambda size, rows=rows: torch.from_numpy(next(rows))
            x = start
            for time in sde.ts.flip(0)[:-1]:
                x = sde.step_reverse(x, time[None])
            results[f"{name}_backward_{calls}"] = x.numpy()
    command = "python -m tests.reference.make_interpolants STOCHASTIC_INTERPOLANTS"
    problem.save("interpolants", results, ["torch", "torchdiffeq"], command)
    assert all(np.isfinite(array).all() for array in results.values())


if __name__ == "__main__":
    main()
