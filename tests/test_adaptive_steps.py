"""DPM-Solver-12 and -23 against the exact solution and against k-diffusion, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem
from tests.reference.make_dpm_adaptive import HIGH, LOW, TOLERANCES
from tests.test_solvers import exact_problem

EDM = js.processes.edm()


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_adaptive_is_k_diffusion(order, x64):
    """The same steps accepted and rejected, the same samples."""
    stored = problem.load("dpm_adaptive")
    model = js.analytic.gaussian_mixture(EDM, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)
    solve = jax.jit(
        lambda x, rtol, atol: js.adaptive.dpm_solver_adaptive(
            EDM, model, x, order=order, rtol=rtol, atol=atol, t_start=HIGH, t_end=LOW
        )
    )
    for rtol, atol in TOLERANCES:
        out = solve(jnp.asarray(problem.STARTS * HIGH), rtol, atol)
        steps = stored[f"steps_{order}_{rtol}"]
        assert [int(out.accepted), int(out.rejected), int(out.calls)] == steps.tolist()
        np.testing.assert_allclose(out.x, stored[f"x_{order}_{rtol}"], rtol=1e-6, atol=1e-8)
        assert bool(out.finished)


@pytest.mark.parametrize("name", ["vp_linear", "rectified_flow"])
def test_the_error_follows_the_tolerance(name, x64):
    """A hundred times less tolerance: thirty times less error or better, for more calls; pytrees and origins too."""
    process, model, x, exact = exact_problem(name)
    moved = js.processes.shifted(process, 0.6)
    tree = lambda v, t: {"a": 0.6 + model(v["a"] - 0.6, t)}
    solve = jax.jit(lambda tol: js.adaptive.dpm_solver_adaptive(moved, tree, {"a": x + 0.6}, rtol=tol, atol=tol))
    errors, calls = [], []
    for tolerance in (1e-3, 1e-5):
        out = solve(tolerance)
        errors.append(np.linalg.norm(out.x["a"] - 0.6 - exact, axis=-1).mean())
        calls.append(int(out.calls))
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 30
    assert calls[0] < calls[1] < 600


def test_too_few_steps_are_told():
    model = js.analytic.gaussian_mixture(EDM, problem.MEANS, problem.COVARIANCES, problem.WEIGHTS)
    out = jax.jit(lambda x: js.adaptive.dpm_solver_adaptive(EDM, model, x, max_steps=3))(jnp.ones((2, 2)))
    assert not bool(out.finished)
    assert int(out.calls) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "order must be from 2 to 3, got 4"),
        ({"rtol": 0.0}, "rtol must be above 0"),
        ({"t_end": 0.0}, "half-log-SNR must grow between finite ends"),
        ({"t_start": 0.01, "t_end": 0.1}, "half-log-SNR must grow"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        js.adaptive.dpm_solver_adaptive(EDM, lambda x, t: x, jnp.ones((2, 2)), **options)
