"""Train a small Flax transformer on English characters (or digits, or countdown), and sample while it learns.

    python -m experiments.train_text --config configs/train_text_masked.py
    python -m experiments.train_text --config configs/train_text_uniform.py --set train.steps=500 --out runs/short
    python -m experiments.train_text --config configs/train_text_digits.py
    python -m experiments.train_text --config configs/train_text_countdown.py

The same command again goes on where the run stopped, however it stopped, and ends in the same numbers. In the run's
directory are

    config.json      the resolved settings; a run only resumes with equal ones (``train.steps`` may grow)
    history.jsonl    a line a chunk: step, mean loss, bound on held-out data, two numbers of samples
    checkpoints/     the last two
    samples.txt (digits: samples.png, weights.npz), curves.png, summary.json      at the end
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

from experiments import config, tokens, training
from experiments.tokens import HELD_OUT, SHEET, Settings
from experiments.training import Training
from jaxsamplers import plotting
from jaxsamplers.discrete import digits, text
from jaxsamplers.records import history
from jaxsamplers.records.files import write_text

SAMPLES, ROUNDS = 288, 8  # drawn at the end; rounds of noise for the bound


def train(settings: Settings, out: str | Path) -> Training:
    """Train to ``settings.train.steps``, from the last checkpoint in ``out``; raises what ``training.fit`` does."""
    data, run = tokens.data_of(settings), tokens.chunk(settings)
    learn, held_out = jnp.asarray(data.learn), jnp.asarray(data.held_out)
    return training.fit(settings, out, tokens.build(settings), lambda now: run(now, learn, held_out), settings.numbers)


def report(settings: Settings, trained: Training, out: str | Path) -> dict[str, Any]:
    """Write samples, curves and ``summary.json``, whose contents are returned.

    Beside each number of the samples stands that of as many real sequences.
    """
    out, data = Path(out), tokens.data_of(settings)
    judge, name = tokens.judge_of(settings), settings.numbers[2]

    @jax.jit
    def look(trained: Training, held_out: jax.Array, real: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        keys = jax.random.split(jax.random.fold_in(trained.key, HELD_OUT), ROUNDS)
        bits = jax.lax.map(lambda key: jnp.mean(tokens.bits(settings, trained, held_out, key)), keys)
        samples = tokens.draw(settings, trained, SAMPLES, SHEET)
        return samples, {
            "held_out_bits": jnp.mean(bits),
            "held_out_bits_error": jnp.std(bits) / jnp.sqrt(ROUNDS - 1.0),
            name: judge(samples, held_out),
            "entropy": tokens.entropy(samples, settings.vocab),
            f"{name}_of_real": judge(real, held_out),
            "entropy_of_real": tokens.entropy(real, settings.vocab),
        }

    real = np.random.default_rng(0).permutation(data.learn)[:SAMPLES]
    samples, numbers = look(trained, jnp.asarray(data.held_out), jnp.asarray(real))
    rows = history.read(out / "history.jsonl")
    parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(trained.network))
    summary = {"step": int(trained.step), "parameters": parameters}
    summary |= {key: round(float(value), 4) for key, value in numbers.items()}
    if settings.data == "digits":
        plotting.sheet(digits.decode(samples), out / "samples.png", columns=24, title=f"step {int(trained.step)}")
        save_weights(settings, trained, summary, out / "weights.npz")
    else:
        write = text.decode if settings.data == "text" else lambda line: " ".join(map(str, line))
        write_text(out / "samples.txt", "".join(write(np.asarray(line)) + "\n" for line in samples))
    plotting.curves(
        [row["step"] for row in rows],
        {name: [row[name] for row in rows] for name in settings.numbers},
        out / "curves.png",
        logarithmic=[],
        levels={key: summary[f"{key}_of_real"] for key in settings.numbers[2:]},
    )
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def save_weights(settings: Settings, trained: Training, summary: dict[str, Any], path: Path) -> None:
    """The averaged parameters in float16, by name, and what they are: what ``discrete/digits.py`` reads."""
    leaves = jax.tree_util.tree_leaves_with_path(trained.average)
    arrays: dict[str, Any] = {}
    for keys, leaf in leaves:
        name = "/".join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey)).removeprefix("params/")
        heads = (settings.network.heads, -1) if "/look/" in name else leaf.shape[-1:]  # the shape tells the heads
        arrays[name] = np.asarray(leaf, np.float16).reshape(*leaf.shape[:-1], *heads)
    about = {
        "made by": "python -m experiments.train_text",
        "data": "UCI handwritten digits bundled with scikit-learn; 297 of 1797, picked at random, held out",
        "settings": config.to_json(settings),
        "numbers": summary,
    }
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.asarray(json.dumps(about)), **arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.train_text", description="Train on characters.")
    parser.add_argument("--config", required=True, help="a settings file, such as configs/train_text_masked.py")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="train.steps=500")
    parser.add_argument("--out", help="the run's directory; runs/<name of the settings file> by default")
    given = parser.parse_args(arguments)
    run = lambda settings, out: report(settings, train(settings, out), out)
    return training.command(given.config, given.set, given.out, run)


if __name__ == "__main__":
    raise SystemExit(main())
