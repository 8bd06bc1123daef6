"""Bespoke solvers: a Runge-Kutta method on a path that is scaled, and run through at another speed.

With an increasing change of time ``t_r`` and a scale ``s_r > 0`` the path ``y_r = s_r x(t_r)`` has the velocity

    dy/dr = (s'_r / s_r) y + s_r t'_r v(y / s_r, t_r)

of which one step of size ``h`` by Euler's (RK1) or the midpoint method (RK2) is, back in ``x``,

    RK1   x_{i+1} = s_i / s_{i+1} [ (1 + g_i) x_i + d_i v(x_i, t_i) ]
    RK2   z       = s_i / s_{i+1/2} [ (1 + g_i) x_i + d_i v(x_i, t_i) ]
          x_{i+1} = s_i / s_{i+1} x_i + s_{i+1/2} / s_{i+1} [ g_{i+1/2} z + d_{i+1/2} v(z, t_{i+1/2}) ]

with ``d = h t'`` and ``g = h s' / s`` (half of them in RK2's first stage). Only the values and slopes at the nodes
matter: ``4 n - 1`` numbers for RK1 and ``8 n - 1`` for RK2, whose zero is the method itself. Whatever the change, the
method keeps its order.

The loss bounds the error of the sample by the errors of single steps, each from the exact path, times how much the
later steps may enlarge them, ``L_j``, for a Lipschitz constant of the velocity:

    loss = sum_i (L_{i+1} ... L_{n-1}) E rms( x(t_{i+1}) - step_i(x(t_i)) )

so that no derivative passes through more than one step and all steps are taken at once.

Source: Shaul, Perez, Chen, Thabet, Pumarola & Lipman 2024, Bespoke solvers for generative flow models (arXiv
2310.19075), eq. 14 - 28, algorithms 1 - 3. Times there run from 0 to 1 with the flow; here the step ``d`` is negative.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks, schedules
from jaxsamplers.core import Model, sample
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.objectives import rms
from jaxsamplers.learn.parameters import Parameters, coordinates
from jaxsamplers.learn.paths import Path, along
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.tableau import Tableau, interleave, table

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key, PyTree

    Nodes = Float[Array, " m+1"]
    Stages = Float[Array, " m"]

METHODS = {"euler": 1, "midpoint": 2}  # stages


class Change(NamedTuple):
    """A change of scale and time at a method's stages; ``m = n`` for Euler's method and ``2 n`` for the midpoint one.

    Attributes:
        times: ``t``, decreasing.
        steps: ``h t'`` of each stage, below 0; ``h / 2`` in the first stage of two.
        log_scale: ``log s``, 0 in the beginning as a rule.
        growth: ``h s' / s`` of each stage, likewise.
    """

    times: Nodes
    steps: Stages
    log_scale: Nodes
    growth: Stages


def scale_time(process: Process, change: Change, *, method: str = "midpoint") -> Tableau:
    """The Runge-Kutta method on the changed path, back in ``x``; one network call a stage.

    Args:
        process: the noise process.
        change: of scale and time.
        method: "euler" or "midpoint".

    Raises:
        ValueError: an unknown method or numbers that are not for its stages.
    """
    checks.one_of("method", method, METHODS)
    stages = len(change.steps)
    if stages % METHODS[method] or [len(part) for part in change] != [stages + 1, stages, stages + 1, stages]:
        raise ValueError(
            f"a change for the {method} method has m + 1 times, m steps, m + 1 scales and m growths, m a multiple of "
            f"{METHODS[method]}, got {[len(part) for part in change]}"
        )
    t, scale = change.times[:-1], change.log_scale
    alpha_dot, sigma_dot = process.velocity_coefficients(t)
    a = sigma_dot / process.sigma(t)
    b = alpha_dot - process.alpha(t) * a
    kept, asked = 1 + change.growth + change.steps * a, change.steps * b
    if method == "euler":
        ratio = jnp.exp(scale[:-1] - scale[1:])
        return table(process, t, [[ratio * kept, ratio * asked]])
    ratio = jnp.exp(scale[:-2:2] - scale[1:-1:2])
    ahead = table(
        process, t[::2], [[ratio * kept[::2], 0, ratio * asked[::2]], [1, 0, 0]]
    )  # the sample, the one before
    ratio, old = jnp.exp(scale[1:-1:2] - scale[2::2]), jnp.exp(scale[:-2:2] - scale[2::2])
    middle = change.growth[1::2] + change.steps[1::2] * a[1::2]
    whole = table(process, t[1::2], [[ratio * middle, old, ratio * asked[1::2]], [1, 0, 0]])
    return interleave(ahead, whole)


def bespoke(
    process: Process, steps: int, *, method: str = "midpoint", schedule: Float[Array, " n+1"] | None = None
) -> tuple[Bespoke, Parameters]:
    """What makes bespoke solvers, and the parameters to start from: the Runge-Kutta method on ``schedule``.

    Args:
        process: the noise process.
        steps: of the method.
        method: "euler", one network call a step, or "midpoint", two.
        schedule: where to start, of ``steps`` steps; equal in time, the paper's, by default.

    Raises:
        ValueError: an unknown method, or a schedule of another length.
    """
    checks.one_of("method", method, METHODS)
    checks.integer("steps", steps, low=1)
    times = schedules.uniform(process, steps) if schedule is None else schedules.validate(process, schedule)
    if len(times) != steps + 1:
        raise ValueError(f"schedule must have steps + 1 = {steps + 1} times, got {len(times)}")
    if METHODS[method] == 2:
        middle = times[:-1] + jnp.diff(times) / 2
        times = jnp.append(jnp.stack([times[:-1], middle], axis=1).reshape(-1), times[-1])
    parts = ("gaps", "speeds", "scales", "growths")
    learned = {part: jnp.zeros(len(times) - 1, times.dtype) for part in parts}
    return Bespoke(process, method), Parameters(learned, {"schedule": times}, "time")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["process"], meta_fields=["method"])
@dataclasses.dataclass(frozen=True)
class Bespoke:
    """``parameters -> Tableau``, made by ``bespoke``; used like a ``Builder``.

    Attributes:
        process: the noise process.
        method: "euler" or "midpoint".
    """

    process: Process
    method: str

    def __call__(self, parameters: Parameters) -> Tableau:
        """The sampler."""
        return scale_time(self.process, self.change(parameters), method=self.method)

    def change(self, parameters: Parameters) -> Change:
        """Times by their gaps, steps ``e^v`` times the plain ones, scales ``e^v`` from 1, growths as they are."""
        learned = parameters.learned
        times = parameters.times(self.process)
        if METHODS[self.method] == 1:
            plain = jnp.diff(times)
        else:
            half = (times[2::2] - times[:-2:2]) / 2
            plain = jnp.stack([half, 2 * half], axis=1).reshape(-1)
        scale = jnp.concatenate([jnp.zeros_like(times[:1]), learned["scales"]])
        return Change(times, plain * jnp.exp(learned["speeds"]), scale, learned["growths"])

    def begin(self, parameters: Parameters, x: PyTree) -> PyTree:
        """The noise itself."""
        return x

    def sample(self, parameters: Parameters, model: Model, x: PyTree, key: Key[Array, ...] | None = None) -> PyTree:
        """The sample of the built sampler, from noise ``x``."""
        return sample(self(parameters), model, x, key)


def bespoke_loss(
    build: Bespoke,
    model: Model,
    times: Float[Array, " m+1"],
    *,
    coordinate: str = "half_log_snr",
    lipschitz: float = 1.0,
) -> BespokeLoss:
    """The bound on the error of the sample, mean over a batch of ``Path``; all steps are taken at once.

    Args:
        build: parameters -> solver.
        model: the denoiser.
        times: of the nodes of the paths, see ``js.learn.paths``.
        coordinate: of the paths.
        lipschitz: of the velocity; the authors take 1, which makes the bound a weighting.

    Raises:
        ValueError: ``lipschitz`` below 0, or an unknown coordinate.
    """
    checks.within("lipschitz", lipschitz, 0.0)
    checks.one_of("coordinate", coordinate, coordinates)
    return BespokeLoss(build, as_pytree(model), jnp.asarray(times), jnp.asarray(lipschitz), coordinate)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["build", "model", "times", "lipschitz"],
    meta_fields=["coordinate"],
)
@dataclasses.dataclass(frozen=True)
class BespokeLoss:
    """See ``bespoke_loss``."""

    build: Bespoke
    model: Model
    times: Float[Array, " m+1"]
    lipschitz: Float[Array, ""]
    coordinate: str

    def __call__(self, parameters: Parameters, batch: Path, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The loss."""
        return (self.growth(parameters) * self.local(parameters, batch)).sum()

    def local(self, parameters: Parameters, batch: Path) -> Float[Array, " n"]:
        """The mean error of each step from the exact path."""
        stages = METHODS[self.build.method]
        tableau, nodes = self.build(parameters), self.build.change(parameters).times[::stages]
        process = self.build.process
        places = along(process, self.times, batch, nodes, self.coordinate)
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, stages, *leaf.shape[1:]), tableau.rows)

        def step(x: PyTree, rows: Any) -> PyTree:
            state = tableau.init(uncentre(x, process.origin), None)
            for stage in range(stages):
                state = tableau.step(state, jax.tree.map(lambda leaf, k=stage: leaf[k], rows), self.model)
            return centre(state.x, process.origin)

        ends = jax.vmap(step)(jax.tree.map(lambda leaf: leaf[:-1], places), rows)
        return jax.vmap(rms)(ends, jax.tree.map(lambda leaf: leaf[1:], places)).mean(axis=1)

    def growth(self, parameters: Parameters) -> Float[Array, " n"]:
        """How much the steps after each may enlarge its error."""
        change = self.build.change(parameters)
        moves = jnp.abs(change.growth) + jnp.abs(change.steps) * self.lipschitz
        if METHODS[self.build.method] == 2:
            moves = moves[1::2] * (1 + moves[::2])
        shrinks = change.log_scale[:: METHODS[self.build.method]]
        each = shrinks[:-1] - shrinks[1:] + jnp.log1p(moves)
        return jnp.exp(jnp.cumsum(each[::-1])[::-1] - each)
