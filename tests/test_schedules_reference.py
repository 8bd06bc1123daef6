"""Schedules of k-diffusion, diffusers and ComfyUI against ours; ``reference/make_schedules.py`` says what was run.

Most programs end with a step to no noise at all: ours of one step less and a 0, or with ``t_end=0``.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem

STEPS = (5, 8, 10, 20)
UNEVEN = (*STEPS, 30)  # 30 does not divide 1000
LOW, HIGH = 0.03, 15.0
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
PEERS = problem.load("schedules")
make = js.schedules


@pytest.fixture(autouse=True)
def _x64(x64):
    """Everything here is in float64."""


def rho(process, times):
    return np.asarray(process.sigma(times) / process.alpha(times))


def table():
    """Stable Diffusion's process, and its noise levels."""
    process = js.processes.from_betas(BETAS)
    return process, rho(process, jnp.arange(1, 1001) / 1000)


@pytest.mark.parametrize(
    ("name", "schedule", "options"),
    [
        ("karras", make.karras, {"rho": 5.0}),
        ("exponential", make.exponential, {}),
        ("polyexponential", make.polyexponential, {"rho": 2.0}),
    ],
)
def test_levels_of_k_diffusion(name, schedule, options):
    for n in STEPS:
        ours = np.append(schedule(js.processes.edm(LOW, HIGH), n - 1, **options), 0.0)
        np.testing.assert_allclose(ours, PEERS[f"k_diffusion_{name}_{n}"], rtol=1e-12)


def test_vp_levels_of_k_diffusion():
    """Its time runs from 1 to 0.001, as that of ``vp_linear`` does."""
    for n in STEPS:
        theirs = PEERS[f"k_diffusion_vp_{n}"]
        process = js.processes.edm(theirs[-2], theirs[0])
        np.testing.assert_allclose(np.append(make.vp(process, n - 1), 0.0), theirs, rtol=1e-10)
        np.testing.assert_allclose(
            rho(js.processes.vp_linear(), make.uniform(js.processes.vp_linear(), n - 1)), theirs[:-1], rtol=1e-10
        )


@pytest.mark.parametrize("name", ["karras", "exponential", "beta"])
def test_levels_of_diffusers(name):
    """Its ``use_beta_sigmas`` puts the quantiles in sigma, which is EDM's time."""
    _, levels = table()
    for n in STEPS:
        ours = np.append(make.registry[name](js.processes.edm(levels[0], levels[-1]), n - 1), 0.0)
        np.testing.assert_allclose(ours, PEERS[f"diffusers_{name}_{n}"], rtol=2e-7)


@pytest.mark.parametrize(
    ("name", "schedule", "options"),
    [
        ("linspace", make.linspace, {}),
        ("leading", make.leading, {}),
        ("leading_offset", make.leading, {"offset": 1}),
        ("trailing", make.trailing, {}),
        ("normal", make.normal, {}),
    ],
)
def test_entries_of_diffusers(name, schedule, options):
    for n in UNEVEN:
        times = np.asarray(schedule(table()[0], n, t_end=0.0, **options))
        np.testing.assert_allclose(1000 * times[:-1] - 1, PEERS[f"diffusers_{name}_{n}"], rtol=1e-6, atol=1e-6)


def test_rounded_entries_of_diffusers():
    """DPM-Solver++ rounds what is our ``sgm_uniform``."""
    for n in UNEVEN:
        times = np.asarray(make.sgm_uniform(table()[0], n, t_end=0.0))
        assert np.abs(1000 * times[:-1] - 1 - PEERS[f"diffusers_sgm_uniform_{n}"]).max() < 0.5 + 1e-6


def test_flows_of_diffusers():
    """Levels given by the pipeline, ``1 - i / N``, which the scheduler shifts; Mochi's leaves its last 0 out."""
    flow = js.processes.rectified_flow()
    for n in STEPS:
        np.testing.assert_allclose(make.flow_shift(flow, n), PEERS[f"diffusers_flow_shift_{n}"], atol=2e-7)
        ours = make.linear_quadratic(flow, n)[:-1]
        np.testing.assert_allclose(ours, PEERS[f"diffusers_linear_quadratic_{n}"], atol=2e-7)
    for tokens in (256, 1024, 4096):
        ours = make.flow_shift(flow, 10, factor=make.resolution_factor(tokens))
        np.testing.assert_allclose(ours, PEERS[f"diffusers_resolution_{tokens}"], atol=2e-7)


@pytest.mark.parametrize("name", ["simple", "ddim_uniform"])
def test_entries_of_comfyui(name):
    """``ddim_uniform`` has more steps than asked for where they do not divide the table; we leave the first out."""
    process, _ = table()
    for n in UNEVEN:
        ours = rho(process, make.registry[name](process, n, t_end=0.0))
        np.testing.assert_allclose(ours, PEERS[f"comfyui_{name}_{n}"][-n - 1 :], rtol=2e-7)


@pytest.mark.parametrize("name", ["normal", "sgm_uniform"])
def test_levels_between_the_entries_of_comfyui(name):
    """It interpolates ``log sigma`` between entries, we ``log alpha``."""
    process, _ = table()
    for n in STEPS:
        ours = rho(process, make.registry[name](process, n, t_end=0.0))
        np.testing.assert_allclose(ours, PEERS[f"comfyui_{name}_{n}"], rtol=1e-4)


def test_quantiles_of_comfyui():
    """It rounds Beta quantiles to entries, and Laplace's log has 1e-5 added and is clipped to the range."""
    _, levels = table()
    for n in STEPS[1::2]:
        index = np.interp(np.log(PEERS[f"comfyui_beta_{n}"][:-1]), np.log(levels), np.arange(1000))
        ours = 999 * np.asarray(make.beta(js.processes.rectified_flow(), n))[:-1]
        assert np.abs(index - ours).max() < 0.5 + 1e-3
        theirs = PEERS[f"comfyui_laplace_{n}"]
        ours = rho(js.processes.rectified_flow(), make.laplace(js.processes.rectified_flow(), n - 1)[1:-1])
        np.testing.assert_allclose(np.clip(ours, LOW, HIGH), theirs[1:-1], rtol=1e-4)


def test_angles_of_comfyui():
    _, levels = table()
    for n in STEPS:
        ours = np.append(make.kl_optimal(js.processes.edm(levels[0], levels[-1]), n - 1), 0.0)
        np.testing.assert_allclose(ours, PEERS[f"comfyui_kl_optimal_{n}"], rtol=2e-6)  # float32 angles


def test_published_levels():
    """Align your steps gives three digits; ComfyUI, the levels at the entries that they are the levels of."""
    process, wide = table()[0], js.processes.edm(1e-3, 1e3)
    for model in ("sd15", "sdxl", "svd"):
        ours = np.asarray(make.align_your_steps(wide, 10, model=model))
        np.testing.assert_allclose(ours[1:-1], PEERS[f"diffusers_{model}_10"][1:-1], rtol=1e-7)
        for n in STEPS:
            ours = np.asarray(make.align_your_steps(wide, n, model=model))
            np.testing.assert_allclose(ours[1:-1], PEERS[f"comfyui_{model}_{n}"][1:-1], rtol=1.5e-2)
    for n in UNEVEN:
        np.testing.assert_allclose(rho(process, make.gits(process, n)), PEERS[f"comfyui_gits_{n}"], rtol=2e-5)
