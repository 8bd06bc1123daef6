"""What the compiler is given and what it makes: accelerators lowered to from here, collectives, copies of the network.

Lowering needs no hardware, and finds what has no rule there; it is no proof that a program compiles or is right.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsamplers as js

PROCESS, MASKED = js.processes.vp_linear(), js.discrete.masked(4)
TIMES, UNIFORM = js.schedules.half_log_snr(PROCESS, 5), js.schedules.uniform(MASKED, 4)
KEY = jax.random.key(0)
ACCELERATORS = ("tpu", "cuda")
GIVEN = {"times": UNIFORM, "length": 4, "events": 4, "steps": 4, "counts": (2, 2), "at": 2, "loops": 2, "time": 0.5}


def logits(x, t):
    """Of tokens, with one time or one a sequence."""
    return t[..., None, None] * jnp.ones((*x.shape, 1)) * jnp.arange(4.0)


def lower(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=ACCELERATORS).as_text()


@pytest.mark.parametrize("name", js.solvers.registry)
def test_solvers_and_their_gradients_lower_for_accelerators(name):
    """With respect to times, through the table, and to the noise."""

    def loss(times, x):
        sampler = js.solvers.registry[name](PROCESS, times)
        return jnp.sum(js.sample(sampler, lambda x, t: jnp.tanh(x) * t, x, KEY) ** 2)

    text = lower(jax.value_and_grad(loss, argnums=(0, 1)), TIMES, jnp.ones((2, 3)))
    assert text.count("stablehlo.while") >= 2
    assert "callback" not in text


@pytest.mark.parametrize("name", js.discrete.registry)
def test_samplers_of_tokens_lower_for_accelerators(name):
    make = js.discrete.registry[name]
    asked = [p.name for p in list(inspect.signature(make).parameters.values())[1:] if p.default is p.empty]
    matrices = js.discrete.transition_matrices(js.discrete.uniform_steps(4, np.full(4, 0.3)))
    noisy = js.discrete.uniform(4)
    process = {"d3pm": matrices, "ddpd": noisy}.get(name, MASKED)
    model = js.discrete.planned_from(noisy, logits) if name == "ddpd" else logits

    given = {name: GIVEN[name] for name in asked}
    times = jnp.arange(4, -1, -1) if name == "d3pm" else UNIFORM
    sampler = None if "times" in given else make(process, **given)

    def draw(times, x, key):
        built = make(process, **given | {"times": times}) if sampler is None else sampler
        return js.sample(built, model, x, key)

    text = lower(draw, times, jnp.full((2, 4), 3), KEY)
    assert "stablehlo.while" in text
    assert "callback" not in text


@pytest.mark.parametrize("name", ["scaled", "tempered", "cached", "blocks"])
def test_transforms_of_token_samplers_lower_for_accelerators(name):
    d = js.discrete
    make = {
        "scaled": lambda sampler: d.scaled(sampler, jnp.linspace(0.8, 1, 4)),
        "tempered": lambda sampler: d.tempered(sampler, jnp.linspace(0.8, 1, 4)),
        "cached": d.cached,
        "blocks": lambda sampler: d.blocks(sampler, 4, 2),
    }[name]
    draw = lambda times, x, key: js.sample(make(d.ancestral(MASKED, times)), logits, x, key)
    text = lower(draw, UNIFORM, jnp.full((2, 4), 4), KEY)
    assert "stablehlo.while" in text
    assert "callback" not in text


def test_gradients_of_token_laws_lower_for_accelerators():
    """In times and in what LSD learns, a factor and a power a step."""
    x = jnp.full((2, 4), 4)

    def loss(times, factors, powers):
        sampler = js.discrete.tempered(js.discrete.scaled(js.discrete.remasking(MASKED, times), factors), powers)
        law = lambda row: sampler.law(row, x, logits(x, row.inner.time))
        return jnp.sum(jax.vmap(law)(sampler.rows) ** 2)

    assert "callback" not in lower(jax.value_and_grad(loss, (0, 1, 2)), UNIFORM, jnp.ones(4), jnp.ones(4))


WIDE = 37  # a size that only the network's product has


def network(x, t):
    return jnp.tanh(x @ jnp.full((3, WIDE), 0.1)) @ jnp.full((WIDE, 3), 0.1) * t


def compiled_on_eight_devices(sampler, axis_type):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    over = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        x, keys = jax.device_put((jnp.ones((16, 3)), js.sample_keys(KEY, jnp.arange(16))), over)
        draw = jax.jit(lambda sampler, x, keys: js.sample(sampler, network, x, keys))
        return draw.lower(sampler, x, keys).compile()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_samples_stay_where_they_are_and_meet_one_network(axis_type):
    """No collective, a network of two samples on each device, and that once."""
    text = compiled_on_eight_devices(js.solvers.ddpm(PROCESS, TIMES), axis_type).as_text()
    assert re.findall(r"all-\w+|collective-\w+|reduce-scatter", text) == []
    assert len(re.findall(rf"= f32\[2,{WIDE}\]\S* dot\(", text)) == 1
