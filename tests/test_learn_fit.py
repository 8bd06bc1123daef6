"""The fit loop: what it minimises, keeps, refuses, and how it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsamplers as js
from jaxsamplers.learn.fit import _chunk
from jaxsamplers.records import checkpoints, history

PROCESS = js.processes.vp_linear()
MODEL = js.analytic.gaussian_mixture(PROCESS, [[1.0, 0.5], [-1.0, 0.0]], 0.05)
STEPS = 4
ADAM = optax.adam(3e-2)
QUIET = {"report": lambda *_, **__: None}

ROOT = Path(__file__).parents[1]
HANG = """
import sys, time
from jaxsamplers.records import history
from tests import test_learn_fit as case

append = history.append

def hang(path, row):
    append(path, row)
    while row["step"] == 20:
        time.sleep(1)

history.append = hang
case.learn(out=sys.argv[1])
"""


@pytest.fixture(scope="module")
def pairs() -> js.learn.Pairs:
    x = PROCESS.prior(jax.random.key(0), (64, 2))
    teacher = js.solvers.dpm_solver_pp(PROCESS, js.schedules.half_log_snr(PROCESS, 40))
    return js.learn.teach(teacher, MODEL, x)


def task(**parts: bool) -> tuple[js.learn.Builder, js.learn.Parameters]:
    return js.learn.builder(js.solvers.dpm_solver_pp, PROCESS), js.learn.parameters(PROCESS, STEPS, **parts)


def learn(out: str | Path | None = None, steps: int = 30, **options) -> js.learn.Result:
    x = PROCESS.prior(jax.random.key(0), (64, 2))
    teacher = js.solvers.dpm_solver_pp(PROCESS, js.schedules.half_log_snr(PROCESS, 40))
    build, parameters = task(network_times=True)
    data = js.learn.teach(teacher, MODEL, x)
    options = {
        "optimizer": ADAM,
        "batches": js.learn.batches(data, 16),
        "every": 5,
        "out": out,
        "checkpoint": 2,
    } | options
    return js.learn.fit(js.learn.endpoint(build, MODEL), parameters, steps=steps, **QUIET, **options)


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def quadratic(parameters, batch, key):
    return ((parameters["a"] - batch) ** 2).mean()


def test_it_is_what_a_loop_of_the_same_updates_finds(pairs):
    """Five steps written out by hand, with the batches the loop is promised to use."""
    build, parameters = task()
    objective, batches, key = js.learn.endpoint(build, MODEL), js.learn.batches(pairs, 16), jax.random.key(3)
    result = js.learn.fit(objective, parameters, optimizer=ADAM, batches=batches, steps=5, every=5, key=key, **QUIET)
    gradient = jax.jit(jax.grad(lambda p, batch: objective(p, batch, None)))
    learned, memory = parameters.learned, ADAM.init(parameters.learned)
    for step in range(5):
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, 0), step // 4), 64)
        rows = order[(step % 4) * 16 :][:16]
        now = js.learn.Parameters(learned, parameters.start, parameters.coordinate)
        slope = gradient(now, jax.tree.map(lambda leaf, rows=rows: leaf[rows], pairs)).learned
        change, memory = ADAM.update(slope, memory, learned)
        learned = optax.apply_updates(learned, change)
    np.testing.assert_allclose(result.last.learned["gaps"], learned["gaps"], rtol=1e-4, atol=1e-6)
    assert same(result.last.start, parameters.start)


def test_a_weight_decay_leaves_alone_what_is_not_learned(pairs):
    build, parameters = task()
    decays = optax.adamw(1e-2, weight_decay=0.5)
    objective, batches = js.learn.endpoint(build, MODEL), js.learn.batches(pairs, 16)
    result = js.learn.fit(objective, parameters, optimizer=decays, batches=batches, steps=5, every=5, **QUIET)
    assert same(result.last.start, parameters.start)


def test_every_row_comes_once_in_each_pass():
    batches = js.learn.batches({"a": jnp.arange(12)}, 4)
    seen = [
        np.sort(np.concatenate([batches(jnp.asarray(3 * p + s), jax.random.key(0))["a"] for s in range(3)]))
        for p in (0, 1)
    ]
    np.testing.assert_array_equal(seen, [np.arange(12)] * 2)


def test_accumulated_batches_are_one_large_batch():
    """A quadratic: the mean of two gradients is the gradient of both batches together."""
    values = jnp.linspace(0.0, 1.0, 8)
    sgd = optax.sgd(0.1)
    fit = lambda size, parts: js.learn.fit(
        quadratic, {"a": jnp.zeros(())}, optimizer=sgd, batches=js.learn.batches(values, size), steps=10, every=10,
        accumulate=parts, **QUIET,
    )  # fmt: skip
    expected = 0.5 * (1 - 0.8**10)  # of gradient descent on (a - 1/2)^2
    np.testing.assert_allclose([fit(4, 2).last["a"], fit(8, 1).last["a"]], expected, rtol=1e-5)


def test_an_optimiser_that_holds_one_array_twice():
    """Memory that is given away can be given away once; L-BFGS finds the bottom of a quadratic."""
    found = js.learn.fit(
        quadratic, {"a": jnp.ones(())}, optimizer=optax.lbfgs(0.5, linesearch=None), steps=20, every=20,
        batches=js.learn.draws(lambda key: jnp.full((), 0.3)), **QUIET,
    )  # fmt: skip
    np.testing.assert_allclose(found.last["a"], 0.3, atol=1e-5)


def test_the_best_parameters_are_kept_not_the_last():
    """A step too large makes every loss worse than the one before: where it starts is best, or passes by something."""
    diverging = optax.sgd(1.1)
    fit = lambda validate: js.learn.fit(
        quadratic, {"a": jnp.ones(())}, optimizer=diverging, batches=js.learn.draws(lambda key: jnp.zeros(())),
        steps=6, every=2, validate=validate, **QUIET,
    )  # fmt: skip
    near = lambda p: (p["a"] - 1.2**2) ** 2  # each step multiplies a by 1 - 2.2
    unknown_at_first = lambda p: jnp.where(p["a"] == 1, jnp.nan, p["a"] ** 2)
    for validate, best in ((lambda p: p["a"] ** 2, 1.0), (near, 1.2**2), (unknown_at_first, 1.2**2)):
        result = fit(validate)
        np.testing.assert_allclose(result.parameters["a"], best, rtol=1e-5)
        np.testing.assert_allclose(result.last["a"], 1.2**6, rtol=1e-5)
        assert [row["best"] for row in result.history] == [result.value] * 3


def test_the_plateau_rule():
    """Nothing is ever better than the start: the rate falls every second time, and the third ends it."""
    result = js.learn.fit(
        quadratic, {"a": jnp.ones(())}, optimizer=optax.sgd(1.1), batches=js.learn.draws(lambda key: jnp.zeros(())),
        steps=40, every=1, validate=lambda p: p["a"] ** 2, plateau=js.learn.Plateau(2, 0.99, 3), **QUIET,
    )  # fmt: skip
    assert result.stopped == "patience"
    rates = [row["rate"] for row in result.history]
    np.testing.assert_allclose(rates, [1, 0.99, 0.99, 0.99**2, 0.99**2, 0.99**3], rtol=1e-6)
    np.testing.assert_allclose(result.last["a"], result.parameters["a"])  # brought back


def broken(parameters, batch, key):
    return jnp.where(parameters["a"] < 0.5, jnp.nan, parameters["a"])


def test_what_is_not_finite_ends_the_run_with_the_last_good_parameters(tmp_path):
    with pytest.raises(js.learn.NotFinite, match=r"by step 10 .*\.parameters; the last good checkpoint") as caught:
        js.learn.fit(
            broken, {"a": jnp.ones(())}, optimizer=optax.sgd(0.1), batches=js.learn.draws(lambda key: ()), steps=20,
            every=5, out=tmp_path, **QUIET,
        )  # fmt: skip
    assert float(caught.value.parameters["a"]) == pytest.approx(0.5, abs=1e-6)
    assert checkpoints.steps(tmp_path / "checkpoints") == [5]
    assert [row["step"] for row in history.read(tmp_path / "history.jsonl")] == [5]


def test_a_run_that_goes_on_ends_in_the_same_numbers(tmp_path):
    whole = learn(tmp_path / "whole")
    learn(tmp_path / "parts", steps=20)
    after = learn(tmp_path / "parts", steps=30)
    assert same(whole.last, after.last)
    assert same(whole.parameters, after.parameters)
    assert whole.history == after.history
    assert learn(tmp_path / "parts", steps=30).history == after.history  # nothing is left to do
    with pytest.raises(ValueError, match="already at step 30, beyond steps=20"):
        learn(tmp_path / "parts", steps=20)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", HANG, str(tmp_path / "killed")], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 240
    while len(history.read(tmp_path / "killed" / "history.jsonl")) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoints.steps(tmp_path / "killed" / "checkpoints") == [10]
    after, whole = learn(tmp_path / "killed"), learn()
    assert same(whole.last, after.last)
    assert after.history == whole.history


def test_the_same_shape_compiles_once(pairs):
    _, parameters = task()
    other = js.learn.parameters(PROCESS, STEPS, schedule=js.schedules.uniform(PROCESS, STEPS))
    before = _chunk._cache_size()
    for start, shift in ((parameters, 0.0), (other, 0.1)):
        data = pairs._replace(goal=pairs.goal + shift)
        again = js.learn.builder(js.solvers.dpm_solver_pp, js.processes.vp_linear(beta_max=20.0 + shift))
        model = js.analytic.gaussian_mixture(PROCESS, [[1.0, 0.5], [-1.0, shift]], 0.05)
        rule = js.learn.Plateau(3, 0.8 - shift, 2)
        js.learn.fit(
            js.learn.endpoint(again, model), start, optimizer=ADAM, batches=js.learn.batches(data, 8), steps=3,
            every=3, plateau=rule, key=jax.random.key(int(10 * shift)), **QUIET,
        )  # fmt: skip
    assert _chunk._cache_size() == before + 1


def test_eight_devices_learn_the_same():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over = jax.NamedSharding(mesh, jax.P("data"))
    single, sharded = learn(steps=10), learn(steps=10, sharding=over)
    assert len(jax.tree.leaves(sharded.last)[0].sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(single.last), jax.tree.leaves(sharded.last), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_pairs_are_kept_on_disk(tmp_path):
    x = PROCESS.prior(jax.random.key(0), (6, 2))
    teacher = js.solvers.ddim(PROCESS, js.schedules.uniform(PROCESS, 3), eta=1.0)
    key, cache = jax.random.key(1), tmp_path / "pairs" / "noise.npz"
    whole = js.learn.teach(teacher, MODEL, x, key=key)
    parts = js.learn.teach(teacher, MODEL, x, key=key, chunk=4, cache=cache)
    np.testing.assert_allclose(whole.goal, parts.goal, rtol=1e-5, atol=1e-6)  # noise by index, not by chunk
    calls = []
    model = lambda x, t: calls.append(1) or MODEL(x, t)
    again = js.learn.teach(teacher, model, x, key=key, cache=cache)
    assert same(again, parts)
    assert not calls
    with pytest.raises(ValueError, match="other noises, another teacher or key"):
        js.learn.teach(teacher, MODEL, x + 1, key=key, cache=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 7}, "steps must be a multiple of every=5, got 7"),
        ({"every": 0}, "every must be at least 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"plateau": js.learn.Plateau(0)}, r"plateau\.patience must be at least 1"),
        ({"plateau": js.learn.Plateau(1, 1.5)}, r"plateau\.factor must be at least 0 and at most 1"),
    ],
)
def test_numbers_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        js.learn.fit(quadratic, {"a": 0.0}, optimizer=ADAM, batches=None, **{"steps": 10, "every": 5} | options)


def test_batches_that_do_not_divide_over_the_mesh():
    over = js.distributed.over_data(js.distributed.mesh(model=2))
    message = "batches of 6 do not divide over the 4 shares of sharding: take a multiple of 4, or a mesh with a smaller"
    with pytest.raises(ValueError, match=message):
        js.learn.fit(
            quadratic, {"a": jnp.zeros(())}, optimizer=ADAM, batches=js.learn.batches(jnp.zeros(8), 6), steps=5,
            every=5, sharding=over, **QUIET,
        )  # fmt: skip


def test_data_that_do_not_fit():
    with pytest.raises(ValueError, match=r"as many goals as noises, got leading axes of \[3, 4\]"):
        js.learn.pairs(jnp.zeros((3, 2)), jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="size must be from 1 to 3, got 4"):
        js.learn.batches(jnp.zeros(3), 4)
