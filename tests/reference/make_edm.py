"""Numbers of the authors' programs for EDM's stochastic sampler and for Restart: ``edm.npz``.

    python -m tests.reference.make_edm EDM RESTART

``EDM`` is the file ``generate.py`` of github.com/NVlabs/edm, ``RESTART`` the file ``benchmarks/generate_restart.py`` of
github.com/Newbeeer/diffusion_restart_sampling. Only their sampler functions are run, in float64, except that Restart
makes its own grids in float32. EDM's general sampler runs on the noise levels and the scaling of ``vp_linear``.
"""

from __future__ import annotations

import ast
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tests.reference import problem

STEPS = (5, 8, 10, 20)
CHURN = {"S_churn": 4.0, "S_min": 0.1, "S_max": 10.0, "S_noise": 1.007}
INTERVALS = {"a": [3, 2, 0.2, 2.0], "b": [4, 1, 3.0, 10.0]}  # points, repeats, t_min, t_max


def functions(path, *names):
    """Functions of a file, without running the rest of it."""
    tree = ast.parse(Path(path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope = {"torch": torch, "np": np, "dist": SimpleNamespace(print0=lambda *_: None)}
    exec(compile(tree, path, "exec"), scope)
    return [scope[name] for name in names]


class Net:
    """The exact denoiser, as their networks are called."""

    img_channels, img_resolution = 1, 1
    sigma_min, sigma_max = 0.0, math.inf

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)

    def __call__(self, x, sigma, class_labels=None):
        return torch.from_numpy(problem.denoise(x.numpy(), 1.0, float(sigma)))


def draws():
    """``NOISE``, one after another."""
    noise = iter(problem.NOISE)
    return lambda x: torch.from_numpy(next(noise))


def main():
    edm, ablation = functions(sys.argv[1], "edm_sampler", "ablation_sampler")
    (restart,) = functions(sys.argv[2], "restart_sampler")
    start = torch.from_numpy(problem.STARTS)
    results = {}
    for steps in STEPS:
        common = {"num_steps": steps, "randn_like": draws(), "sigma_min": 0.03, "sigma_max": 15.0}
        results[f"edm-{steps}"] = edm(Net(), start, **common, **CHURN).numpy()
        vp = {"num_steps": steps, "discretization": "vp", "schedule": "vp", "scaling": "vp"}
        results[f"vp-{steps}"] = ablation(Net(), start, randn_like=draws(), **vp, **CHURN).numpy()
        common["randn_like"] = draws()
        again = json.dumps(INTERVALS)
        results[f"restart-{steps}"] = restart(Net(), start, **common, S_noise=1.003, restart_info=again).numpy()
    problem.save("edm", results, ["torch"], "python -m tests.reference.make_edm EDM RESTART")


if __name__ == "__main__":
    main()
