"""Picard's iteration against ``js.run``, against the paper's own sums, and on several devices."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsamplers as js
from tests import pod_parallel
from tests.cases import CASES

PROCESS = js.processes.vp_linear()
TIMES = js.schedules.half_log_snr(PROCESS, 8)
WEIGHTS = jax.random.normal(jax.random.key(3), (2, 2))
NOISE = PROCESS.prior(jax.random.key(1), (8, 2))
KEY = jax.random.key(2)
DDIM = js.solvers.ddim(PROCESS, TIMES)
SIGMA = PROCESS.sigma(DDIM.rows.time)
QUICK = ("ddim-eta", "heun", "edm_stochastic", "sa_solver-2-2-bh1")


def network(x, t):
    """Curved, and of unit size at every time."""
    return jnp.tanh(jnp.einsum("bd,de->be", x, WEIGHTS, precision="highest"))


@jax.jit
def both(sampler, skip):
    return js.run(sampler, network, NOISE, KEY), js.parallel.picard(
        sampler, network, NOISE, KEY, window=4, tolerance=0.0, skip=skip
    )


@functools.partial(jax.jit, static_argnames=("model", "window"))
def picard(sampler, tolerance, skip, *, model=network, window=4):
    return js.parallel.picard(sampler, model, NOISE, KEY, window=window, tolerance=tolerance, skip=skip)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[] if c.name in QUICK else pytest.mark.slow) for c in CASES]
)
def test_a_table_ends_where_one_row_after_another_does(case):
    """Samples, registers and noise, with the slope of normal data followed and without; one program runs all tables."""
    sampler = jax.jit(lambda times: case(PROCESS, times))(TIMES)[:6]
    sampler = js.pad(sampler, 3 if case.name in QUICK else 6)
    for skip in (jnp.zeros(6), js.parallel.normal_part(PROCESS, sampler.rows.time, 0.7)):
        one, many = both(sampler, skip)
        size = float(jnp.abs(one.x).max())
        for a, b in zip(
            jax.tree.leaves((one.x, one.memory)), jax.tree.leaves((many.x, many.state.memory)), strict=True
        ):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5 * max(size, float(jnp.abs(a).max())))
        assert int(many.state.step) == 6
        assert 2 <= int(many.sweeps) <= 6
        assert 6 <= int(many.calls) <= 4 * int(many.sweeps)


def test_one_sweep_is_exact_for_normal_data():
    model = lambda x, t: js.parallel.normal_part(PROCESS, t, 0.6) * x
    draw = jax.jit(lambda skip: js.parallel.picard_fixed(DDIM, model, NOISE, sweeps=1, skip=skip).x)
    exact = js.sample(DDIM, model, NOISE)
    np.testing.assert_allclose(draw(js.parallel.normal_part(PROCESS, DDIM.rows.time, 0.6)), exact, rtol=1e-5, atol=1e-6)
    assert jnp.abs(draw(jnp.zeros(8)) - exact).max() > 0.1


def test_the_papers_iteration():
    """``x_i = x_0 + sum of (step - identity) at the last guess``, from the same ``x`` in all rows (eq. 8)."""
    keep, gain = np.asarray(DDIM.rows.weights[:, 0]).T.astype(np.float64)
    skip = jnp.asarray((1 - keep) / gain, jnp.float32)
    draw = jax.jit(lambda skip: js.parallel.picard_fixed(DDIM, network, NOISE, sweeps=3, skip=skip).x)
    path = np.broadcast_to(np.asarray(NOISE), (9, *NOISE.shape)).copy()
    for _ in range(3):
        answers = jax.vmap(network)(jnp.asarray(path[:-1], jnp.float32), DDIM.rows.time)
        moves = [(k - 1) * x + g * m for k, g, x, m in zip(keep, gain, path, np.asarray(answers), strict=False)]
        path = np.concatenate([path[:1], path[0] + np.cumsum(moves, axis=0)])
    np.testing.assert_allclose(draw(skip), path[-1], rtol=1e-4, atol=1e-5)
    assert np.abs(path[-1] - js.sample(DDIM, network, NOISE)).max() > 1e-3  # three sweeps have not arrived


def test_fixed_sweeps_and_their_gradient():
    """As many sweeps as rows: the sample and every gradient of ``js.sample``."""
    sampler = js.solvers.ddpm(PROCESS, TIMES[::2])

    def loss(sampler, x, sweeps):
        if sweeps:
            return jnp.sum(js.parallel.picard_fixed(sampler, network, x, KEY, sweeps=sweeps).x ** 2)
        return jnp.sum(js.sample(sampler, network, x, KEY) ** 2)

    (one, slopes), (many, same) = (
        jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)(sampler, NOISE, sweeps) for sweeps in (0, 4)
    )
    np.testing.assert_allclose(many, one, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * float(one)), slopes, same)
    slope = jax.grad(lambda x: js.parallel.picard(sampler, network, x, KEY, window=2, tolerance=0.0).x.sum())
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.eval_shape(slope, NOISE)


def test_tolerance_buys_sweeps():
    """Error and cost go opposite ways; a window of one row is the sampler itself."""
    exact = js.sample(DDIM, network, NOISE)
    skip = js.parallel.normal_part(PROCESS, DDIM.rows.time, 0.7)
    loose, tight, nothing = (picard(DDIM, tolerance * SIGMA, skip) for tolerance in (0.3, 1e-4, 0.0))
    far, near = (float(jnp.sqrt(jnp.mean((run.x - exact) ** 2))) for run in (loose, tight))
    assert 1e-5 < far < 0.2
    assert near < 0.01 * far
    assert 2 <= int(loose.sweeps) < int(tight.sweeps) <= int(nothing.sweeps) <= 8
    single = picard(DDIM, 0.0 * SIGMA, skip, window=1)
    assert int(single.sweeps) == int(single.calls) == 8
    np.testing.assert_allclose(single.x, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_rows_on_eight_devices(axis_type):
    """The same samples; each device's network sees one row, and the answers are gathered."""
    mesh = jax.make_mesh((8,), ("time",), axis_types=(axis_type,))

    def draw(x, sharding):
        return js.parallel.picard(DDIM, network, x, window=8, tolerance=3e-2, sharding=sharding)

    alone = jax.jit(lambda x: draw(x, None))(NOISE)
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda x: draw(x, NamedSharding(mesh, P("time")))).lower(NOISE).compile()
        shared = compiled(jax.device_put(NOISE, NamedSharding(mesh, P())))
    np.testing.assert_allclose(shared.x, alone.x, rtol=1e-5, atol=1e-5)
    assert int(shared.sweeps) == int(alone.sweeps) < 8
    products = re.findall(r"= f32\[([\d,]*)\]\S* dot\(", compiled.as_text())
    assert {int(np.prod([int(n) for n in shape.split(",")])) for shape in products} == {NOISE.size}
    assert "all-gather" in compiled.as_text() or "all-reduce" in compiled.as_text()


def test_tokens():
    process = js.discrete.masked(4)
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 8))
    x = process.prior(jax.random.key(1), (3, 6))
    network = lambda x, t: jnp.where(jnp.roll(x, 1, -1)[..., None] == jnp.arange(4), 2.0, 0.0) + t
    one = jax.jit(lambda: js.sample(sampler, network, x, KEY))()
    many = jax.jit(lambda: js.parallel.picard(sampler, network, x, KEY, window=8, tolerance=0.0))()
    np.testing.assert_array_equal(many.x, one)
    assert 2 <= int(many.sweeps) < 8


def test_a_state_goes_on_and_pytrees_go_in():
    sampler, model = js.solvers.ddpm(PROCESS, TIMES), lambda x, t: jax.tree.map(jnp.tanh, x)
    x = {"image": NOISE, "pose": NOISE[:, 0]}
    keys = js.sample_keys(KEY, jnp.arange(8))

    @jax.jit
    def both(sampler, x):
        half = js.run(sampler[:4], model, x, keys)
        rest = js.parallel.picard(sampler[4:], model, half, window=3, tolerance=0.0)
        return js.sample(sampler, model, x, keys), rest

    whole, rest = both(sampler, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), whole, rest.x)
    assert int(rest.state.step) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: picard(DDIM, 0.0, None, window=0), "window must be at least 1, got 0"),
        (
            lambda: js.parallel.picard(DDIM, network, NOISE, window=2, tolerance=-1.0),
            "tolerance must be at least 0, got -1",
        ),
        (lambda: js.parallel.picard_fixed(DDIM, network, NOISE, sweeps=0), "sweeps must be at least 1, got 0"),
        (lambda: js.parallel.normal_part(PROCESS, TIMES, 0.0), "deviation must be above 0, got 0"),
        (
            lambda: js.parallel.picard(
                js.discrete.ancestral(js.discrete.masked(4), jnp.array([1.0, 0.5, 0.0])),
                lambda x, t: jnp.zeros((*x.shape, 4)),
                jnp.full((1, 2), 4),
                KEY,
                window=2,
                tolerance=0.0,
                skip=1.0,
            ),
            "leave it out for tokens",
        ),
        (
            lambda: js.parallel.picard(
                DDIM,
                network,
                NOISE,
                window=3,
                tolerance=0.0,
                sharding=NamedSharding(jax.make_mesh((8,), ("time",)), P("time")),
            ),
            "window must be a multiple of the 8 devices that share its rows, got 3 rows",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_documents_code_runs():
    """On a mesh of eight; the batch, time, and a network in four parts, whose samples are those of the whole."""
    text = (Path(__file__).parent.parent / "docs" / "parallel.md").read_text()
    x = PROCESS.prior(jax.random.key(1), (8, 4))
    names = {"jax": jax, "jnp": jnp, "js": js, "linen": linen, "process": PROCESS, "key": KEY, "x": x}
    names |= {"sampler": DDIM, "model": jax.tree_util.Partial(lambda x, t: jnp.tanh(x))}
    batch, time, network = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(batch, names)
    np.testing.assert_allclose(names["samples"], js.sample(DDIM, names["model"], x), rtol=1e-5, atol=1e-5)
    exec(time, names)
    np.testing.assert_allclose(names["run"].x, names["samples"], atol=0.05)
    exec(network, names)
    kernel = names["variables"]["params"]["Dense_0"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 16)}
    gathered = jax.device_put(names["variables"], jax.devices()[0])
    model = js.denoiser(js.from_linen(names["Network"](), gathered), PROCESS, prediction="v")
    np.testing.assert_allclose(names["samples"], js.sample(DDIM, model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_make_the_samples_of_one(count, tmp_path):
    """Rows of a window over processes: as many sweeps and calls as on one device, too; and tokens."""
    root, cluster = Path(__file__).parent.parent, ("JAX_", "SLURM_", "OMPI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    environment |= {"LOCAL_POD_LOGS": str(tmp_path / "logs"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    program = [sys.executable, "-m", "tests.pod_parallel", str(tmp_path / "made.npz")]
    run = subprocess.run(
        ["tpu_scripts/local_pod.sh", str(count), *program], cwd=root, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (x, sweeps, calls), tokens = jax.jit(
        lambda: (
            pod_parallel.picard(),
            pod_parallel.tokens(js.sample_keys(jax.random.key(pod_parallel.SEED), jnp.arange(16))),
        )
    )()
    with np.load(tmp_path / "made.npz") as made:
        assert made["devices"] == count
        np.testing.assert_allclose(made["arr_0"], x, rtol=1e-6, atol=1e-6)
        assert (int(made["arr_1"]), int(made["arr_2"])) == (int(sweeps), int(calls))
        np.testing.assert_array_equal(made["arr_3"], tokens)
