"""Steps with decisions of their own: UniPC where they are all alike, and written out in NumPy where they are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.cases import like, mixture

VP = js.processes.vp_linear()


def problem(count=8):
    return mixture(VP), VP.prior(jax.random.key(0), like((count, 2)))


@functools.partial(jax.jit, static_argnames=("solver", "names"))
def end(solver, names, values, times, model, x):
    return js.sample(solver(VP, times, **dict(zip(names, values, strict=True))), model, x)


@pytest.mark.parametrize(
    ("order", "prediction", "corrected"), [(3, "x0", True), (2, "epsilon", True), (2, "x0", False)]
)
def test_equal_decisions_are_unipc(x64, order, prediction, corrected):
    model, x = problem()
    times = js.schedules.half_log_snr(VP, 6)
    unipc = functools.partial(
        js.solvers.unipc,
        order=order,
        prediction=prediction,
        lower_order_final=False,
        uncorrected=() if corrected else range(6),
    )
    expected = end(unipc, (), (), times, model, x)
    whole = functools.partial(js.learn.unified, order=order, prediction=prediction, corrected=corrected)
    np.testing.assert_allclose(end(whole, (), (), times, model, x), expected, rtol=1e-9)
    each = (np.full(6, order), np.full(6, int(prediction == "epsilon")), np.full(6, corrected))
    ours = end(js.learn.unified, ("order", "prediction", "corrected"), each, times, model, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)


def written_out(model, x, times, order, prediction, corrected):
    """The exact step for the polynomial, in half-log-SNR, through the values that the step may use."""
    alpha, sigma, u = (np.asarray(f(times)) for f in (VP.alpha, VP.sigma, VP.half_log_snr))

    def step(x, i, values, at):
        """From ``times[i]`` to the next, through ``values`` at half-log-SNRs ``at``."""
        h = u[i + 1] - u[i]
        s = u[i] + h * (NODES + 1) / 2
        basis = [np.prod([(s - b) / (a - b) for b in at if b != a], axis=0) * np.ones_like(s) for a in at]
        kernel = np.exp(s) if prediction[i] == 0 else np.exp(-s)
        moments = [h / 2 * np.sum(WEIGHTS * kernel * one) for one in basis]
        total = sum(m * v for m, v in zip(moments, values, strict=True))
        if prediction[i] == 0:
            return sigma[i + 1] / sigma[i] * x + sigma[i + 1] * total
        return alpha[i + 1] / alpha[i] * x - alpha[i + 1] * total

    seen, answers = [], []
    guess, before = np.asarray(x), None
    for i in range(len(times) - 1):
        seen.append(guess)
        answers.append(np.asarray(model(guess, times[i])))
        if i and corrected[i - 1]:
            used = min(order[i - 1], i)
            guess = step(before, i - 1, *through(alpha, sigma, u, seen, answers, i, used + 1, prediction[i - 1]))
        before = guess
        used = min(order[i], i + 1)
        guess = step(before, i, *through(alpha, sigma, u, seen, answers, i, used, prediction[i]))
    return guess


def through(alpha, sigma, u, seen, answers, newest, count, prediction):
    places = range(newest, newest - count, -1)
    if prediction == 0:
        return [answers[j] for j in places], u[list(places)]
    return [(seen[j] - alpha[j] * answers[j]) / sigma[j] for j in places], u[list(places)]


def test_mixed_decisions_written_out(x64):
    model, x = problem()
    times = np.asarray(js.schedules.half_log_snr(VP, 7))
    denoise = jax.jit(lambda x, t: model(x, t))
    exact = functools.partial(js.learn.unified, variant="exact")
    rng = np.random.default_rng(0)
    for _ in range(3):
        each = rng.integers(1, 4, 7), rng.integers(0, 2, 7), rng.integers(0, 2, 7)
        ours = end(exact, ("order", "prediction", "corrected"), each, times, model, x)
        np.testing.assert_allclose(ours, written_out(denoise, x, times, *each), rtol=1e-8)


def test_a_constant_estimate_is_reached_in_float32():
    """From any decisions, at the clean end."""
    x = VP.prior(jax.random.key(0), (4, 2))
    times = js.schedules.uniform(VP, 6, t_end=0.0)
    each = jnp.array([3, 1, 2, 3, 3, 3]), jnp.array([1, 0, 1, 0, 0, 1]), jnp.array([1, 1, 0, 1, 1, 1])
    clean = jax.tree_util.Partial(lambda x, t: jnp.full_like(x, -2.0))
    out = end(js.learn.unified, ("order", "prediction", "corrected"), each, times, clean, x)
    np.testing.assert_allclose(out, np.full((4, 2), -2.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 4}, "order must be from 1 to 3, got 4"),
        (
            {"order": np.array([1, 2, 3])},
            r"order must be one whole number or one for each of the 2 steps, got .* \(3,\)",
        ),
        ({"order": 2.0}, "order must be one whole number"),
        ({"prediction": np.array([0, 2])}, r"prediction must be from 0 to 1, got \[0 2\]"),
        ({"prediction": "v"}, "unknown prediction 'v'"),
        ({"highest": 5}, "highest must be from 1 to 4, got 5"),
        ({"variant": "bh3"}, "unknown variant 'bh3'"),
    ],
)
def test_bad_decisions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        js.learn.unified(VP, [1.0, 0.5, 0.1], **options)
