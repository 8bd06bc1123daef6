"""k-diffusion's numbers, which ``tests/reference/make_k_diffusion.py`` made, from ours."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.solvers import (
    dpm_solver_pp,
    dpm_solver_pp_singlestep_ancestral,
    dpm_solver_singlestep,
    dpm_solver_singlestep_ancestral,
    edm_stochastic,
    heun,
    lms,
    sde_dpm_solver_pp,
    sde_dpm_solver_pp_singlestep,
)
from tests.reference import problem
from tests.replay import replay

STEPS = (5, 8, 10, 20)
PROCESS = js.processes.edm(sigma_max=30.0)
churn = functools.partial(edm_stochastic, churn=4.0, churn_min=0.1, churn_max=10.0, noise_scale=1.01)
two_stages = functools.partial(dpm_solver_singlestep, order=2)
first_order = functools.partial(dpm_solver_singlestep, order=1)
third_sde = functools.partial(sde_dpm_solver_pp, order=3, variant="exact", curvature=0.5, lower_order_final=False)
second_sde = functools.partial(sde_dpm_solver_pp, order=2, lower_order_final=False)
independent = functools.partial(sde_dpm_solver_pp_singlestep, correlation="none")
partly = {"eta": 0.7, "noise_scale": 1.02}

SOLVERS = {
    "euler": js.solvers.euler,
    "euler-churn": functools.partial(churn, solver=first_order),
    "heun": heun,
    "heun-churn": churn,
    "heun-churn-all": functools.partial(edm_stochastic, churn=3.0),
    "dpm_2": js.solvers.dpm2,
    "dpm_2-churn": functools.partial(churn, solver=two_stages),
    "lms": lms,
    "euler_ancestral": functools.partial(js.solvers.ancestral, solver=first_order, **partly),
    "dpm_2_ancestral": js.solvers.dpm2_ancestral,
    "dpm_2_ancestral-eta": functools.partial(dpm_solver_singlestep_ancestral, **partly),
    "dpmpp_2s_ancestral": dpm_solver_pp_singlestep_ancestral,
    "dpmpp_2s_ancestral-eta": functools.partial(dpm_solver_pp_singlestep_ancestral, **partly),
    "dpmpp_sde": independent,
    "dpmpp_sde-eta": functools.partial(independent, **partly),
    "dpmpp_2m": functools.partial(dpm_solver_pp, lower_order_final=False),
    "dpmpp_2m_sde": second_sde,
    "dpmpp_2m_sde-heun": functools.partial(second_sde, variant="exact", eta=0.5, noise_scale=1.02),
    "dpmpp_3m_sde": third_sde,
}
TWO_ROWS = ("heun", "dpm_2", "dpmpp_2s_ancestral")  # of which only the second draws


@functools.cache
def stored():
    return problem.load("k_diffusion")


@functools.cache
def tables(steps):
    """All of them, compiled at once."""
    times = jnp.asarray(stored()[f"karras-{steps}"])
    higher = times.at[0].multiply(1 + min(3.0 / steps, 2**0.5 - 1))  # where the first step's churn leads
    build = lambda times, higher: {
        name: solver(PROCESS, higher if name == "heun-churn-all" else times) for name, solver in SOLVERS.items()
    }
    return jax.jit(build)(times, higher), times, higher


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", STEPS)
def test_samplers(name, steps, x64):
    samplers, times, higher = tables(steps)
    sampler, draws = samplers[name], list(problem.NOISE)
    x = problem.STARTS * float(times[0])
    if "churn" in name:  # theirs has noise before its first step, which ours has in the start
        first, *draws = draws
        if name == "heun-churn-all":
            x = x + np.sqrt(float(higher[0]) ** 2 - float(times[0]) ** 2) * first
    rows = np.zeros((len(sampler), *x.shape))
    stages = 2 if name.startswith(TWO_ROWS) else 1
    drawing = rows[stages - 1 :: stages]
    drawing[:] = draws[: len(drawing)]
    found = replay(sampler, lambda x, t: problem.denoise(x, 1.0, float(t)), x, rows)
    np.testing.assert_allclose(found, stored()[f"{name}-{steps}"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("calls", STEPS)
def test_dpm_fast(calls, x64):
    """Orders 3, ..., 3, 2, 1 or as many as make up the number of calls."""
    orders = js.solvers.fast_orders(calls)
    assert sum(orders) == calls
    levels = jnp.geomspace(15.0, 0.03, len(orders) + 1)
    sampler = jax.jit(lambda t: dpm_solver_singlestep(PROCESS, t, order=orders))(levels)
    assert len(sampler) == calls
    found = replay(sampler, lambda x, t: problem.denoise(x, 1.0, float(t)), problem.STARTS * 15.0)
    np.testing.assert_allclose(found, stored()[f"dpm_fast-{calls}"], rtol=1e-9, atol=1e-11)


def test_correlation_of_the_two_draws_of_a_step(x64):
    """Measured on their Brownian tree, against what our second row takes from the first one's noise."""
    for (sigma, _, to), measured in zip(stored()["levels"], stored()["correlation"], strict=True):
        rows = sde_dpm_solver_pp_singlestep(PROCESS, jnp.array([sigma, to]), lower_order_final=False).rows
        held, fresh = rows.weights[1, 0, 2], rows.noise[1, 0]
        np.testing.assert_allclose(held / jnp.hypot(held, fresh), measured, atol=0.01)


@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential", "vp"])
@pytest.mark.parametrize("steps", STEPS)
def test_schedules(name, steps, x64):
    """The levels above the final 0."""
    process = js.processes.edm(sigma_max=200.0)
    levels = stored()[f"{name}-{steps}"][:-1]
    options = {"rho": 1.5} if name == "polyexponential" else {}
    make = functools.partial(js.schedules.registry[name], t_start=levels[0], t_end=levels[-1], **options)
    np.testing.assert_allclose(make(process, steps - 1), levels, rtol=1e-9)


def test_the_vp_levels_are_those_of_the_process(x64):
    process = js.processes.vp_linear()
    rho = jnp.exp(-process.half_log_snr(js.schedules.uniform(process, 7)))
    np.testing.assert_allclose(rho, stored()["vp-8"][:-1], rtol=1e-9)


def test_the_guide_names_them_all():
    guide = (Path(__file__).parent.parent / "docs" / "k_diffusion.md").read_text()
    assert {name.partition("-")[0] for name in SOLVERS} <= set(re.findall(r"`sample_(\w+)", guide))
    ours = re.findall(r"(\w+)\(", " ".join(re.findall(r"\| `sample_.*?\| (.*) \|", guide)))
    assert not [name for name in ours if name != "partial" and not hasattr(js.solvers, name)]
