"""Networks that remember: what a model returns beside its estimate comes back to it in the next row.

A model with a memory is ``(x, t, memory=..., **extra) -> (estimate, memory)``; the memory is shaped like ``x`` and
starts at zero. It lies in the solver's state, so runs can be cut, stitched and resumed as always.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers.core import Model, Sampler, SolverState, network_calls
from jaxsamplers.tableau import conform

if TYPE_CHECKING:
    from jaxtyping import Array, Key, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Remembering:
    """A sampler for models that remember; made by ``remembering``."""

    sampler: Any

    @property
    def rows(self) -> PyTree:
        """The sampler's own rows."""
        return self.sampler.rows

    def __len__(self) -> int:
        return network_calls(self.sampler)

    def __getitem__(self, rows: slice) -> Remembering:
        return Remembering(self.sampler[rows])

    def init(self, x: PyTree, key: Key[Array, ...] | None) -> SolverState:
        """The sampler's own start, and a memory of zeros."""
        state = self.sampler.init(x, key)
        return dataclasses.replace(state, memory=(state.memory, jax.tree.map(jnp.zeros_like, state.x)))

    def step(self, state: SolverState, row: PyTree, model: Model) -> SolverState:
        """The sampler's own step; the model's memory goes around it."""
        registers, memory = state.memory
        kept = []

        def estimate(x: PyTree, t: Array, **extra: Any) -> PyTree:
            answer = model(x, t, memory=memory, **extra)
            if not (isinstance(answer, tuple) and len(answer) == 2):
                raise ValueError("a model with a memory must return (estimate, memory)")
            kept.append(conform(answer[1], state.x))
            return answer[0]

        after = self.sampler.step(dataclasses.replace(state, memory=registers), row, estimate)
        return dataclasses.replace(after, memory=(after.memory, kept[-1]))


def remembering(sampler: Sampler) -> Remembering:
    """The same sampler for a model with a memory: ``(x, t, memory=..., **extra) -> (estimate, memory)``."""
    return Remembering(sampler)
