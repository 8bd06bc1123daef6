"""Jump probabilities of Meta's flow_matching package (1.0.10): its solver for tokens, one step at a time.

    python -m tests.reference.make_token_flow

needs torch and flow_matching. What it draws at random is replaced: the clean token by each one in turn, the uniform
number by an object that remembers what it was compared with, so that the probabilities themselves come out.
Their time runs from noise at 0 to data at 1, and a mask is a token of the vocabulary.
"""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import PolynomialConvexScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver, discrete_solver
from flow_matching.utils import ModelWrapper

from tests.reference import problem

VOCAB = 3
POSTERIOR = np.array([[0.7, 0.2, 0.1], [0.05, 0.35, 0.6], [0.25, 0.5, 0.25], [0.15, 0.55, 0.3]])  # by token and mask
GRID = np.array([0.1, 0.25, 0.45, 0.8, 1.0])
CORRECTORS = (0.0, 0.4, 3.0)


class Uniform:
    """Stands for uniform numbers: always smaller, and remembers than what."""

    def __init__(self):
        self.chances = []

    def __call__(self, size, device=None):
        return self

    def __lt__(self, chance):
        self.chances.append(chance.numpy())
        return torch.ones(chance.shape, dtype=torch.bool)


class Constant(ModelWrapper):
    """Whatever the posterior; what counts is the clean token that is given in place of a draw."""

    def __init__(self, states):
        super().__init__(model=None)
        self.states = states

    def forward(self, x, t, **extras):
        return torch.full((*x.shape, self.states), 1 / self.states)


def steps(source, power, corrector):
    """``[steps, from, clean, to]``: where each token goes in each step but the last when the clean token is given."""
    states = len(source)
    x, clean = (axis.reshape(-1) for axis in torch.meshgrid(torch.arange(states), torch.arange(VOCAB), indexing="ij"))
    uniform, weights = Uniform(), []

    def draw(p):
        if draw.clean_is_next:
            drawn = clean
        else:
            weights.append(p.numpy())
            drawn = x
        draw.clean_is_next = not draw.clean_is_next
        return drawn.clone()

    draw.clean_is_next = True
    solver = MixtureDiscreteEulerSolver(
        Constant(states), MixtureDiscreteProbPath(PolynomialConvexScheduler(power)), states, torch.from_numpy(source)
    )
    with mock.patch.object(discrete_solver, "categorical", draw), mock.patch.object(torch, "rand", uniform):
        solver.sample(
            x.clone(),
            step_size=None,
            div_free=corrector,
            dtype_categorical=torch.float64,
            time_grid=torch.from_numpy(GRID),
        )
    leave, weights = np.stack(uniform.chances)[..., None], np.stack(weights)
    total = weights.sum(-1, keepdims=True)
    moved = leave * weights / np.where(total > 0, total, 1.0)
    law = moved + (1 - leave) * np.eye(states)[x.numpy()]
    return law.reshape(len(GRID) - 2, states, VOCAB, states)


def main():
    torch.set_default_dtype(torch.float64)
    sources = {"uniform": np.full(VOCAB, 1 / VOCAB), "masked": np.eye(VOCAB + 1)[VOCAB]}
    results = {"posterior": POSTERIOR, "grid": GRID}
    for name, source in sources.items():
        posterior = POSTERIOR[: len(source)].copy()
        if name == "masked":
            posterior[:VOCAB] = np.eye(VOCAB)  # a visible token is known
        for power in (1, 2):
            for corrector in CORRECTORS:
                given = steps(source, power, corrector)
                results[f"{name}_{power}_{corrector}"] = np.einsum("sxyv,xy->sxv", given, posterior)
    problem.save("token_flow", results, ["flow_matching", "torch"], "python -m tests.reference.make_token_flow")
    assert all(np.isfinite(array).all() for array in results.values())


if __name__ == "__main__":
    main()
