"""Train a small Flax network on digits, watch its samples improve, and end with pictures.

    python -m experiments.train_digits --config configs/train_digits_linen.py
    python -m experiments.train_digits --config configs/train_digits_nnx.py --set train.steps=500 --out runs/short

The same command again goes on where the run stopped, however it stopped, and ends in the same numbers. In the run's
directory are

    config.json      the resolved settings; a run only resumes with equal ones (``train.steps`` may grow)
    history.jsonl    a line a chunk: step, mean loss, sliced Wasserstein distances of samples to real digits
    checkpoints/     the last two
    samples.png, trajectory.png, curves.png, summary.json      at the end
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments import digits, training
from experiments.digits import SHEET, Settings
from experiments.training import Training
from jaxsamplers import datasets, plotting
from jaxsamplers.records import history
from jaxsamplers.records.files import write_text

IMAGES = 96


def train(settings: Settings, out: str | Path) -> Training:
    """Train to ``settings.train.steps``, from the last checkpoint in ``out`` if there is one.

    Args:
        settings: the study's settings.
        out: the run's directory, made if need be.

    Returns:
        The final state.

    Raises:
        ValueError: ``out`` holds a run with other settings, or one that is further already.
        CheckpointError: the last checkpoint cannot be read; nothing has been changed then.
        FloatingPointError: the loss or the samples are no longer finite; the last good checkpoint is kept.
    """
    data, run = datasets.digits(), digits.chunk(settings)
    learn, held_out = jnp.asarray(data.train), jnp.asarray(data.held_out)
    return training.fit(settings, out, digits.build(settings), lambda now: run(now, learn, held_out), digits.NUMBERS)


def report(settings: Settings, trained: Training, out: str | Path) -> dict[str, Any]:
    """Draw the pictures and write ``summary.json``, whose contents are returned."""
    out, data = Path(out), datasets.digits()
    sampler = digits.sampler_of(settings)

    @jax.jit
    def draw(trained: Training) -> tuple[js.SolverState, jax.Array]:
        noise = digits.starting_noise(settings, trained, IMAGES, SHEET)
        state, path = js.run(sampler, digits.denoiser_of(settings, trained), noise, record=lambda state: state.x[0])
        return state, jnp.concatenate([noise[:1], path])

    state, path = draw(trained)
    rows = history.read(out / "history.jsonl")
    learn, held_out = jnp.asarray(data.train), jnp.asarray(data.held_out)
    real = jax.random.permutation(jax.random.key(0), learn)[: settings.sample.count]
    marks = {
        "train_distance": float(digits.distance(real, learn)),
        "held_out_distance": float(digits.distance(real, held_out)),
    }
    title = f"{settings.network.framework}, step {int(trained.step)}, {settings.sample.steps} network calls"
    plotting.sheet(state.x, out / "samples.png", columns=12, title=title)
    plotting.trajectory(path, digits.times_of(settings), out / "trajectory.png")
    plotting.curves(
        [row["step"] for row in rows],
        {name: [row[name] for row in rows] for name in digits.NUMBERS},
        out / "curves.png",
        logarithmic=["loss"],
        levels=marks,
    )
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(trained.network))
    summary = {**rows[-1], **{f"{name}_of_real_digits": mark for name, mark in marks.items()}, "parameters": parameters}
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.train_digits", description="Train on 8x8 digits.")
    parser.add_argument("--config", required=True, help="a settings file, such as configs/train_digits_linen.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="train.steps=500")
    parser.add_argument("--out", help="the run's directory; runs/<name of the settings file> by default")
    given = parser.parse_args(arguments)
    run = lambda settings, out: report(settings, train(settings, out), out)
    return training.command(given.config, given.set, given.out, run)


if __name__ == "__main__":
    raise SystemExit(main())
