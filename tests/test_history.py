"""Solvers that live on remembered values, against the programs of their authors and against what they reduce to."""

import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem
from tests.replay import replay

VP = js.processes.vp_linear()


def denoise(process):
    """The peers' problem as a denoiser in NumPy."""
    return lambda x, t, **extra: problem.denoise(x, float(process.alpha(t)), float(process.sigma(t)))


@pytest.mark.parametrize("steps", [5, 8, 10, 20])
@pytest.mark.parametrize("name", ["plms", "pndm"])
def test_pndm_is_diffusers(name, steps, x64):
    stored = problem.load("pndm")
    process = js.processes.from_betas(stored["betas"])
    count = len(stored["betas"])
    indices = np.append(np.arange(steps)[::-1] * (count // steps) + 1, 0)
    sampler = js.solvers.registry[name](process, (indices + 1) / count)
    np.testing.assert_allclose(sampler.rows.time * count - 1, stored[f"{name}_{steps}_asked"], atol=1e-9)
    ours = replay(sampler, denoise(process), problem.STARTS)
    np.testing.assert_allclose(ours, stored[f"{name}_{steps}"], rtol=1e-6, atol=1e-9)
