"""Caching: a network that does not look at time need not be asked again while no token has changed.

With more steps than tokens most steps of a masked sampler move nothing. Where the tokens shown to the network are those
that it was shown last, in all sequences of the batch, its last answer is used: the call is really left out (a
conditional inside the compiled loop), the draws are new ones, and samples are those of the sampler itself.

What must be carried is the last answer, ``batch x length x vocab`` numbers as large as the logits themselves and held
between calls; nothing smaller allows a new draw from the same posterior. Where that is too much, or many sequences are
drawn at once, so that one
of them moves in most steps, ``first_hitting`` is better: it jumps from event to event, and remembers one number a
sequence. The calls to expect of ``n`` steps, equally long in ``alpha``, on ``b`` sequences of ``l`` masks are

    1 + (n - 1) (1 - (1 - 1 / n)^(b l))        cached
    l                                          first_hitting
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers.core import Model, Sampler, SolverState
from jaxsamplers.discrete.processes import Replacement

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key

    Tokens = Int[Array, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a cached sampler carries.

    Attributes:
        inner: what the sampler itself remembers.
        shown: the tokens that the network saw last.
        logits: what it said of them.
        calls: how often it was called.
    """

    inner: Any
    shown: Tokens
    logits: Float[Array, "... V"]
    calls: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cached:
    """A sampler that asks its network about changed tokens only; made by ``cached``.

    Attributes:
        sampler: any of this package.
    """

    sampler: Any

    @property
    def rows(self) -> Any:
        """The sampler's."""
        return self.sampler.rows

    @property
    def process(self) -> Replacement:
        """The sampler's."""
        return self.sampler.process

    @property
    def active(self) -> Bool[Array, "..."] | None:
        """The sampler's."""
        return self.sampler.active

    def __len__(self) -> int:
        return len(self.sampler)

    def __getitem__(self, rows: slice) -> Cached:
        return Cached(self.sampler[rows])

    def init(self, x: Tokens, key: Key[Array, ...] | None) -> SolverState:
        """The sampler's, with nothing cached."""
        state = self.sampler.init(x, key)
        logits = jnp.zeros((*state.x.shape, self.process.vocab), jnp.result_type(float))
        memory = Memory(state.memory, state.x, logits, jnp.zeros((), jnp.int32))
        return dataclasses.replace(state, memory=memory)

    def step(self, state: SolverState, row: Any, model: Model) -> SolverState:
        """The sampler's, with one network call or none."""
        last = state.memory
        memory = [last]

        def remembered(x: Tokens, t: Array, **extra: Any) -> Float[Array, "... V"]:
            same = (memory[0].calls > 0) & jnp.all(x == memory[0].shown)
            asked = lambda: self.process.clean(model(x, t, **extra), x).astype(last.logits.dtype)
            logits = jax.lax.cond(same, lambda: memory[0].logits, asked)
            memory[0] = Memory(last.inner, x, logits, memory[0].calls + ~same)
            return logits

        after = self.sampler.step(dataclasses.replace(state, memory=last.inner), row, remembered)
        return dataclasses.replace(after, memory=dataclasses.replace(memory[0], inner=after.memory))


def cached(sampler: Sampler) -> Cached:
    """A sampler that leaves network calls out while no token changes; at most one call a row.

    For networks that do not look at time, on masked processes: of others the answer would be an old one. How many
    calls were made is in the state, ``js.run(...).memory.calls``. Under ``jax.vmap`` every call is made, since both
    branches are: batch by the tokens' leading axes instead.

    Args:
        sampler: any of this package, other transforms included; this one is the last to put on, as within ``blocks``
            calls are counted anew in each.

    Raises:
        TypeError: a uniform or marginal process, whose posterior changes with time even if no token does.
    Source: Sahoo et al. 2024, MDLM (arXiv 2406.07524), sec. 4, whose program has the same rule; for the comparison with
        events Zheng et al. 2024 (arXiv 2409.02908).
    """
    process = sampler.process  # type: ignore[attr-defined]
    if isinstance(process, Replacement) and not process.noise.absorbing:
        raise TypeError("cached needs a masked process: with other noise what is known of a token changes with time")
    return Cached(sampler)
