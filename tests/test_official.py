"""DPM-Solver, DPM-Solver++, UniPC and DPM-Solver-v3 against their authors' programs, in float64."""

import functools

import jax
import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem
from tests.reference.make_official import LEVELS, STEPS, V3, statistics
from tests.replay import replay

VP = js.processes.vp_linear()


def denoise(x, t, **extra):
    return problem.denoise(x, float(VP.alpha(t)), float(VP.sigma(t)))


def agree(samplers, prefix, steps):
    stored = problem.load("official")
    for name, sampler in samplers.items():
        key = f"{prefix}{name}_{steps}"
        ours = replay(sampler, denoise, problem.STARTS)
        np.testing.assert_allclose(ours, stored[key], rtol=1e-6, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("steps", STEPS)
def test_dpm_solver(steps, x64):
    """Noises and estimates, multistep and singlestep, orders 1 to 3.

    They fall to lower orders at the end only below 10 steps. Their multistep order 3 has half the quadratic term
    (``curvature=0.5``) and their "taylor" is our "exact"; singlestep methods are the papers', their "dpmsolver".
    """

    @jax.jit
    def build():
        times = js.schedules.half_log_snr(VP, steps)
        tables = {}
        for kind, multistep, singlestep in (
            ("dpmsolver", js.solvers.dpm_solver, js.solvers.dpm_solver_singlestep),
            ("dpmsolver++", js.solvers.dpm_solver_pp, js.solvers.dpm_solver_pp_singlestep),
        ):
            for order in (1, 2, 3):
                for theirs, ours in (("dpmsolver", "midpoint"), ("taylor", "exact")):
                    options = {"order": order, "variant": ours, "curvature": 0.5, "lower_order_final": steps < 10}
                    tables[f"{kind}_multistep_{order}_{theirs}"] = multistep(VP, times, **options)
                orders = {1: [1] * steps, 2: [2] * (steps // 2) + [1] * (steps % 2), 3: js.solvers.fast_orders(steps)}
                ends = js.schedules.half_log_snr(VP, len(orders[order]))
                tables[f"{kind}_singlestep_{order}_dpmsolver"] = singlestep(VP, ends, order=orders[order])
        return tables

    agree(build(), "", steps)


@pytest.mark.parametrize("steps", STEPS)
def test_unipc(steps, x64):
    """Both predictions, bh1 and bh2, orders 1 to 3; they always end with lower orders."""

    @jax.jit
    def build():
        times = js.schedules.half_log_snr(VP, steps)
        tables = {}
        for prediction, theirs in (("x0", "data_prediction"), ("epsilon", "noise_prediction")):
            for variant in ("bh1", "bh2"):
                for order in (1, 2, 3):
                    options = {"order": order, "prediction": prediction, "variant": variant}
                    tables[f"{theirs}_{variant}_{order}"] = js.solvers.unipc(VP, times, **options)
        return tables

    agree(build(), "unipc_", steps)


@pytest.mark.parametrize("steps", [n if n in (5, 20) else pytest.param(n, marks=pytest.mark.slow) for n in STEPS])
def test_dpm_solver_v3(steps, x64):
    """Given statistics, predictors and correctors; their trapezoids on so many levels are exact to 1e-7."""
    times = problem.load("official")[f"v3_times_{steps}"]
    grid = np.linspace(float(VP.half_log_snr(1.0)), float(VP.half_log_snr(1e-3)), LEVELS)
    known = js.statistics.Statistics(grid, *statistics(grid))

    @jax.jit
    def build(times, known):
        solver = functools.partial(js.solvers.dpm_solver_v3, VP, times, statistics=known)
        return {
            f"{order}_{variant}_{corrector}": solver(order=order, variant=variant, corrector=corrector)
            for order, variant, corrector in V3
        }

    agree(build(times, known), "v3_", steps)
