"""The digits study: its settings, its training step, and the denoiser it leaves behind.

A network is trained on real 8x8 digits by denoising: draw ``x_t = alpha x0 + sigma eps`` at a random time and ask for
what a perfect network of the chosen prediction type (``v``, say) would answer,

    loss = E || network(x_t, t) - target(x0, x_t, t) ||^2

Beside the network its exponential average is kept, which is what samples are drawn from. Everything the run depends
on sits in one pytree, ``Training``: the batch of step ``k`` comes from ``fold_in(key, k)``, so there is no position in
the data to be saved and a run resumed from a checkpoint goes on to the same numbers.

Training goes in compiled chunks. Inside the compiled chunk, after its last step, the sampler runs on the
averaged network and the samples are compared with real digits; only three numbers leave the program.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

import jaxsamplers as js
from experiments.networks import NetworkSettings, build
from jaxsamplers import checks, metrics
from jaxsamplers.records import checkpoints

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key, PyTree

    Images = Float[Array, "n 8 8 1"]
    Chunk = Callable[["Training", Images, Images], tuple["Training", dict[str, Array]]]

NUMBERS = ("loss", "train_distance", "held_out_distance")
BATCHES, PREVIEW, SHEET = range(3)  # what the run's key is folded with, one number a purpose


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        steps: gradient steps in all; a finished run given more goes on.
        batch: images a step.
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


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How to sample, while training and at the end.

    Attributes:
        count: samples compared with real digits after every chunk.
        steps: network calls of DPM-Solver++ a sample.
        order: of DPM-Solver++.
        schedule: which times, a name in ``jaxsamplers.schedules.registry``.
    """

    count: int = 256
    steps: int = 16
    order: int = 2
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        checks.integer("count", self.count, low=2)
        checks.integer("steps", self.steps, low=1)
        checks.integer("order", self.order, low=1, high=3)
        checks.one_of("schedule", self.schedule, js.schedules.registry)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The whole study.

    Attributes:
        process: forward noising, a name in ``jaxsamplers.processes.registry`` whose times lie in [0, 1].
        prediction: what the network predicts: "epsilon", "x0", "v" or "velocity".
        network: its architecture.
        train: how it is trained.
        sample: how samples are drawn.
    """

    process: str = "vp_cosine"
    prediction: str = "v"
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    sample: SampleSettings = dataclasses.field(default_factory=SampleSettings)

    def __post_init__(self) -> None:
        longer = ("edm", "pfgm_plus_plus")
        checks.one_of("process", self.process, [name for name in js.processes.registry if name not in longer])
        checks.one_of("prediction", self.prediction, ("epsilon", "x0", "v", "velocity"))


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


def start(settings: Settings) -> Training:
    """The state before the first step, on the first device."""
    return jax.device_put(jax.jit(lambda: _start(settings))(), jax.devices()[0])


def resume(settings: Settings, directory: str | Path) -> Training:
    """The state saved in the last checkpoint in ``directory``; raises what ``checkpoints.restore`` does."""
    return checkpoints.restore(directory, jax.eval_shape(lambda: _start(settings)))


def _start(settings: Settings) -> Training:
    key = jax.random.key(settings.train.seed)
    network = build(settings.network, jax.random.fold_in(key, 0))
    moments = _optimiser(settings.train).init(network)
    return Training(network, network, moments, jax.random.fold_in(key, 1), jnp.zeros((), jnp.int32))


def chunk(settings: Settings) -> Chunk:
    """The compiled program ``(training, digits, held_out) -> (training, numbers)``: many steps, then samples.

    The numbers are the mean ``loss`` of the chunk, and the distances of samples to the digits trained on
    (``train_distance``: has the network learnt them?) and to others (``held_out_distance``: nothing but them?).
    Neither goes to 0: the mark is what as many real training digits have, some way off the held-out ones, which are by
    other hands.
    """
    process, optimiser, sampler = process_of(settings), _optimiser(settings.train), sampler_of(settings)

    def step(now: Training, digits: Images) -> tuple[Training, Float[Array, ""]]:
        pick, noise = jax.random.split(jax.random.fold_in(jax.random.fold_in(now.key, BATCHES), now.step))
        batch = digits[jax.random.randint(pick, (settings.train.batch,), 0, len(digits))]
        loss, gradient = jax.value_and_grad(denoising_loss)(now.network, process, settings.prediction, noise, batch)
        updates, moments = optimiser.update(gradient, now.optimiser, now.network)
        network = optax.apply_updates(now.network, updates)
        decay = jnp.minimum(settings.train.average, (1 + now.step) / (10 + now.step))
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, now.average, network)
        return Training(network, average, moments, now.key, now.step + 1), loss

    @jax.jit
    def run(now: Training, digits: Images, held_out: Images) -> tuple[Training, dict[str, Array]]:
        now, losses = jax.lax.scan(lambda now, _: step(now, digits), now, length=settings.train.chunk)
        samples = draw(settings, sampler, now, settings.sample.count, PREVIEW)
        return now, {
            "loss": jnp.mean(losses),
            "train_distance": distance(samples, digits),
            "held_out_distance": distance(samples, held_out),
        }

    return run


def denoising_loss(
    network: Callable[..., Any], process: js.processes.Process, prediction: str, key: Key[Array, ""], x0: Images
) -> Float[Array, ""]:
    """Mean squared error of what the network predicts, over times spread evenly through the process's range."""
    noise, offset = jax.random.split(key)
    even = (jnp.arange(len(x0)) + jax.random.uniform(offset)) / len(x0)
    t = process.t_min + (process.t_max - process.t_min) * even
    x = process.forward(noise, x0, t)
    target = js.predict(lambda x, t: x0, process, prediction)(x, t)
    return jnp.mean((network(x, t) - target) ** 2)


def process_of(settings: Settings) -> js.processes.Process:
    """The forward process; rectified flow stops short of its ends, where some predictions are not defined."""
    limits = {"t_min": 1e-3, "t_max": 0.999} if settings.process in ("rectified_flow", "trigonometric") else {}
    return js.processes.registry[settings.process](**limits)


def sampler_of(settings: Settings) -> js.Tableau:
    """DPM-Solver++ on the schedule that the settings name."""
    return js.solvers.dpm_solver_pp(process_of(settings), times_of(settings), order=settings.sample.order)


def times_of(settings: Settings) -> Float[Array, " n+1"]:
    """The sampling schedule."""
    return js.schedules.registry[settings.sample.schedule](process_of(settings), settings.sample.steps)


def denoiser_of(settings: Settings, training: Training) -> js.denoisers.Denoiser:
    """The averaged network as a denoiser."""
    return js.denoiser(training.average, process_of(settings), settings.prediction)


def draw(settings: Settings, sampler: js.Sampler, training: Training, count: int, role: int) -> Images:
    """Samples from the averaged network; ``role`` picks the starting noise, the same at every step of a run."""
    return js.sample(sampler, denoiser_of(settings, training), starting_noise(settings, training, count, role))


def starting_noise(settings: Settings, training: Training, count: int, role: int) -> Images:
    """What sampling starts from."""
    return process_of(settings).prior(jax.random.fold_in(training.key, role), (count, *settings.network.shape))


def distance(x: Images, y: Images) -> Float[Array, ""]:
    """Sliced Wasserstein distance along the same directions every time."""
    return metrics.sliced_wasserstein(jax.random.key(0), x, y)


def load(directory: str | Path) -> tuple[Settings, Training]:
    """A trained run: its settings and its last checkpoint. ``denoiser_of`` makes a denoiser of them.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint, in ``directory``.
        CheckpointError: the checkpoint cannot be read.
    """
    written = json.loads((Path(directory) / "config.json").read_text())
    sections = {"network": NetworkSettings, "train": TrainSettings, "sample": SampleSettings}
    settings = Settings(
        **{name: sections[name](**value) if name in sections else value for name, value in written.items()}
    )
    return settings, resume(settings, Path(directory) / "checkpoints")


def _optimiser(settings: TrainSettings) -> optax.GradientTransformation:
    rate = (
        optax.linear_schedule(0.0, settings.learning_rate, settings.warmup)
        if settings.warmup
        else settings.learning_rate
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=settings.weight_decay))
