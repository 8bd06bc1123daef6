"""A small bidirectional transformer on tokens, in Flax linen.

    h <- h + gate * attention((1 + scale) * normalise(h) + shift)
    h <- h + gate * mlp(the same)

with learned positions. For text a number is added to each head's logits that depends on how far apart two tokens are
(Raffel et al. 2020, T5, arXiv 1910.10683), at first falling with the distance as in ALiBi (Press et al. 2021, arXiv
2108.12409): without it, to look at one's neighbour has to be learnt for each position anew. Masked tokens tell the time
by their number, so ``gate = 1`` and ``scale = shift = 0``; where the network is told the time, they are linear in its
embedding, as in DiT (Peebles & Xie 2022, arXiv 2212.09748), and start at zero. The last layer starts at zero, so the
untrained network finds all tokens alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen

import jaxsamplers as js
from experiments.networks import modulate, split, time_features
from jaxsamplers import checks

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Key

    Tokens = Int[Array, "batch length"]
    Hidden = Float[Array, "batch length width"]

zeros = jax.nn.initializers.zeros


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """What the network looks like.

    Attributes:
        width: channels of a token.
        depth: blocks.
        heads: of attention, a divisor of ``width``.
        hidden: width of the hidden layers, in ``width``.
        time: whether it is told the time.
        relative: whether attention is told how far tokens are apart.
    """

    width: int = 96
    depth: int = 3
    heads: int = 4
    hidden: int = 3
    time: bool = False
    relative: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "hidden"):
            checks.integer(name, getattr(self, name), low=1)
        if self.width % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")


def build(settings: NetworkSettings, vocab: int, length: int, key: Key[Array, ""]) -> Callable[..., Any]:
    """A fresh network as a pytree: ``(tokens, t) -> logits [batch, length, vocab]``, the mask being ``vocab``."""
    module = Transformer(settings, vocab, length)
    return js.from_linen(module, module.init(key, jnp.zeros((1, length), jnp.int32), jnp.zeros(())))


class Transformer(linen.Module):
    """The network."""

    settings: NetworkSettings
    vocab: int
    length: int

    @linen.compact
    def __call__(self, tokens: Tokens, t: Float[Array, "..."]) -> Float[Array, "batch length vocab"]:
        """``t`` is a scalar or ``[batch]``."""
        s = self.settings
        time = None
        if s.time:
            time = jax.nn.silu(linen.Dense(s.width, name="time")(time_features(t)))
        normal = jax.nn.initializers.normal  # in a text what a token is says more than where it is
        what, where = (normal(0.5), normal(0.1)) if s.relative else (linen.Embed.embedding_init, normal(0.3))
        h = linen.Embed(self.vocab + 1, s.width, embedding_init=what, name="embed")(tokens)
        h = h + self.param("position", where, (self.length, s.width))
        for i in range(s.depth):
            h = Block(s, name=f"block_{i}")(h, time)
        return linen.Dense(self.vocab, kernel_init=zeros, name="project")(modulate(h, 0.0, 0.0))


class Block(linen.Module):
    """Attention, then a layer for each token."""

    settings: NetworkSettings

    @linen.compact
    def __call__(self, h: Hidden, time: Float[Array, "batch width"] | None) -> Hidden:
        """All positions see all others."""
        s = self.settings
        parts: list[Any] = [0.0, 0.0, 1.0] * 2
        if time is not None:
            parts = split(linen.Dense(6 * s.width, kernel_init=zeros, name="modulate")(time), 6)
        shift, scale, gate, wide_shift, wide_scale, wide_gate = parts
        heads = linen.Dense(3 * s.width, name="look")(modulate(h, shift, scale))
        query, key, value = jnp.split(heads.reshape(*h.shape[:2], s.heads, -1), 3, axis=-1)
        apart = None
        if s.relative:
            distances = self.param("apart", _falling, (s.heads, 2 * h.shape[1] - 1))
            place = jnp.arange(h.shape[1])
            apart = distances[:, place[:, None] - place + h.shape[1] - 1]
        seen = linen.dot_product_attention(query, key, value, bias=apart).reshape(h.shape)
        h = h + gate * linen.Dense(s.width, name="told")(seen)
        wide = linen.Dense(s.hidden * s.width, name="wide")(modulate(h, wide_shift, wide_scale))
        return h + wide_gate * linen.Dense(s.width, name="narrow")(jax.nn.gelu(wide))


def _falling(key: Key[Array, ""], shape: tuple[int, int]) -> Float[Array, "heads distances"]:
    """Half as steep from head to head, and a little different to both sides."""
    heads, count = shape
    slopes = 0.5 ** jnp.arange(heads)[:, None]
    return -slopes * jnp.abs(jnp.arange(count) - count // 2) + 0.5 * jax.random.normal(key, shape)
