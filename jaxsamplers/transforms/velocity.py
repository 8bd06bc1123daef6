"""Velocities that are remembered and refined: FlowTurbo.

Along a flow's trajectory the velocity hardly changes, so after some calls of the large network its last answer ``v``
and the correction of a light network, ``v' = v + refine(x, t, v)``, do. ``v`` is a model's memory: see
``js.remembering``.

Source: Zhao et al. 2024, FlowTurbo (arXiv 2409.18128), sec. 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers.core import Model
from jaxsamplers.denoisers import as_pytree, denoiser, predict

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree

    from jaxsamplers.processes import Process


def remember_velocity(model: Model, process: Process) -> RememberVelocity:
    """A denoiser that leaves its velocity behind for a ``velocity_refiner``; for ``js.remembering(sampler)``."""
    return RememberVelocity(as_pytree(model), process)


def velocity_refiner(refine: Callable[..., PyTree], process: Process) -> VelocityRefiner:
    """FlowTurbo's cheap steps, a model with a memory: the velocity of the last call, corrected by a small network.

        full = {"lower_order_final": False}
        early = js.solvers.pseudo_corrector(process, times[:7], **full)  # 6 steps in 7 calls
        late = js.solvers.heun(process, times[6:], **full)
        early, late = (js.remembering(part) for part in js.align(early, late))
        heavy, light = remember_velocity(model, process), velocity_refiner(refine, process)
        x = js.stitch([(early, heavy), (late, light)], noise)

    The refined velocity is remembered in its turn, at every call; the authors' code hands that of a step's first call
    to the next step.

    Args:
        refine: ``(x, t, velocity, **extra) -> change of velocity``.
        process: the noise process; ``velocity`` is its ``dx/dt``.

    Source: Zhao et al. 2024, FlowTurbo (arXiv 2409.18128), sec. 3.
    """
    return VelocityRefiner(as_pytree(refine), process)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RememberVelocity:
    """See ``remember_velocity``."""

    model: Model
    process: Process

    def __call__(self, x: PyTree, t: Array, *, memory: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        """The estimate, and its velocity."""
        estimate = self.model(x, t, **extra)
        return estimate, predict(lambda x, t: estimate, self.process, "velocity")(x, t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VelocityRefiner:
    """See ``velocity_refiner``."""

    refine: Callable[..., PyTree]
    process: Process

    def __call__(self, x: PyTree, t: Array, *, memory: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        """The estimate of the refined velocity, and that velocity."""
        velocity = jax.tree.map(jnp.add, memory, self.refine(x, t, memory, **extra))
        return denoiser(lambda x, t: velocity, self.process, "velocity")(x, t), velocity
