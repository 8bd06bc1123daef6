"""One small network for 8x8 images, written twice: in Flax linen and in Flax NNX.

A mixer (Tolstikhin et al. 2021, arXiv 2105.01601) with the time conditioning of DiT (Peebles & Xie 2022,
arXiv 2212.09748). The image is cut into patches, the *tokens*. A block mixes first across tokens, then across
channels, each time as

    x <- x + gate * mlp((1 + scale) * normalise(x) + shift)        gate, scale, shift: linear in the time embedding

There are nothing but small matrix products, which is what a CPU does well. Gates and the last layer start at zero, so
the untrained network answers 0 and every block is the identity.

Both forms use the same names, so their parameters are the same numbers in the same order. Time is embedded
in float32 or better whatever the dtype of the image: bfloat16 cannot tell neighbouring times apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

import jaxsamplers as js
from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    Image = Float[Array, "batch height width channels"]
    Tokens = Float[Array, "batch tokens channels"]

FREQUENCIES = 16
zeros = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """What the network looks like.

    Attributes:
        framework: "linen" or "nnx": the same network, parameters kept in the manner of either.
        width: channels of a token; the hidden layers are twice as wide.
        depth: blocks.
        patch: side of a patch, in pixels.
        size: side of the image.
        channels: of the image.
    """

    framework: str = "linen"
    width: int = 96
    depth: int = 3
    patch: int = 2
    size: int = 8
    channels: int = 1

    def __post_init__(self) -> None:
        checks.one_of("framework", self.framework, builders)
        for name in ("width", "depth", "patch", "size", "channels"):
            checks.integer(name, getattr(self, name), low=1)
        if self.size % self.patch:
            raise ValueError(f"patch must divide the image's side {self.size}, got {self.patch}")

    @property
    def tokens(self) -> int:
        """Patches in an image."""
        return (self.size // self.patch) ** 2

    @property
    def pixels(self) -> int:
        """Numbers in a patch."""
        return self.patch**2 * self.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        return self.size, self.size, self.channels


def build(settings: NetworkSettings, key: Key[Array, ""]) -> Callable[..., Any]:
    """A fresh network as a pytree: callable as ``(x, t) -> output``, its leaves are the parameters.

    Training, averaging and saving treat it as a tree of arrays; they need not know which framework is inside.
    """
    return builders[settings.framework](settings, key)


def _build_linen(settings: NetworkSettings, key: Key[Array, ""]) -> Callable[..., Any]:
    module = LinenMixer(settings)
    return js.from_linen(module, module.init(key, jnp.zeros((1, *settings.shape)), jnp.zeros(())))


def _build_nnx(settings: NetworkSettings, key: Key[Array, ""]) -> Callable[..., Any]:
    return js.from_nnx(NnxMixer(settings, nnx.Rngs(key)))


builders: dict[str, Callable[..., Callable[..., Any]]] = {"linen": _build_linen, "nnx": _build_nnx}


class LinenMixer(linen.Module):
    """The network in linen."""

    settings: NetworkSettings

    @linen.compact
    def __call__(self, x: Image, t: Float[Array, "..."]) -> Image:
        """``x`` is ``[batch, height, width, channels]``, ``t`` a scalar or ``[batch]``."""
        s = self.settings
        position = self.param("position", jax.nn.initializers.normal(0.02), (s.tokens, s.width))
        time = linen.Dense(s.width, name="time_in")(time_features(t))
        time = jax.nn.silu(linen.Dense(s.width, name="time_out")(jax.nn.silu(time)))
        h = linen.Dense(s.width, name="embed")(to_tokens(x, s.patch)) + position
        for i in range(s.depth):
            h = LinenBlock(s, name=f"block_{i}")(h, time)
        shift, scale = split(linen.Dense(2 * s.width, kernel_init=zeros, name="modulate")(time), 2)
        h = linen.Dense(s.pixels, kernel_init=zeros, name="project")(modulate(h, shift, scale))
        return from_tokens(h, s.patch, x.shape)


class LinenBlock(linen.Module):
    """One block in linen."""

    settings: NetworkSettings

    @linen.compact
    def __call__(self, h: Tokens, time: Float[Array, "batch width"]) -> Tokens:
        """Tokens, then channels."""
        s = self.settings
        parts = linen.Dense(6 * s.width, kernel_init=zeros, name="modulate")(time)
        shift, scale, gate, channel_shift, channel_scale, channel_gate = split(parts, 6)
        mixed = linen.Dense(2 * s.tokens, name="token_in")(modulate(h, shift, scale).mT)
        h = h + gate * linen.Dense(s.tokens, name="token_out")(jax.nn.gelu(mixed)).mT
        mixed = linen.Dense(2 * s.width, name="channel_in")(modulate(h, channel_shift, channel_scale))
        return h + channel_gate * linen.Dense(s.width, name="channel_out")(jax.nn.gelu(mixed))


class NnxMixer(nnx.Module):
    """The network in NNX."""

    def __init__(self, settings: NetworkSettings, rngs: nnx.Rngs) -> None:
        s = self.settings = settings
        self.position = nnx.Param(jax.nn.initializers.normal(0.02)(rngs.params(), (s.tokens, s.width)))
        self.time_in = nnx.Linear(2 * FREQUENCIES, s.width, rngs=rngs)
        self.time_out = nnx.Linear(s.width, s.width, rngs=rngs)
        self.embed = nnx.Linear(s.pixels, s.width, rngs=rngs)
        for i in range(s.depth):
            setattr(self, f"block_{i}", NnxBlock(s, rngs))
        self.modulate = nnx.Linear(s.width, 2 * s.width, kernel_init=zeros, rngs=rngs)
        self.project = nnx.Linear(s.width, s.pixels, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Image, t: Float[Array, "..."]) -> Image:
        """``x`` is ``[batch, height, width, channels]``, ``t`` a scalar or ``[batch]``."""
        s = self.settings
        time = jax.nn.silu(self.time_out(jax.nn.silu(self.time_in(time_features(t)))))
        h = self.embed(to_tokens(x, s.patch)) + self.position[...]
        for i in range(s.depth):
            h = getattr(self, f"block_{i}")(h, time)
        shift, scale = split(self.modulate(time), 2)
        return from_tokens(self.project(modulate(h, shift, scale)), s.patch, x.shape)


class NnxBlock(nnx.Module):
    """One block in NNX."""

    def __init__(self, settings: NetworkSettings, rngs: nnx.Rngs) -> None:
        s = settings
        self.modulate = nnx.Linear(s.width, 6 * s.width, kernel_init=zeros, rngs=rngs)
        self.token_in = nnx.Linear(s.tokens, 2 * s.tokens, rngs=rngs)
        self.token_out = nnx.Linear(2 * s.tokens, s.tokens, rngs=rngs)
        self.channel_in = nnx.Linear(s.width, 2 * s.width, rngs=rngs)
        self.channel_out = nnx.Linear(2 * s.width, s.width, rngs=rngs)

    def __call__(self, h: Tokens, time: Float[Array, "batch width"]) -> Tokens:
        """Tokens, then channels."""
        shift, scale, gate, channel_shift, channel_scale, channel_gate = split(self.modulate(time), 6)
        h = h + gate * self.token_out(jax.nn.gelu(self.token_in(modulate(h, shift, scale).mT))).mT
        mixed = self.channel_in(modulate(h, channel_shift, channel_scale))
        return h + channel_gate * self.channel_out(jax.nn.gelu(mixed))


def time_features(t: Float[Array, "..."]) -> Float[Array, "batch features"]:
    """Sines and cosines of ``t`` in ``[0, 1]``, one row for a scalar ``t``; frequencies up to 8 periods."""
    t = jnp.asarray(t)
    t = t.astype(
        jnp.promote_types(t.dtype, jnp.float32)
    )  # float64 stays: a step function of time has no exact solution
    frequencies = jnp.pi * jnp.geomspace(0.5, 16.0, FREQUENCIES, dtype=t.dtype)
    angles = t.reshape(-1, 1) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def modulate(h: Tokens, shift: Tokens | float, scale: Tokens | float) -> Tokens:
    """Layer normalisation without parameters of its own, then the time's scale and shift."""
    centred = h - jnp.mean(h, axis=-1, keepdims=True)
    return (1 + scale) * centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6) + shift


def split(parts: Float[Array, "batch features"], count: int) -> list[Float[Array, "batch 1 width"]]:
    """``count`` equal pieces that broadcast over tokens."""
    return jnp.split(parts[:, None, :], count, axis=-1)


def to_tokens(x: Image, patch: int) -> Tokens:
    """The image's patches, row by row; one axis is cut or joined at a time, which Explicit mesh axes can follow."""
    batch, height, width, channels = x.shape
    rows, columns, line = height // patch, width // patch, patch * channels
    x = x.reshape(batch, rows, patch, width, channels).reshape(batch, rows, patch, width * channels)
    x = x.reshape(batch, rows, patch, columns, line).swapaxes(2, 3)
    return x.reshape(batch, rows, columns, patch * line).reshape(batch, rows * columns, patch * line)


def from_tokens(tokens: Tokens, patch: int, shape: tuple[int, ...]) -> Image:
    """The inverse of ``to_tokens``."""
    batch, height, width, channels = shape
    rows, columns, line = height // patch, width // patch, patch * channels
    x = tokens.reshape(batch, rows, columns, patch * line).reshape(batch, rows, columns, patch, line)
    x = x.swapaxes(2, 3).reshape(batch, rows, patch, width * channels)
    return x.reshape(batch, height, width * channels).reshape(shape)
