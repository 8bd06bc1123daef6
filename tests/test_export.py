"""Artefacts: what they compute elsewhere, with open sizes, and what cannot become one."""

import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from jaxsamplers.cli import main

pytest.importorskip("flatbuffers")

PROCESS = js.processes.vp_linear()
TIMES = js.schedules.half_log_snr(PROCESS, 4)
DDPM = js.solvers.ddpm(PROCESS, TIMES)
NETWORK = nn.Dense(4)
WEIGHTS = NETWORK.init(jax.random.key(0), jnp.ones((1, 4)))
KEY = jax.random.key(1)
X = jax.random.normal(KEY, (5, 4))

ELSEWHERE = """
import sys
import numpy as np
import jax, jax.export
draw = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
x = np.load(sys.argv[2])
loss = lambda x: (draw(x, jax.random.key(1)) ** 2).sum()
np.savez(sys.argv[3], out=jax.jit(draw)(x, jax.random.key(1)), slope=jax.jit(jax.grad(loss))(x))
known = {name.partition(".")[0] for name in sys.modules}
assert not known & {"flax", "jaxsamplers", "tests"}, known
"""


def network(x, t):
    return jnp.tanh(NETWORK.apply(WEIGHTS, x)) * t


def draw(x, key):
    return js.sample(DDPM, network, x, key)


def test_round_trip_into_a_process_without_flax_or_model(tmp_path):
    """Another batch than the example's, the same samples and gradients; one file for three platforms."""
    made = js.export(draw, X[:2], KEY, shapes=("batch, ...", None))
    assert made.platforms == ("cpu", "cuda", "tpu")
    paths = [str(tmp_path / name) for name in ("draw.jaxexport", "x.npy", "out.npz")]
    js.exports.save(paths[0], made, gradients=True)
    np.save(paths[1], X)
    subprocess.run([sys.executable, "-c", ELSEWHERE, *paths], check=True)
    with np.load(paths[2]) as file:
        found = dict(file)
    np.testing.assert_allclose(found["out"], draw(X, KEY), rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda x: (draw(x, KEY) ** 2).sum())(X)
    np.testing.assert_allclose(found["slope"], slope, rtol=1e-4, atol=1e-5)


def test_one_file_for_every_number_of_steps(tmp_path):
    """Tables, one key per sample and states pass through the file."""
    keys = js.sample_keys(KEY, jnp.arange(5))
    program = lambda sampler, x, keys: js.run(sampler, network, x, keys)
    made = js.export(program, DDPM, X, keys, shapes=("steps, ...", "batch, ...", "batch"), platforms=["cpu"])
    js.exports.save(tmp_path / "steps.jaxexport", made)
    loaded = jax.jit(js.exports.load(tmp_path / "steps.jaxexport").call)
    sampler = js.solvers.ddpm(PROCESS, js.schedules.uniform(PROCESS, 7))
    state = loaded(sampler, X[:3], keys[:3])
    assert isinstance(state, js.SolverState)
    assert int(state.step) == 7
    np.testing.assert_allclose(state.x, js.sample(sampler, network, X[:3], keys[:3]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"(?i)pytree"):
        loaded(js.solvers.heun(PROCESS, TIMES), X, keys)


def test_gradients_of_numbers_and_parallel_sampling_are_exported(tmp_path):
    slope = jax.grad(lambda sampler, x, key: (js.sample(sampler, network, x, key) ** 2).sum())
    made = js.export(slope, DDPM, X, KEY, shapes=("steps, ...", "batch, ...", None))
    want = slope(DDPM, X, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), made.call(DDPM, X, KEY), want)
    picard = lambda x, key: js.parallel.picard(DDPM, network, x, key, window=2, tolerance=0.0)
    js.exports.save(tmp_path / "picard.jaxexport", js.export(picard, X, KEY, shapes=("batch, ...", None)))
    found = js.exports.load(tmp_path / "picard.jaxexport").call(X, KEY)
    np.testing.assert_allclose(found.x, draw(X, KEY), rtol=1e-5, atol=1e-5)


def test_tokens_of_any_length():
    process = js.discrete.masked(4)
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 3))
    network = lambda x, t: jnp.zeros((*x.shape, 4)) + t * jnp.arange(4)
    program = lambda x, key: js.sample(sampler, network, x, key)
    mask = jnp.full((2, 3), 4)
    made = js.export(program, mask, KEY, shapes=("batch, length", None))
    longer = jnp.full((3, 5), 4)
    np.testing.assert_array_equal(made.call(longer, KEY), program(longer, KEY))


def called_back(x):
    return jax.lax.scan(lambda c, _: (jax.pure_callback(np.tanh, c, c), None), x, None, length=2)[0]


def printed(x):
    jax.debug.print("{}", x.sum())
    return x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda _: js.export(draw, X, KEY, platforms=["gpu"]), ValueError, "unknown platform 'gpu'.*cpu, cuda, tpu"),
        (lambda _: js.export(draw, X, KEY, platforms=[]), ValueError, "at least one of cpu"),
        (lambda _: js.export(draw, X, KEY, shapes=["batch, ..."]), ValueError, "each of the 2 arguments, got 1"),
        (lambda _: js.export(called_back, X), ValueError, r"cannot call back.*\(pure_callback\)"),
        (lambda _: js.export(printed, X), ValueError, "cannot call back to Python.*take jax.debug.print"),
        (lambda _: js.export(draw, X, KEY, platforms=["tpu"]).call(X, KEY), ValueError, "(?i)platform"),
        (
            lambda path: js.exports.save(path, js.export(lambda p, x: x, PROCESS, X)),
            ValueError,
            "close over everything else",
        ),
        (lambda path: (path.write_bytes(b"no program"), js.exports.load(path)), ValueError, "is no artefact"),
        (lambda path: js.exports.load(path), FileNotFoundError, "artefact"),
    ],
)
def test_what_cannot_be_exported_is_refused(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(tmp_path / "artefact")


@pytest.mark.parametrize("readable", [True, False])
def test_a_file_of_a_newer_jax(tmp_path, readable):
    """It is known when it is loaded whether it can be called: an operation in a version that nobody has yet."""
    path = tmp_path / "add.jaxexport"
    js.exports.save(path, js.export(lambda x: x + 1, X, platforms=["cpu"]))
    data = path.read_bytes()
    newer = re.sub(rb"StableHLO_v\d", b"StableHLO_v9", data)
    newer = newer if readable else newer.replace(b"add_v1", b"add_v9")
    assert newer != data
    path.write_bytes(newer)
    if readable:
        np.testing.assert_allclose(js.exports.load(path).call(X), X + 1)
    else:
        with pytest.raises(ValueError, match=r"add\.jaxexport was written by a JAX that is too new for this one, .*v9"):
            js.exports.load(path)


def test_the_command(tmp_path, capsys):
    """The same samples for the same keys in every batch, from whatever the file has inside."""
    out = tmp_path / "mixture.jaxexport"
    words = ["export", "--problem", "mixture", "--solver", "ddpm", "--steps", "3", "--process", "edm", "--out"]
    assert main([*words, str(out)]) == 0
    assert "key<fry>[batch] -> float32[batch, 2]" in capsys.readouterr().out
    draw = js.exports.load(out).call
    keys = jax.random.split(KEY, 5)
    many, few = draw(keys), draw(keys[3:])
    np.testing.assert_allclose(few, many[3:], rtol=1e-5, atol=1e-6)
    assert 0.1 < float(jnp.abs(many).max()) < 5
    for wrong, sentence in (
        (["nowhere/x"], "there is no folder nowhere"),
        (["x", "--platform", "gpu"], "unknown platform"),
    ):
        assert main([*words, *wrong]) == 2
        assert sentence in capsys.readouterr().err
