"""Data that comes inside packages, for demos, tests and benchmarks; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

HELD_OUT = 297


class Digits(NamedTuple):
    """Real 8x8 handwritten digits in [-1, 1] and their labels, in a training and a held-out part."""

    train: Float[np.ndarray, "1500 8 8 1"]
    train_labels: Int[np.ndarray, " 1500"]
    held_out: Float[np.ndarray, "297 8 8 1"]
    held_out_labels: Int[np.ndarray, " 297"]


def digits() -> Digits:
    """The UCI handwritten digits bundled with scikit-learn; 297 of them, picked once at random, are held out.

    (The file is ordered by writer: its last part is of other hands, and would measure writers, not samplers.)

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    Source: Alpaydin & Kaynak 1998, UCI optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.images))
    images = (bunch.images[order][..., None] / 8 - 1).astype(np.float32)
    labels = bunch.target[order].astype(np.int32)
    return Digits(images[:-HELD_OUT], labels[:-HELD_OUT], images[-HELD_OUT:], labels[-HELD_OUT:])
