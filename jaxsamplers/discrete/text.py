"""English without a download: a Markov chain of characters fitted to the text inside Python's own documentation.

The text is ``pydoc_data.topics``, what ``help("topics")`` prints, so the chain depends a little on Python's version.
Its noise-free law and the posterior of noisy characters are exact, so samplers can be compared without any network.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.discrete.chain import MarkovChain, markov_chain

if TYPE_CHECKING:
    from collections.abc import Iterable

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,"


@functools.cache
def corpus() -> np.ndarray:
    """The text as numbers into ``ALPHABET``: words, full stops and commas, everything else a space."""
    from pydoc_data.topics import topics

    words = re.sub(r"[^a-z.,]+", " ", " ".join(topics[name] for name in sorted(topics)).lower())
    words = re.sub(r" ?([.,])[.,]*(?= )", r"\1", words)  # full stops and commas belong to the word before them
    return np.array([ALPHABET.index(character) for character in words], np.int32)


def characters(order: int = 2, smoothing: float = 0.01) -> MarkovChain:
    """The chain in which each character depends on ``order`` before it.

    Args:
        order: 1 to 3; the table has ``29^(order + 1)`` entries.
        smoothing: added to every count, in proportion to the frequencies one order lower.

    Raises:
        ValueError: numbers out of range.
    """
    checks.integer("order", order, low=1, high=3)
    checks.within("smoothing", smoothing, 0.0, above=True)
    text, vocab = corpus(), len(ALPHABET)
    law = np.full(vocab, 1 / vocab)
    for length in range(1, order + 2):  # of 1 character, of 2, ..., each smoothed by the one before
        windows = np.lib.stride_tricks.sliding_window_view(text, length)
        counts = np.zeros((vocab,) * length)
        np.add.at(counts, tuple(windows.T), 1.0)
        law = counts + smoothing * vocab * np.broadcast_to(law, counts.shape)
        law = law / law.sum(-1, keepdims=True)
    return markov_chain(jnp.asarray(law, jnp.float32), jnp.asarray(_stationary(law), jnp.float32))


def encode(text: str) -> np.ndarray:
    """Characters as numbers.

    Raises:
        ValueError: a character that the alphabet lacks.
    """
    unknown = sorted(set(text) - set(ALPHABET))
    if unknown:
        raise ValueError(f"the alphabet is {ALPHABET!r}, got {''.join(unknown)!r}")
    return np.array([ALPHABET.index(character) for character in text], np.int32)


def decode(tokens: Iterable[int]) -> str:
    """Numbers as characters; the mask as an underscore."""
    return "".join((ALPHABET + "_")[int(token)] for token in tokens)


def _stationary(law: np.ndarray, rounds: int = 200) -> np.ndarray:
    """The law of contexts that the chain keeps, by iteration."""
    start = np.full(law.shape[:-1], 1 / law[..., 0].size)
    for _ in range(rounds):
        start = (start[..., None] * law).sum(0)
    return start / start.sum()
