"""Numbers of stochastic samplers, run from their authors' programs and from diffusers: ``stochastic.npz``.

    python -m tests.reference.make_stochastic FOLDER

``FOLDER`` holds clones of github.com/scxue/SA-Solver, QinpengCui/ER-SDE-Solver, nfsrules/SEEDS, yifan123/flow_grpo and
IamCreateAI/FlowCPS; SASolver, LCM, TCD, DDPM (learned range) and the consistency model scheduler are diffusers'. All
runs are in float64, start from ``STARTS`` and take row ``i`` of ``NOISE`` in their step (or stage) ``i``. Changed:

* SA-Solver is also run with the updates of its paper (``sample_more_steps``) in the loop of ``sample_few_steps``;
* ER-SDE's integrals are sums over 100 left points: here over 100,000 midpoints;
* SEEDS-3's weight ``phi_23`` of its second stage, which does not vanish with the step, is set right.
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import diffusers
import numpy as np
import torch

from tests.reference import problem

STEPS = (5, 8, 10, 20)
BETAS = np.linspace(1e-4, 0.02, 1000)
BAR = np.cumprod(1 - BETAS)
FIXES = {
    "er_sde_solver": [
        ("nums_intergrate = 100.0", "nums_intergrate = 100000.0"),
        ("nums_indices = np.arange", "nums_indices = 0.5 + np.arange"),
    ],
    "etd_serk": [
        (
            "phi_23 = torch.expm1(- 2. * self.c2 * h) / (self.c2 * h) + 1.",
            "phi_23 = torch.expm1(- 2. * c3 * h) / (2. * c3 * h) + 1.",
        )
    ],
}


def module(path):
    """A module from its file, with its fixes, without the package around it."""
    source = path.read_text()
    for old, new in FIXES.get(path.stem, []):
        assert old in source, (path, old)
        source = source.replace(old, new)
    loaded = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, None))
    exec(compile(source, path, "exec"), loaded.__dict__)
    return loaded


class Noise:
    """Rows of ``NOISE`` one after the other, from ``first`` on, whatever is asked for."""

    def __init__(self, first=0):
        self.row = first - 1

    def __call__(self, like, **_):
        self.row += 1
        shape = like.shape if isinstance(like, torch.Tensor) else like
        return torch.from_numpy(problem.NOISE[max(self.row, 0)].reshape(shape).copy())


def log_alpha(t):
    return -0.25 * t**2 * 19.9 - 0.05 * t


def levels(t):
    """Of ``vp_linear``."""
    return np.exp(log_alpha(t)), np.sqrt(-np.expm1(2 * log_alpha(t)))


def sa_solver(folder, steps, order, corrector_order, tau, exact):
    code = module(folder / "SA-Solver/sa_solver.py")

    def epsilon(x, t):
        return torch.from_numpy(problem.epsilon(x.numpy(), *levels(t[0].item())))

    solver = code.SASolver(epsilon, code.NoiseScheduleVP("linear"))
    if exact:
        solver.adams_bashforth_update_few_steps = solver.adams_bashforth_update
        solver.adams_moulton_update_few_steps = solver.adams_moulton_update
    options = {"predictor_order": order, "corrector_order": corrector_order, "t_start": 1.0, "t_end": 1e-3}
    with mock.patch.object(torch, "randn_like", Noise(-1)):  # it draws once before the first step
        x = solver.sample_few_steps(torch.from_numpy(problem.STARTS), lambda t: tau, steps, **options)
    return x.numpy()


def er_sde(folder, steps, order):
    code = module(folder / "ER-SDE-Solver/er_sde_solver.py")
    t = np.linspace(1.0, 1e-3, steps + 1)
    alphas, sigmas = levels(t)
    solver = code.ER_SDE_Solver("vp", "x_start")
    solver.numerical_clip = lambda value: max(value, 0.0)
    model = lambda x, t: torch.from_numpy(problem.denoise(x.numpy(), *levels(t)))
    with mock.patch.object(torch, "randn_like", Noise()):
        x = getattr(solver, f"vp_{order}_order" + ("_taylor" if order > 1 else ""))(
            model, torch.from_numpy(problem.STARTS), alphas, sigmas, t
        )
    return x.numpy()


def seeds(folder, steps, order):
    sys.path.insert(0, str(folder / "SEEDS"))
    code = module(folder / "SEEDS/seeds_lib/methods/etd_serk.py")

    def inverse(half_log_snr):
        decay = 0.5 * torch.log1p(torch.exp(-2 * half_log_snr))
        return 2 * decay / (0.05 + torch.sqrt(0.05**2 + 19.9 * decay))

    tensor = lambda f: lambda t: torch.as_tensor(f(np.asarray(t)))
    alpha = tensor(lambda t: levels(t)[0])
    rho = tensor(lambda t: levels(t)[1] / levels(t)[0])
    model = lambda x, sigma, _: torch.from_numpy(problem.denoise(x.numpy(), 1.0, sigma.item()))
    solver = code.ETD_SERK_SOLVER(
        model, lambda t: -torch.log(rho(t)), inverse, None, rho, alpha, order, None, False, None, None
    )
    x, t = torch.from_numpy(problem.STARTS), torch.linspace(1.0, 1e-3, steps + 1)
    with mock.patch.object(torch, "randn_like", Noise()):
        for i in range(steps):
            x = solver.update(x, t[i], t[i + 1], steps + 1, i)
    return x.numpy()


def flow(path, steps, noise_level):
    """Flow-GRPO's and Flow-CPS's step, which turn their inputs to float32 unless told otherwise."""
    code = module(path / "flow_grpo/diffusers_patch/sd3_sde_with_logprob.py")
    times = torch.linspace(1.0, 0.0, steps + 1)
    scheduler = SimpleNamespace(sigmas=times, index_for_timestep=lambda t: int(t))
    x = torch.from_numpy(problem.STARTS.reshape(16, 2, 1, 1))
    code.randn_tensor = Noise()
    with mock.patch.object(torch.Tensor, "float", lambda self: self):
        for i in range(steps):
            v = torch.from_numpy(problem.velocity(x.numpy().reshape(16, 2), times[i].item()).reshape(16, 2, 1, 1))
            x = code.sde_step_with_logprob(scheduler, v, [i] * 16, x, noise_level=noise_level)[0]
    return x.numpy().reshape(16, 2)


def discrete(name, steps, network, **config):
    """One of diffusers' schedulers on a table of betas; also its timesteps."""
    cls = getattr(diffusers, f"{name}Scheduler")
    scheduler = cls(trained_betas=BETAS, **config)
    scheduler.alphas_cumprod = torch.from_numpy(BAR)
    if name == "DDPM":
        scheduler.one = torch.tensor(1.0)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.numpy()
    if name == "SASolver":
        rho = np.sqrt(1 / BAR - 1)
        scheduler.sigmas = torch.from_numpy(rho[np.append(timesteps, 0)])
    sys.modules[cls.__module__].randn_tensor = Noise()
    x = torch.from_numpy(problem.STARTS.copy())
    for t in scheduler.timesteps:
        output = network(x.numpy(), np.sqrt(BAR[t]), np.sqrt(1 - BAR[t]))
        x = scheduler.step(torch.from_numpy(output), t, x).prev_sample
    return x.numpy(), timesteps


def with_variance(x, alpha, sigma):
    """Noise, and a fraction of the log variance."""
    return np.concatenate([problem.epsilon(x, alpha, sigma), np.tanh(x[:, ::-1] - 0.3)], axis=1)


def consistency(steps):
    """diffusers' scheduler of consistency models with a network that is one layer."""
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(steps)
    sigmas = np.append(np.exp(scheduler.timesteps.numpy() / 250), scheduler.config.sigma_min)
    scheduler.sigmas = torch.from_numpy(sigmas)
    sys.modules[type(scheduler).__module__].randn_tensor = Noise()
    x = torch.from_numpy(sigmas[0] * problem.STARTS)
    for t in scheduler.timesteps:
        output = np.tanh(scheduler.scale_model_input(x, t).numpy()[:, ::-1] + t.item() / 1000)
        x = scheduler.step(torch.from_numpy(output), t, x).prev_sample
    return x.numpy(), sigmas


def main():
    torch.set_default_dtype(torch.float64)
    folder = Path(sys.argv[1])
    results = {}
    for n in STEPS:
        results[f"sa_solver-3-4-0.6-exact-{n}"] = sa_solver(folder, n, 3, 4, tau=0.6, exact=True)
        results[f"sa_solver-2-2-1.0-bh1-{n}"] = sa_solver(folder, n, 2, 2, tau=1.0, exact=False)
        name = f"diffusers_sa_solver-3-4-{n}"
        config = {"predictor_order": 3, "corrector_order": 4}
        results[name], results[f"{name}-times"] = discrete("SASolver", n, problem.epsilon, **config)
        for order in (2, 3):
            results[f"er_sde-{order}-{n}"] = er_sde(folder, n, order)
            results[f"seeds-{order}-{n}"] = seeds(folder, n, order)
        results[f"flow_sde-{n}"] = flow(folder / "flow_grpo", n, 0.7)
        results[f"coefficients_preserving-{n}"] = flow(folder / "FlowCPS", n, 0.7)
        name = f"learned_variance-{n}"
        config = {"variance_type": "learned_range", "clip_sample": False}
        results[name], results[f"{name}-times"] = discrete("DDPM", n, with_variance, **config)
        for kind in ("LCM", "TCD"):
            results[f"{kind}-{n}"], results[f"{kind}-{n}-times"] = discrete(kind, n, problem.epsilon)
        name = f"consistency-{n}"
        results[name], results[f"{name}-times"] = consistency(n)
    assert all(np.isfinite(array).all() for array in results.values())
    problem.save("stochastic", results, ["diffusers", "torch"], "python -m tests.reference.make_stochastic FOLDER")


if __name__ == "__main__":
    main()
