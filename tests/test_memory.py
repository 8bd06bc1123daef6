"""What fits: batches in chunks, donated starts, what a gradient keeps."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsamplers as js

PROCESS = js.processes.vp_linear()
DDPM = js.solvers.ddpm(PROCESS, js.schedules.half_log_snr(PROCESS, 5))
KEYS = js.sample_keys(jax.random.key(0), jnp.arange(24))
X = jax.random.normal(jax.random.key(1), (24, 3))
WIDE = 37


def network(x, t):
    return jnp.tanh(x @ jnp.full((3, WIDE), 0.1)) @ jnp.full((WIDE, 3), 0.1) * t


def draw(x, keys):
    return {"image": js.sample(DDPM, network, x, keys), "norm": jnp.sum(x**2, axis=-1)}


@functools.cache
def whole():
    return jax.jit(draw)(X, KEYS)


@pytest.mark.parametrize("size", [7, 24, 100])
def test_samples_do_not_depend_on_chunks(size):
    """Whether or not the size divides the batch, which need not reach it."""
    parts = jax.jit(js.chunked(draw, size))(X, KEYS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6), whole(), parts)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_chunks_of_a_sharded_batch_stay_where_they_are(axis_type):
    """One sample a device in each of three chunks, and no collective."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        placed = jax.device_put((X, KEYS), NamedSharding(mesh, P("data")))
        compiled = jax.jit(js.chunked(draw, 8)).lower(*placed).compile()
        found = compiled(*placed)
    assert re.findall(r"all-\w+|collective-\w+|reduce-scatter", compiled.as_text()) == []
    assert len(re.findall(rf"= f32\[1,{WIDE}\]\S* (?:dot|fusion)\(", compiled.as_text())) >= 1
    np.testing.assert_allclose(found["image"], whole()["image"], rtol=1e-5, atol=1e-6)
    assert {shard.data.shape for shard in found["image"].addressable_shards} == {(3, 3)}


def memory(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile().memory_analysis()


def test_chunks_and_checkpoints_save_memory():
    """Forward, and in a gradient: a chunk of a sixteenth needs well below a quarter."""
    keys = js.sample_keys(jax.random.key(0), jnp.arange(256))
    first = jax.random.normal(jax.random.key(1), (3, 512))
    ddim = js.solvers.ddim(PROCESS, js.schedules.half_log_snr(PROCESS, 5))

    def draw(weight, keys, remat=True):
        x = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
        return js.sample(ddim, lambda x, t: jnp.tanh(x @ weight) @ weight.T * t, x, remat=remat)

    def loss(weight, keys, size, remat=True):
        made = functools.partial(draw, weight, remat=remat)
        return jnp.sum((js.chunked(made, size) if size else made)(keys) ** 2)

    def needed(size, remat=True):
        return memory(jax.grad(lambda weight, keys: loss(weight, keys, size, remat)), first, keys).temp_size_in_bytes

    all_at_once, forgetful, parts = needed(None, False), needed(None), needed(16)
    dots = needed(None, jax.checkpoint_policies.dots_saveable)
    assert parts < forgetful / 4
    assert forgetful < dots < all_at_once


def test_a_donated_start_is_the_memory_of_the_result():
    kept, given = (memory(draw, X, KEYS, donate_argnums=n) for n in ((), 0))
    assert kept.alias_size_in_bytes == 0
    assert given.alias_size_in_bytes == X.nbytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.chunked(draw, 0), "size must be at least 1, got 0"),
        (lambda: js.chunked(draw, 4)(X, KEYS[:3]), r"same leading axis, the batch, got \[3, 24\]"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
