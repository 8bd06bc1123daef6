"""Handwritten digits as tokens, and a small trained network of them that needs nothing but arrays.

An 8x8 image of 17 grey levels is a text of 64 tokens, row by row. The network is a bidirectional transformer trained on
masked images (``experiments/train_text.py`` with ``configs/train_text_digits.py``), whose weights in float16 come with
this package, ``digits.npz``: its entry ``about`` says how it was trained and how well it does.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxsamplers.discrete.processes import Replacement, masked

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    Images = Float[Array, "n 8 8 1"]
    Tokens = Int[Array, "n 64"]
    Weights = dict[str, Array]

LEVELS, SIDE = 17, 8
FILE = Path(__file__).with_name("digits.npz")


def process() -> Replacement:
    """What the network was trained for: masked tokens; any survival law does."""
    return masked(LEVELS)


def network() -> Partial:
    """The trained network, ``(tokens, t) -> logits`` of the Bayes posterior; ``t`` does not count."""
    weights = {name: jnp.asarray(array, jnp.float32) for name, array in _file().items() if array.dtype == np.float16}
    return Partial(forward, weights)


def about() -> dict[str, Any]:
    """How the network was trained, and its numbers on images it has not seen."""
    return json.loads(str(_file()["about"]))


def encode(images: Images | np.ndarray) -> Tokens:
    """Images in [-1, 1], ``[n, 8, 8, 1]``, as tokens from 0 to 16."""
    levels = jnp.clip(jnp.round((jnp.asarray(images) + 1) * (LEVELS // 2)), 0, LEVELS - 1)
    return levels.astype(jnp.int32).reshape(-1, SIDE**2)


def decode(tokens: Tokens) -> Images:
    """Tokens as images in [-1, 1], the mask as middle grey."""
    known = tokens < LEVELS
    return jnp.where(known, tokens / (LEVELS // 2) - 1.0, 0.0).reshape(-1, SIDE, SIDE, 1)


def forward(weights: Weights, tokens: Tokens, t: Array, **extra: Any) -> Float[Array, "n 64 17"]:
    """The transformer of ``experiments/token_networks.py`` without time; weights are named as there."""
    linear = lambda name, x: x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]
    h = weights["embed/embedding"][tokens] + weights["position"]
    for i in range(sum(name.endswith("/told/bias") for name in weights)):
        parts = jnp.einsum("nlw,whd->nlhd", _normalise(h), weights[f"block_{i}/look/kernel"])
        parts = parts + weights[f"block_{i}/look/bias"]
        seen = jax.nn.dot_product_attention(*jnp.split(parts, 3, axis=-1)).reshape(h.shape)
        h = h + linear(f"block_{i}/told", seen)
        h = h + linear(f"block_{i}/narrow", jax.nn.gelu(linear(f"block_{i}/wide", _normalise(h))))
    return linear("project", _normalise(h))


def _normalise(h: Float[Array, "n 64 width"]) -> Float[Array, "n 64 width"]:
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)


@functools.cache
def _file() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)
