"""The digits study: its settings, its training step, and the denoiser it leaves behind.

A network is trained on real 8x8 digits by denoising: draw ``x_t = alpha x0 + sigma eps`` at a random time and ask for
what a perfect network of the chosen prediction type (``v``, say) would answer,

    loss = E || network(x_t, t) - target(x0, x_t, t) ||^2

Beside the network its exponential average is kept, which is what samples are drawn from (``training.py``). Training
goes in compiled chunks. Inside the compiled chunk, after its last step, the sampler runs on the
averaged network and the samples are compared with real digits; only three numbers leave the program.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

import jaxsamplers as js
from experiments import networks, training
from experiments.networks import NetworkSettings
from experiments.training import Training, TrainSettings
from jaxsamplers import checks, metrics

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    Images = Float[Array, "n 8 8 1"]
    Chunk = Callable[[Training, Images, Images], tuple[Training, dict[str, Array]]]

NUMBERS = ("loss", "train_distance", "held_out_distance")
PREVIEW, SHEET = 1, 2  # what the run's key is folded with, one number a purpose; 0 is training's


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


def build(settings: Settings) -> Callable[..., Any]:
    """What makes the network of a key."""
    return functools.partial(networks.build, settings.network)


def chunk(settings: Settings) -> Chunk:
    """The compiled program ``(training, digits, held_out) -> (training, numbers)``: many steps, then samples.

    The numbers are the mean ``loss`` of the chunk, and the distances of samples to the digits trained on
    (``train_distance``: has the network learnt them?) and to others (``held_out_distance``: nothing but them?).
    Neither goes to 0: the mark is what as many real training digits have, some way off the held-out ones, which are by
    other hands.
    """
    process, sampler = process_of(settings), sampler_of(settings)

    def step(now: Training, digits: Images) -> tuple[Training, Float[Array, ""]]:
        def loss(network: Callable[..., Any], key: Key[Array, ""]) -> Float[Array, ""]:
            pick, noise = jax.random.split(key)
            batch = digits[jax.random.randint(pick, (settings.train.batch,), 0, len(digits))]
            return denoising_loss(network, process, settings.prediction, noise, batch)

        return training.step(settings.train, now, loss)

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


def denoiser_of(settings: Settings, trained: Training) -> js.denoisers.Denoiser:
    """The averaged network as a denoiser."""
    return js.denoiser(trained.average, process_of(settings), settings.prediction)


def draw(settings: Settings, sampler: js.Sampler, trained: Training, count: int, role: int) -> Images:
    """Samples from the averaged network; ``role`` picks the starting noise, the same at every step of a run."""
    return js.sample(sampler, denoiser_of(settings, trained), starting_noise(settings, trained, count, role))


def starting_noise(settings: Settings, trained: Training, count: int, role: int) -> Images:
    """What sampling starts from."""
    return process_of(settings).prior(jax.random.fold_in(trained.key, role), (count, *settings.network.shape))


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
    return settings, training.resume(settings.train, build(settings), Path(directory) / "checkpoints")
