"""What a round of refinement is worth."""

import jax
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import like, mixture

VP = js.processes.vp_linear()


def test_every_round_is_worth_an_order(x64):
    """With four nodes: 2 after the first pass, then 3 and 4, against the exact solution."""
    model = mixture(VP)
    x = VP.prior(jax.random.key(0), like((8, 2)))
    exact = np.asarray(js.adaptive.solve(VP, model, x, rtol=1e-11, atol=1e-11))
    for rounds in (0, 1, 2):
        solve = lambda times, rounds=rounds: js.sample(
            js.solvers.successive_refinement(VP, times, order=4, rounds=rounds, lower_order_final=False), model, x
        )
        coarse, fine = (
            np.linalg.norm(np.asarray(jax.jit(solve)(js.schedules.half_log_snr(VP, n))) - exact, axis=-1).mean()
            for n in (32, 64)
        )
        assert abs(np.log2(coarse / fine) - (rounds + 2)) < 0.25


def test_one_node_is_ddim(x64):
    times = js.schedules.half_log_snr(VP, 4)
    one = jax.jit(lambda t: js.solvers.successive_refinement(VP, t, order=1, rounds=0))(times)
    ddim = jax.jit(lambda t: js.solvers.ddim(VP, t))(times)
    np.testing.assert_allclose(one.rows.weights[:, 0, 0] + one.rows.weights[:, 0, 1], ddim.rows.weights[:, 0, 0])
    np.testing.assert_allclose(one.rows.weights[:, 0, -1], ddim.rows.weights[:, 0, -1], rtol=1e-12)


def test_the_last_step_takes_one_call_and_returns_the_estimate():
    times = js.schedules.cosine(VP, 3, t_end=0.0)
    sampler = jax.jit(lambda t: js.solvers.successive_refinement(VP, t, order=3, rounds=1))(times)
    assert len(sampler) == 2 * 5 + 1
    np.testing.assert_allclose(sampler.rows.weights[-1, 0], [0, 0, 0, 0, 0, 1], atol=1e-7)
    with pytest.raises(ValueError, match="use lower_order_final=True"):
        js.solvers.successive_refinement(VP, times, lower_order_final=False)
