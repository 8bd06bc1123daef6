"""Numbers of the authors' own programs on the peers' problem: ``official.npz``.

    python -m tests.reference.make_official DPM_SOLVER UNIPC DPM_SOLVER_V3

The arguments are the files ``dpm_solver_pytorch.py`` of github.com/LuChengTHU/dpm-solver, ``uni_pc.py`` of
github.com/wl-zhao/UniPC and ``dpm_solver_v3.py`` of github.com/thu-ml/DPM-Solver-v3. All run in float64 (the last one
asks for float32 and for a GPU by name: both requests are turned aside), on equal steps in half-log-SNR of the linear
variance-preserving process, from 1 to 1e-3.
"""

import contextlib
import importlib.util
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.reference import problem

STEPS = (5, 8, 10, 20)
LEVELS = 20001  # of the statistics; the authors' integrals are trapezoids
V3 = [  # order, the predictor's derivatives, corrector
    (1, "exact", "pseudo"),
    (2, "exact", "none"),
    (3, "exact", "exact"),
    (3, "pseudo", "none"),
    (3, "pseudo", "exact"),
    (3, "exact", "pseudo"),
]


def statistics(half_log_snr):
    """Any smooth ``l``, ``s``, ``b`` will do; these are near the problem's own, and differ from number to number."""
    u = np.asarray(half_log_snr)[:, None]
    variance = np.array([1.2, 0.9])
    linear = 1 / (1 + variance * np.exp(2 * u))
    scaling = -0.8 / (1 + np.exp(-2 * u)) * np.array([1.0, 0.9])
    return linear, scaling, np.array([0.3, -0.2]) * np.exp(-(u**2) / 2)


def load(path):
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(paths):
    import torch

    torch.set_default_dtype(torch.float64)
    torch.Tensor.cuda = lambda self: self
    torch.FloatTensor = torch.DoubleTensor
    dpm_solver, unipc, v3 = [load(path) for path in paths]
    start = torch.from_numpy(problem.STARTS)[:, :, None, None]
    results = {}

    def network(schedule):
        def noise(x, t):
            alpha, sigma = [float(f(t.reshape(-1)[:1])) for f in (schedule.marginal_alpha, schedule.marginal_std)]
            return torch.from_numpy(problem.epsilon(x[:, :, 0, 0].numpy(), alpha, sigma))[:, :, None, None]

        return noise

    def keep(name, out):
        results[name] = out[:, :, 0, 0].numpy()

    schedule = dpm_solver.NoiseScheduleVP("linear", dtype=torch.float64)
    for kind in ("dpmsolver", "dpmsolver++"):
        solver = dpm_solver.DPM_Solver(network(schedule), schedule, algorithm_type=kind)
        for steps in STEPS:
            for order in (1, 2, 3):
                for method, variant in (
                    ("multistep", "dpmsolver"),
                    ("multistep", "taylor"),
                    ("singlestep", "dpmsolver"),
                ):
                    out = solver.sample(start, steps, 1.0, 1e-3, order, "logSNR", method, solver_type=variant)
                    keep(f"{kind}_{method}_{order}_{variant}_{steps}", out)

    schedule = unipc.NoiseScheduleVP("linear")
    for prediction in ("noise_prediction", "data_prediction"):
        for variant in ("bh1", "bh2"):
            solver = unipc.UniPC(network(schedule), schedule, prediction, variant=variant)
            for steps in STEPS:
                for order in (1, 2, 3):
                    out = solver.sample(start, steps, 1.0, 1e-3, order, "logSNR", "multistep")
                    keep(f"unipc_{prediction}_{variant}_{order}_{steps}", out)

    schedule = v3.NoiseScheduleVP("linear")
    ends = [float(schedule.marginal_lambda(torch.tensor(t))) for t in (1.0, 1e-3)]
    linear, scaling, bias = [a[:, :, None, None] for a in statistics(np.linspace(*ends, LEVELS))]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "l.npz", l=linear)
        np.savez(Path(folder) / "sb.npz", s=scaling, b=bias)
        for steps in STEPS:
            solver = v3.DPM_Solver_v3(folder, schedule, steps, 1.0, 1e-3, "logSNR", device="cpu")
            results[f"v3_times_{steps}"] = solver.timesteps.numpy()
            for order, pseudo, corrector in V3:
                out = solver.sample(
                    start,
                    network(schedule),
                    order,
                    pseudo == "pseudo",
                    corrector != "none",
                    corrector == "pseudo",
                    lower_order_final=True,
                )
                keep(f"v3_{order}_{pseudo}_{corrector}_{steps}", out)
    command = "python -m tests.reference.make_official DPM_SOLVER UNIPC DPM_SOLVER_V3"
    problem.save("official", results, ["torch"], command)


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):  # they print every step
        main(sys.argv[1:])
