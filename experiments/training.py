"""What every training program here shares: AdamW, an exponential average, checkpoints, a history, exact resume.

Everything a run depends on sits in one pytree, ``Training``: what step ``k`` draws comes from ``fold_in(key, k)``, so
there is no position in the data to be saved, and a run resumed from a checkpoint goes on to the same numbers. Training
goes in compiled chunks, each of which returns the numbers of its line in the history.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import optax

from experiments import config
from jaxsamplers import checks
from jaxsamplers.learn import Preempted
from jaxsamplers.records import checkpoints, history
from jaxsamplers.records.preemption import preemption
from jaxsamplers.records.progress import progress

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    Build = Callable[[Key[Array, ""]], PyTree]
    Chunk = Callable[["Training"], tuple["Training", dict[str, Array]]]
    Loss = Callable[[PyTree, Key[Array, ""]], Float[Array, ""]]

BATCHES = 0  # what the run's key is folded with for training; studies count on from here


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: gradient steps in all; a finished run given more goes on.
        batch: examples a step.
        learning_rate: of AdamW, after the warm-up.
        warmup: steps of linear warm-up; constant afterwards (the average does the annealing), so that the numbers
            of a run do not depend on how far it is meant to go.
        weight_decay: of AdamW.
        average: decay of the exponential average of the parameters.
        chunk: steps compiled into one program; a line of history each.
        checkpoint: steps between checkpoints, a multiple of ``chunk``.
        seed: of everything random.
    """

    steps: int = 5000
    batch: int = 96
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    average: float = 0.998
    chunk: int = 100
    checkpoint: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "chunk", "checkpoint"):
            checks.integer(name, getattr(self, name), low=1)
        for name in ("warmup", "seed"):
            checks.integer(name, getattr(self, name), low=0)
        checks.within("learning_rate", self.learning_rate, 0.0, above=True)
        checks.within("weight_decay", self.weight_decay, 0.0)
        checks.within("average", self.average, 0.0, 1.0)
        for name in ("steps", "checkpoint"):
            if getattr(self, name) % self.chunk:
                raise ValueError(f"{name} must be a multiple of chunk ({self.chunk}), got {getattr(self, name)}")


class Study(Protocol):
    """Settings of a study that is trained."""

    @property
    def train(self) -> TrainSettings:
        """How to train."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Training:
    """All a run needs to go on.

    Attributes:
        network: the network, a callable pytree of parameters.
        average: the same with averaged parameters.
        optimiser: AdamW's moments.
        key: the run's PRNG key, never changed.
        step: gradient steps taken.
    """

    network: PyTree
    average: PyTree
    optimiser: PyTree
    key: Key[Array, ""]
    step: Int[Array, ""]


def start(settings: TrainSettings, build: Build) -> Training:
    """The state before the first step, on the first device; ``build`` makes the network of a key."""
    return jax.device_put(jax.jit(lambda: _start(settings, build))(), jax.devices()[0])


def resume(settings: TrainSettings, build: Build, directory: str | Path) -> Training:
    """The state saved in the last checkpoint in ``directory``; raises what ``checkpoints.restore`` does."""
    return checkpoints.restore(directory, jax.eval_shape(lambda: _start(settings, build)))


def step(settings: TrainSettings, now: Training, loss: Loss) -> tuple[Training, Float[Array, ""]]:
    """One gradient step of ``loss(network, key)``, whose key is this step's own."""
    key = jax.random.fold_in(jax.random.fold_in(now.key, BATCHES), now.step)
    value, gradient = jax.value_and_grad(loss)(now.network, key)
    updates, moments = _optimiser(settings).update(gradient, now.optimiser, now.network)
    network = optax.apply_updates(now.network, updates)
    decay = jnp.minimum(settings.average, (1 + now.step) / (10 + now.step))
    average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, now.average, network)
    return Training(network, average, moments, now.key, now.step + 1), value


def fit(settings: Study, out: str | Path, build: Build, chunk: Chunk, numbers: Sequence[str]) -> Training:
    """Train to ``settings.train.steps``, from the last checkpoint in ``out`` if there is one.

    Args:
        settings: the study's settings, any frozen dataclass with a part ``train``.
        out: the run's directory, made if need be.
        build: makes the network of a key.
        chunk: the compiled steps, which return the numbers of a line of the history.
        numbers: their names, in order.

    Returns:
        The final state.

    Raises:
        ValueError: ``out`` holds a run with other settings, or one that is further already.
        CheckpointError: the last checkpoint cannot be read, or the next not be written; nothing is lost.
        FloatingPointError: numbers are no longer finite; the last good checkpoint is kept.
        Preempted: SIGTERM came, and the run is saved.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    training = _go_on(settings, out, build)
    done, total = int(training.step), settings.train.steps
    with progress("training", total, done) as advance, preemption() as told:
        while done < total:
            training, line = chunk(training)
            shown = {name: float(line[name]) for name in numbers}
            if not all(map(math.isfinite, shown.values())):
                raise FloatingPointError(_not_finite(shown, done, done + settings.train.chunk, out))
            done += settings.train.chunk
            history.append(out / "history.jsonl", {"step": done, **shown})
            leaving = told(done)
            if leaving or done % settings.train.checkpoint == 0 or done == total:
                checkpoints.save(out / "checkpoints", done, training)
            advance(done, **shown)
            if leaving:
                raise Preempted(f"told to leave (SIGTERM): the run is saved in {out} at step {done} of {total}", done)
    return training


def command(path: str, assignments: Sequence[str], out: str | None, run: Callable[[Any, Path], dict[str, Any]]) -> int:
    """What a program of the command line does: settings from a file, a run that may be interrupted, its summary.

    Args:
        path: the settings file.
        assignments: settings to change, ``train.steps=500``.
        out: the run's directory; ``runs/<name of the settings file>`` by default.
        run: trains and reports, ``(settings, directory) -> summary``.

    Returns:
        The exit status.
    """
    directory = Path(out or Path("runs") / Path(path).stem)
    try:
        summary = run(config.override(config.load(path), assignments), directory)
    except Preempted as error:
        print(f"{error}, where the same command goes on", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (ValueError, OSError, FloatingPointError, checkpoints.CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = checkpoints.steps(directory / "checkpoints")
        print(f"interrupted; the same command goes on from step {kept[-1] if kept else 0}", file=sys.stderr)
        return 130
    print(" ".join(f"{name}={value:.5g}" for name, value in summary.items()))
    print(f"results: {', '.join(str(file) for file in sorted(directory.glob('*.*')))}")
    return 0


def _start(settings: TrainSettings, build: Build) -> Training:
    key = jax.random.key(settings.seed)
    network = build(jax.random.fold_in(key, 0))
    moments = _optimiser(settings).init(network)
    return Training(network, network, moments, jax.random.fold_in(key, 1), jnp.zeros((), jnp.int32))


def _go_on(settings: Study, out: Path, build: Build) -> Training:
    """The last checkpoint, or the start; the history is cut back to it only after it has been read."""
    written = out / "config.json"
    changed = config.differences(settings, written, ignore=["train.steps"]) if written.exists() else []
    if changed:
        raise ValueError(
            f"{out} holds a run with other settings; give another --out, or the same settings to go on. "
            f"Changed: {'; '.join(changed)}"
        )
    last = checkpoints.last(out / "checkpoints")
    if last > settings.train.steps:
        raise ValueError(f"{out} is already at step {last}, beyond train.steps={settings.train.steps}")
    training = resume(settings.train, build, out / "checkpoints") if last else start(settings.train, build)
    history.cut(out / "history.jsonl", int(training.step))
    config.write(settings, written)
    return training


def _not_finite(shown: dict[str, Any], before: int, after: int, out: Path) -> str:
    kept = checkpoints.steps(out / "checkpoints")
    good = f"the last good checkpoint, of step {kept[-1]}, is kept" if kept else "there is no checkpoint yet"
    values = " and ".join(f"{name} {value}" for name, value in shown.items())
    return (
        f"training broke down between steps {before} and {after}: {values}; {good} in {out / 'checkpoints'}. "
        "A smaller train.learning_rate or a longer train.warmup usually helps (with another --out)."
    )


def _optimiser(settings: TrainSettings) -> optax.GradientTransformation:
    rate = (
        optax.linear_schedule(0.0, settings.learning_rate, settings.warmup)
        if settings.warmup
        else settings.learning_rate
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=settings.weight_decay))
