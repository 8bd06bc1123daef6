"""The diffusion transformer DiT in Flax linen: a network of real size, to measure samplers with.

The image (as a rule a latent of 32 x 32 x 4) is cut into patches, the *tokens*. A block is a transformer's, its layer
normalisations without parameters of their own; shift, scale and gate are linear in an embedding of time and label:

    h <- h + gate * attention((1 + scale) * normalise(h) + shift)
    h <- h + gate * mlp((1 + scale) * normalise(h) + shift)

Gates and the last layer start at zero (adaLN-Zero), so an untrained network answers 0; ``random_weights`` draws all of
them, which is what a benchmark wants. The network predicts noise and a variance, ``outputs = 2 * channels``; samplers
read the first half, see ``noise``.

Source: Peebles & Xie 2022, Scalable diffusion models with transformers (arXiv 2212.09748), figure 3 and table 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from experiments.networks import from_tokens, modulate, to_tokens, zeros
from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PyTree

    Image = Float[Array, "batch height width channels"]
    Tokens = Float[Array, "batch tokens width"]

FREQUENCIES = 256  # of the time's embedding, sines and cosines


@dataclasses.dataclass(frozen=True)
class DiTSettings:
    """What the network looks like; ``sizes`` has the paper's.

    Attributes:
        width: of a token.
        depth: blocks.
        heads: of the attention, a divisor of the width.
        patch: side of a patch.
        size: side of the image.
        channels: of the image.
        classes: labels; one more stands for "no label".
        dtype: of weights and products, "bfloat16" or "float32". Time is embedded in float32.
    """

    width: int = 1152
    depth: int = 28
    heads: int = 16
    patch: int = 2
    size: int = 32
    channels: int = 4
    classes: int = 1000
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        checks.one_of("dtype", self.dtype, ("bfloat16", "float32"))
        for name in ("width", "depth", "heads", "patch", "size", "channels", "classes"):
            checks.integer(name, getattr(self, name), low=1)
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width must be a multiple of 4 and of heads={self.heads}, got {self.width}")
        if self.size % self.patch:
            raise ValueError(f"patch must divide the image's side {self.size}, got {self.patch}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return self.size, self.size, self.channels

    @property
    def tokens(self) -> int:
        """Patches in an image."""
        return (self.size // self.patch) ** 2

    @property
    def products(self) -> int:
        """Multiplications in one image's matrix products, from the shapes: the paper's "Gflops" are these."""
        n, d, pixels = self.tokens, self.width, self.patch**2 * self.channels
        block = n * (12 * d * d + 2 * n * d) + 6 * d * d  # four projections, the mlp; attention; modulation
        ends = n * d * (pixels + 2 * pixels) + (FREQUENCIES * d + d * d) + 2 * d * d
        return self.depth * block + ends


sizes: dict[str, DiTSettings] = {
    "DiT-S/8": DiTSettings(384, 12, 6, 8),
    "DiT-B/2": DiTSettings(768, 12, 12, 2),
    "DiT-L/2": DiTSettings(1024, 24, 16, 2),
    "DiT-XL/2": DiTSettings(1152, 28, 16, 2),
}


class DiT(linen.Module):
    """The network: ``(x, t, label) -> [batch, height, width, 2 * channels]``."""

    settings: DiTSettings

    @linen.compact
    def __call__(self, x: Image, t: Float[Array, "..."], label: Int[Array, " batch"]) -> Image:
        """``t`` is a scalar or ``[batch]``, from 0 to 1000 as in DDPM."""
        s, dense = self.settings, self._dense
        time = linen.silu(dense(s.width, name="time_in")(time_features(t).astype(s.dtype)))
        time = dense(s.width, name="time_out")(time)
        table = self.param("labels", jax.nn.initializers.normal(0.02), (s.classes + 1, s.width), jnp.dtype(s.dtype))
        given = linen.silu(time + jax.nn.one_hot(label, s.classes + 1, dtype=s.dtype) @ table)
        h = dense(s.width, name="embed")(to_tokens(x.astype(s.dtype), s.patch)) + positions(s)
        for i in range(s.depth):
            h = self._block(h, given, f"block_{i}")
        shift, scale = split(dense(2 * s.width, kernel_init=zeros, name="modulate")(given), 2)
        h = dense(2 * s.patch**2 * s.channels, kernel_init=zeros, name="project")(modulate(h, shift, scale))
        return from_tokens(h, s.patch, (*x.shape[:3], 2 * s.channels)).astype(x.dtype)

    def _block(self, h: Tokens, given: Float[Array, "batch width"], name: str) -> Tokens:
        s, dense = self.settings, self._dense
        parts = split(dense(6 * s.width, kernel_init=zeros, name=f"{name}_modulate")(given), 6)
        heads = lambda part: part.reshape(*part.shape[:2], s.heads, -1)
        shift, scale, gate = parts[:3]
        asked = dense(3 * s.width, name=f"{name}_ask")(modulate(h, shift, scale))
        mixed = jax.nn.dot_product_attention(*map(heads, jnp.split(asked, 3, axis=-1)))
        h = h + gate * dense(s.width, name=f"{name}_answer")(mixed.reshape(h.shape))
        shift, scale, gate = parts[3:]
        hidden = linen.gelu(dense(4 * s.width, name=f"{name}_in")(modulate(h, shift, scale)), approximate=True)
        return h + gate * dense(s.width, name=f"{name}_out")(hidden)

    def _dense(self, features: int, **options: Any) -> linen.Dense:
        dtype = jnp.dtype(self.settings.dtype)
        return linen.Dense(features, dtype=dtype, param_dtype=dtype, **options)


def time_features(t: Float[Array, "..."]) -> Float[Array, "batch features"]:
    """Cosines and sines of ``t`` in float32, one row for a scalar: periods from 2 pi to almost 20000 pi."""
    frequencies = jnp.exp(-np.log(10000.0) * jnp.arange(FREQUENCIES // 2) / (FREQUENCIES // 2))
    angles = jnp.asarray(t, jnp.float32).reshape(-1, 1) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def positions(settings: DiTSettings) -> Float[Array, "tokens width"]:
    """Fixed sines and cosines: half of the channels say the column, half the row."""
    side, quarter = settings.size // settings.patch, settings.width // 4
    angles = np.arange(side)[:, None] / 10000.0 ** (np.arange(quarter) / quarter)
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    both = np.concatenate([np.tile(line, (side, 1)), np.repeat(line, side, axis=0)], axis=-1)
    return jnp.asarray(both, settings.dtype)


def split(parts: Float[Array, "batch features"], count: int) -> list[Float[Array, "batch 1 width"]]:
    """``count`` equal pieces that broadcast over tokens."""
    return jnp.split(parts[:, None, :], count, axis=-1)


def shapes(settings: DiTSettings) -> PyTree:
    """Of the parameters; nothing is allocated."""
    x, label = jax.ShapeDtypeStruct((1, *settings.shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    t = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.eval_shape(DiT(settings).init, jax.random.key(0), x, t, label)


def random_weights(settings: DiTSettings, seed: int = 0) -> PyTree:
    """All parameters normal, of a deviation that keeps values of unit size, 0.02 where no product is summed."""
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> Array:
        small = len(leaf.shape) < 2 or leaf.shape[0] == settings.classes + 1
        numbers = rng.standard_normal(leaf.shape, np.float32) * np.float32(0.02 if small else leaf.shape[0] ** -0.5)
        return jnp.asarray(numbers, leaf.dtype)

    return jax.tree.map(draw, shapes(settings))


def noise(settings: DiTSettings, weights: PyTree) -> Callable[..., Any]:
    """The half of the network's answer that a sampler reads: ``(x, t, label=...) -> noise``, a pytree."""
    return jax.tree_util.Partial(_Noise(DiT(settings)), weights)


@dataclasses.dataclass(frozen=True)
class _Noise:
    network: DiT

    def __call__(self, weights: PyTree, x: Image, t: Float[Array, "..."], label: Int[Array, " batch"]) -> Image:
        answer: Any = self.network.apply(weights, x, t, label)
        return jnp.split(answer, 2, axis=-1)[0]
