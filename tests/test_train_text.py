"""The tokens study: learns, resumes to the same numbers, writes what it says; and the digits network of the package."""

from __future__ import annotations

import dataclasses
import functools
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import config, token_networks, tokens, train_text, training
from jaxsamplers import datasets, metrics
from jaxsamplers.discrete import digits, losses, text
from jaxsamplers.records import checkpoints, history

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = ["network.width=8", "network.depth=1", "network.heads=2", "network.hidden=1", "sample.count=4", "sample.steps=2"]
TINY += ["train.batch=16", "train.warmup=0", "train.chunk=10", "train.checkpoint=20", "train.steps=60", "length=8"]


def tiny(name: str, *more: str) -> tokens.Settings:
    return config.override(config.load(CONFIGS / f"train_text_{name}.py"), [*TINY, *more])


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    compiled = functools.cache(tokens.chunk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "chunk", lambda settings: compiled(config.override(settings, ["train.steps=60"])))
        yield


def test_an_interrupted_run_learns_and_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    settings, append = tiny("uniform"), history.append
    train_text.train(settings, tmp_path / "straight")

    def interrupt(file, row):
        append(file, row)
        if row["step"] == 50:  # beyond the checkpoint of step 40: this line has to be taken back
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(history, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_text.train(settings, tmp_path / "cut")
    assert checkpoints.steps(tmp_path / "cut" / "checkpoints") == [20, 40]

    def leave(file, row):
        append(file, row)
        if row["step"] == 50:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(history, "append", leave)
        with pytest.raises(
            js.learn.Preempted, match=r"told to leave \(SIGTERM\): the run is saved in .* at step 50 of 60"
        ):
            train_text.train(settings, tmp_path / "cut")
    assert checkpoints.steps(tmp_path / "cut" / "checkpoints") == [40, 50]
    train_text.train(settings, tmp_path / "cut")
    one, other = (history.read(tmp_path / run / "history.jsonl") for run in ("straight", "cut"))
    assert one == other
    assert [row["step"] for row in one] == [10, 20, 30, 40, 50, 60]
    assert one[-1]["held_out_bits"] < 0.97 * one[0]["held_out_bits"]
    assert set(one[0]) == {"step", "loss", "held_out_bits", "chain_bits", "entropy"}
    restore = lambda run: training.resume(settings.train, tokens.build(settings), tmp_path / run / "checkpoints")
    plain = lambda state: dataclasses.replace(state, key=jax.random.key_data(state.key))
    jax.tree.map(np.testing.assert_array_equal, plain(restore("straight")), plain(restore("cut")))
    with pytest.raises(ValueError, match=r"train\.batch: 16 before, 8 now"):
        train_text.train(tiny("uniform", "train.batch=8"), tmp_path / "cut")


def test_the_command_line_leaves_samples_curves_and_a_summary(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_text, "SAMPLES", 5)
    arguments = ["--config", str(CONFIGS / "train_text_masked.py"), "--out", str(tmp_path), "--set"]
    assert train_text.main([*arguments, *TINY, "train.steps=20"]) == 0
    lines = (tmp_path / "samples.txt").read_text().splitlines()
    assert [len(line) for line in lines] == [8] * 5
    assert set("".join(lines)) <= set(text.ALPHABET)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 3 < summary["held_out_bits"] < 6
    assert summary["chain_bits"] > summary["chain_bits_of_real"]
    assert summary["entropy"] < np.log2(29) + 1e-6
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "samples.txt" in capsys.readouterr().out
    assert train_text.main([*arguments, "sample.sampler=ancestrl"]) == 1
    assert "did you mean ancestral" in capsys.readouterr().err
    with pytest.raises(ValueError, match="length of digits is 64, got 8"):
        tiny("digits")


def test_held_out_text_is_not_learnt_from(monkeypatch):
    monkeypatch.setattr(text, "corpus", lambda: np.arange(45_000))
    learn, held_out = tokens.data_of(tiny("masked"))
    assert not set(learn.ravel()) & set(held_out.ravel())
    assert len(set(held_out.ravel())) == held_out.size == 4096
    assert (np.diff(learn, axis=1) == 1).all()


def test_only_a_network_that_is_told_the_time_depends_on_it():
    settings = token_networks.NetworkSettings(width=8, depth=1, heads=2, hidden=1)
    x = jnp.arange(8).reshape(2, 4) % 5

    def answers(settings):
        network = jax.eval_shape(lambda: token_networks.build(settings, 5, 4, jax.random.key(0)))
        rng = np.random.default_rng(0)
        network = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 3, network)
        return jax.jit(lambda: [network(x, jnp.asarray(t)) for t in (0.2, 0.7, np.array([0.2, 0.7]))])()

    early, late, _ = answers(settings)
    assert early.shape == (2, 4, 5)
    np.testing.assert_allclose(early, late, rtol=1e-6)
    early, late, mixed = answers(dataclasses.replace(settings, time=True))
    assert jnp.abs(early - late).max() > 1e-2
    np.testing.assert_allclose(mixed, jnp.stack([early[0], late[1]]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="heads must divide the width 8, got 3"):
        token_networks.NetworkSettings(width=8, heads=3)


def test_the_packages_digits_network_is_the_trained_one():
    """Its plain arrays answer as the Flax module does, and its bound is the one that was measured."""
    about, network = digits.about(), digits.network()
    settings = token_networks.NetworkSettings(**about["settings"]["network"])
    held_out = digits.encode(datasets.digits().held_out[:128])
    x = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, held_out[:4].shape), held_out[:4], digits.LEVELS)
    parameters: dict = {}
    for name, array in network.args[0].items():
        *path, last = name.split("/")
        flat = array.reshape(*array.shape[:-2], -1) if path[-1:] == ["look"] else array
        functools.reduce(lambda tree, part: tree.setdefault(part, {}), path, parameters)[last] = flat
    module = token_networks.Transformer(settings, digits.LEVELS, 64)
    theirs, ours, bound = jax.jit(
        lambda: (
            module.apply({"params": parameters}, x, jnp.zeros(())),
            network(x, jnp.zeros(())),
            losses.mdlm(digits.process(), network, held_out, jax.random.key(1))[0] / jnp.log(2.0),
        )
    )()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert abs(bound - about["numbers"]["held_out_bits"]) < 0.15


def test_digits_are_tokens_and_back_and_are_drawn():
    held_out = datasets.digits().held_out
    x = digits.encode(held_out)
    assert x.shape == (len(held_out), 64)
    np.testing.assert_array_equal(digits.decode(x), held_out)
    assert digits.decode(jnp.full((1, 64), digits.LEVELS)).max() == 0
    process = digits.process()
    sampler = js.discrete.ancestral(process, js.schedules.uniform(process, 8))
    key = jax.random.key(0)
    drawn = jax.jit(lambda: js.sample(sampler, digits.network(), process.prior(key, (32, 64)), key))()
    assert metrics.energy_distance(digits.decode(drawn), held_out) < 0.7  # random tokens have 4
