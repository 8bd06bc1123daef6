import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsamplers as js
from tests.cases import CASES, mixture, name_of

PROCESS = js.processes.vp_linear()
TIMES = js.schedules.half_log_snr(PROCESS, 6)
MIXTURE = mixture(PROCESS)
NOISE = PROCESS.prior(jax.random.key(1), (8, 2))
KEY = jax.random.key(2)


@jax.jit
def draw(sampler, noise, key):
    return js.sample(sampler, MIXTURE, noise, key)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_two_parts_equal_the_whole(case):
    """Bitwise, with everything remembered and every noise, when the state is passed on."""
    sampler, cut = case(PROCESS, TIMES), 3
    whole = js.run(sampler, MIXTURE, NOISE, KEY)
    parts = js.run(sampler[cut:], MIXTURE, js.run(sampler[:cut], MIXTURE, NOISE, KEY))
    jax.tree.map(np.testing.assert_array_equal, parts.x, whole.x)
    jax.tree.map(np.testing.assert_array_equal, parts.memory, whole.memory)
    assert int(parts.step) == int(whole.step) == len(sampler)


def test_record_keeps_what_it_is_told_and_nothing_else():
    sampler = js.solvers.dpm_solver_pp(PROCESS, TIMES)
    state, (xs, steps) = js.run(sampler, MIXTURE, NOISE, record=lambda s: (s.x, s.step))
    assert xs.shape == (6, 8, 2)
    np.testing.assert_array_equal(xs[-1], state.x)
    np.testing.assert_array_equal(steps, np.arange(1, 7))
    np.testing.assert_array_equal(xs[2], js.sample(sampler[:3], MIXTURE, NOISE))


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("ddpm", "heun", "unipc-3")], ids=name_of)
def test_remat_changes_neither_samples_nor_gradients(case):
    sampler = case(PROCESS, TIMES)
    loss = lambda sampler, remat: jnp.sum(js.sample(sampler, MIXTURE, NOISE, KEY, remat=remat) ** 2)
    results = [jax.jit(jax.value_and_grad(loss), static_argnums=1)(sampler, remat) for remat in (True, False)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_raw_keys_are_typed_keys():
    sampler = js.solvers.ddpm(PROCESS, TIMES)
    raw = jax.random.key_data(KEY)
    np.testing.assert_array_equal(draw(sampler, NOISE, raw), draw(sampler, NOISE, KEY))
    assert not np.array_equal(draw(sampler, NOISE, jax.random.key(3)), draw(sampler, NOISE, KEY))


@pytest.mark.parametrize("sizes", [(3, 5), (1, 7), (2, 2, 4)])
def test_samples_do_not_depend_on_batching(sizes):
    """With one key per sample, from its global index."""
    sampler = js.solvers.ddpm(PROCESS, TIMES)
    keys = js.sample_keys(KEY, jnp.arange(8))
    whole = js.sample(sampler, MIXTURE, NOISE, keys)
    ends = np.cumsum([0, *sizes])
    parts = [
        js.sample(sampler, MIXTURE, NOISE[a:b], js.sample_keys(KEY, jnp.arange(a, b)))
        for a, b in itertools.pairwise(ends)
    ]
    np.testing.assert_allclose(jnp.concatenate(parts), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "axis_type"),
    [pytest.param(case, AxisType.Explicit, id=case.name) for case in CASES]
    + [pytest.param(case, AxisType.Auto, id=f"{case.name}-auto") for case in CASES if case.name in ("ddpm", "heun")],
)
def test_samples_do_not_depend_on_devices(case, axis_type):
    sampler = case(PROCESS, TIMES)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    sharded = jax.device_put(NOISE, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        out = jax.jit(lambda s, x, k: js.sample(s, lambda x, t: jnp.tanh(x) / (1 + t), x, k))(sampler, sharded, KEY)
    alone = js.sample(sampler, lambda x, t: jnp.tanh(x) / (1 + t), NOISE, KEY)
    assert {shard.data.shape for shard in out.addressable_shards} == {(1, 2)}
    np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-6)


def test_vmap_over_keys_and_over_schedules():
    sampler = js.solvers.ddpm(PROCESS, TIMES)
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda k: js.sample(sampler, MIXTURE, NOISE, k))(keys)
    np.testing.assert_allclose(many[1], js.sample(sampler, MIXTURE, NOISE, keys[1]), rtol=1e-5, atol=1e-6)

    grids = jnp.stack([js.schedules.uniform(PROCESS, 6), js.schedules.karras(PROCESS, 6)])
    solve = lambda times: js.sample(js.solvers.dpm_solver_pp(PROCESS, times), MIXTURE, NOISE)
    np.testing.assert_allclose(jax.vmap(solve)(grids)[1], solve(grids[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_state_is_float32_whatever_the_network_returns(dtype):
    sampler = js.solvers.dpm_solver_pp(PROCESS, TIMES)
    seen = []

    def network(x, t):
        seen.append((x.dtype, t.dtype))
        return MIXTURE(x, t).astype(dtype)

    out = js.sample(sampler, network, NOISE.astype(dtype))
    assert out.dtype == jnp.float32
    assert set(seen) == {(jnp.dtype("float32"), jnp.dtype("float32"))}
    exact = js.sample(sampler, MIXTURE, NOISE.astype(dtype))
    assert 0 < float(jnp.max(jnp.abs(out - exact))) < 0.05


def test_float64_sample_stays_float64(x64):
    sampler = js.solvers.ddpm(PROCESS, js.schedules.uniform(PROCESS, 3))
    assert js.sample(sampler, lambda x, t: x.astype(jnp.float32), jnp.ones(3, jnp.float64), KEY).dtype == jnp.float64
    assert js.sample(sampler, lambda x, t: x, jnp.ones(3, jnp.float32), KEY).dtype == jnp.float32


def test_import_loads_jax_and_numpy_only():
    """In a fresh interpreter: nothing beyond what ``import jax`` loads, except ours and the standard library."""
    program = (
        "import sys, jax, jax.numpy, jax.tree_util, jax.flatten_util\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import jaxsamplers\n"
        "after = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(after - before - set(sys.stdlib_module_names)))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['jaxsamplers']"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: draw(js.solvers.ddpm(PROCESS, TIMES), NOISE, None), ValueError, "give it a PRNG key"),
        (lambda: js.sample(js.solvers.ddpm(PROCESS, TIMES), MIXTURE, NOISE, 0), TypeError, r"jax.random.key\(0\)"),
        (
            lambda: js.sample(js.solvers.ddpm(PROCESS, TIMES), MIXTURE, NOISE, jnp.zeros(2)),
            TypeError,
            "got an array of float32",
        ),
        (
            lambda: js.sample(js.solvers.ddpm(PROCESS, TIMES), MIXTURE, NOISE, jax.random.split(KEY, 3)),
            ValueError,
            r"3 keys for a sample of shape \(8, 2\)",
        ),
        (
            lambda: js.sample(js.solvers.ddim(PROCESS, TIMES), lambda x, t: x[0], NOISE),
            ValueError,
            r"must return what looks like x: \(8, 2\), but returned \(2,\)",
        ),
        (
            lambda: js.sample(js.solvers.ddim(PROCESS, TIMES), lambda x, t: (x, x), NOISE),
            ValueError,
            "must return what looks like x",
        ),
        (lambda: js.sample(js.solvers.ddim(PROCESS, TIMES), MIXTURE, jnp.arange(4)), ValueError, "x must be floating"),
        (lambda: js.solvers.ddim(PROCESS, TIMES)[2], TypeError, r"sliced, as in sampler\[2:5\], not indexed: got 2"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
