"""The tokens study: English characters, digits or countdown, a masked or uniform process, and the network between.

The network is trained by a loss of ``js.discrete.losses``. Every few steps, inside the compiled chunk, its bound on
held-out data is taken and samples are drawn, of which two numbers are kept: how likely text is to the Markov chain of
``discrete/text.py`` (how far digits are from real ones, how often the rule of countdown is broken), and the entropy of
all tokens together. Neither means anything alone: nothing but spaces is likely, and all characters alike have a high
entropy.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxsamplers as js
from experiments import config, token_networks, training
from experiments.countdown import SYMBOLS, countdown
from experiments.token_networks import NetworkSettings
from experiments.training import Training, TrainSettings
from jaxsamplers import checks, datasets, metrics, token_quality
from jaxsamplers.discrete import digits, losses, text

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Tokens = Int[Array, "n length"]
    Chunk = Callable[[Training, Tokens, Tokens], tuple[Training, dict[str, Array]]]

PREVIEW, SHEET, HELD_OUT = 1, 2, 3  # what the run's key is folded with, one number a purpose; 0 is training's
COUNTED = 8192  # sequences of countdown, of which one in sixteen is held out
JUDGES = {"text": "chain_bits", "digits": "distance", "countdown": "violations"}
BLOCK, STRIDE = 4096, 4  # of every ten blocks of characters one is held out; windows begin at every fourth character


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How to sample, while training and at the end.

    Attributes:
        count: samples drawn after every chunk, and held-out sequences looked at.
        steps: steps of the sampler.
        sampler: a name in ``js.discrete.registry``.
        schedule: which times, a name in ``js.schedules.registry``.
    """

    count: int = 64
    steps: int = 32
    sampler: str = "ancestral"
    schedule: str = "uniform"

    def __post_init__(self) -> None:
        checks.integer("count", self.count, low=2)
        checks.integer("steps", self.steps, low=1)
        checks.one_of("sampler", self.sampler, js.discrete.registry)
        checks.one_of("schedule", self.schedule, js.schedules.registry)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The whole study.

    Attributes:
        data: "text", "digits" or "countdown".
        length: of the sequences; digits have 64 tokens.
        process: "masked" or "uniform".
        prediction: what the network predicts: "bayes", "leave_one_out" or "log_score".
        loss: a name in ``js.discrete.losses.registry``.
        network: its architecture.
        train: how it is trained.
        sample: how samples are drawn.
    """

    data: str = "text"
    length: int = 64
    process: str = "masked"
    prediction: str = "bayes"
    loss: str = "mdlm"
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    sample: SampleSettings = dataclasses.field(default_factory=SampleSettings)

    def __post_init__(self) -> None:
        checks.one_of("data", self.data, JUDGES)
        checks.integer("length", self.length, low=2, high=BLOCK)
        checks.one_of("process", self.process, ("masked", "uniform"))
        checks.one_of("prediction", self.prediction, ("bayes", "leave_one_out", "log_score"))
        checks.one_of("loss", self.loss, [name for name in losses.registry if name != "d3pm"])
        if self.data == "digits" and self.length != digits.SIDE**2:
            raise ValueError(f"length of digits is {digits.SIDE**2}, got {self.length}")

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return {"text": len(text.ALPHABET), "digits": digits.LEVELS, "countdown": SYMBOLS}[self.data]

    @property
    def numbers(self) -> tuple[str, ...]:
        """What a line of the history holds; bounds and entropies in bits, the loss in nats."""
        return ("loss", "held_out_bits", JUDGES[self.data], "entropy")


class Data(NamedTuple):
    """Sequences to learn from, and others, ``[n, length]``."""

    learn: np.ndarray
    held_out: np.ndarray


def data_of(settings: Settings) -> Data:
    """The data, the same at every call; held-out windows of text do not overlap."""
    if settings.data == "digits":
        images = datasets.digits()
        return Data(np.asarray(digits.encode(images.train)), np.asarray(digits.encode(images.held_out)))
    if settings.data == "countdown":
        drawn = token_quality.draw(countdown(), 0, COUNTED, settings.length)
        return Data(drawn[COUNTED // 16 :], drawn[: COUNTED // 16])
    characters = text.corpus()
    blocks = characters[: len(characters) // BLOCK * BLOCK].reshape(-1, BLOCK)
    chosen = np.arange(len(blocks)) % 10 == 9
    windows = np.lib.stride_tricks.sliding_window_view(blocks, settings.length, axis=1)
    every = lambda part, stride: part[:, ::stride].reshape(-1, settings.length)
    return Data(every(windows[~chosen], STRIDE), every(windows[chosen], settings.length))


def build(settings: Settings) -> Callable[..., Any]:
    """What makes the network of a key."""
    return functools.partial(token_networks.build, settings.network, settings.vocab, settings.length)


def process_of(settings: Settings) -> js.discrete.Replacement:
    """The forward process."""
    return (js.discrete.masked if settings.process == "masked" else js.discrete.uniform)(settings.vocab)


def denoiser_of(settings: Settings, network: Callable[..., Any]) -> js.discrete.Denoiser:
    """A network as a denoiser."""
    return js.discrete.denoiser(network, process_of(settings), settings.prediction)


def load(path: str) -> tuple[Settings, js.discrete.Denoiser]:
    """The settings of a file, and the averaged network that ``experiments.train_text`` has trained by them.

    Raises:
        CheckpointError: it has not.
    """
    settings: Settings = config.load(path)
    run = Path("runs") / Path(path).stem / "checkpoints"
    return settings, denoiser_of(settings, training.resume(settings.train, build(settings), run).average)


def chunk(settings: Settings) -> Chunk:
    """The compiled program ``(training, learn, held_out) -> (training, numbers)``: many steps, then numbers."""
    process, train = process_of(settings), settings.train
    judge = judge_of(settings)

    def step(now: Training, learn: Tokens) -> tuple[Training, Float[Array, ""]]:
        def loss(network: Callable[..., Any], key: Key[Array, ""]) -> Float[Array, ""]:
            pick, noise = jax.random.split(key)
            batch = learn[jax.random.randint(pick, (train.batch,), 0, len(learn))]
            return losses.registry[settings.loss](process, denoiser_of(settings, network), batch, noise)[0]

        return training.step(train, now, loss)

    @jax.jit
    def run(now: Training, learn: Tokens, held_out: Tokens) -> tuple[Training, dict[str, Array]]:
        now, values = jax.lax.scan(lambda now, _: step(now, learn), now, length=train.chunk)
        samples = draw(settings, now, settings.sample.count, PREVIEW)
        shown = held_out[jnp.arange(settings.sample.count) * len(held_out) // settings.sample.count]
        return now, {
            "loss": jnp.mean(values),
            "held_out_bits": jnp.mean(bits(settings, now, shown, jax.random.fold_in(now.key, HELD_OUT))),
            settings.numbers[2]: judge(samples, held_out),
            "entropy": entropy(samples, settings.vocab),
        }

    return run


def draw(settings: Settings, trained: Training, count: int, role: int) -> Tokens:
    """Samples from the averaged network; ``role`` picks their randomness, the same at every step of a run."""
    process, key = process_of(settings), jax.random.fold_in(trained.key, role)
    start, noise = jax.random.split(key)
    return js.sample(
        sampler_of(settings),
        denoiser_of(settings, trained.average),
        process.prior(start, (count, settings.length)),
        noise,
    )


def sampler_of(settings: Settings) -> Any:
    """The sampler that the settings name."""
    process = process_of(settings)
    times = js.schedules.registry[settings.sample.schedule](process, settings.sample.steps)
    make: Any = js.discrete.registry[settings.sample.sampler]
    return make(process, times)


def bits(settings: Settings, trained: Training, x0: Tokens, key: Key[Array, ""]) -> Float[Array, " n"]:
    """The averaged network's bound on ``-log2 p(x0)``, a token, of each sequence at times and noise drawn once."""
    process = process_of(settings)
    name = "mdlm" if settings.process == "masked" else "score_entropy"
    nats = losses.registry[name](process, denoiser_of(settings, trained.average), x0, key)[1]
    return (nats + losses.prior_divergence(process, x0)) / (settings.length * jnp.log(2.0))


def judge_of(settings: Settings) -> Callable[[Tokens, Tokens], Float[Array, ""]]:
    """What samples are judged by: bits a character of the text's chain, energy distance of digits, violations."""
    if settings.data == "countdown":
        return lambda samples, real: jnp.mean((samples[:, :-1] != 0) & (samples[:, 1:] != samples[:, :-1] - 1))
    if settings.data == "digits":
        return lambda samples, real: metrics.energy_distance(digits.decode(samples), digits.decode(real))
    chain = text.characters()
    return lambda samples, real: -jnp.mean(chain.log_probability(samples)) / (settings.length * jnp.log(2.0))


def entropy(x: Tokens, vocab: int) -> Float[Array, ""]:
    """Of the frequencies of all tokens together, in bits a token."""
    frequencies = jnp.bincount(x.ravel(), length=vocab) / x.size
    return -jnp.sum(jax.scipy.special.xlogy(frequencies, frequencies)) / jnp.log(2.0)
