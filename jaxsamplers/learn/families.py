"""The published families of learned solvers: which parts are learned, from which base, and what is minimised.

All of them learn weights of the network's answers, most learn times; they differ in what they start from and in how
much is free. Each function here is a choice of ``parameters``, ``builder`` and objective, and returns the three:

    family = js.learn.bns(process, model, steps=8)
    result = js.learn.fit(family.objective, family.parameters, batches=js.learn.batches(pairs, 40), ...)
    js.sample(family.build(result.parameters), model, x)

What the network sees is, in each of them, a combination of the noise and of all (or the last ``K``) answers. The
noise's own share is fixed by consistency; none of it is learned here, not even where the papers would let it.

Source: Shaul et al. 2024, Bespoke non-stationary solvers (arXiv 2403.01329); Oganov et al. 2025, Generalized
adversarial solver (arXiv 2510.17699); Frankel et al. 2025, S4S (arXiv 2502.17423); Wang et al. 2025, Differentiable
solver search (arXiv 2505.21114).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsamplers import checks
from jaxsamplers.core import Model, run
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.builder import Builder, builder
from jaxsamplers.learn.fit import Result, fit
from jaxsamplers.learn.objectives import absolute, endpoint, log_squared, squared
from jaxsamplers.learn.parameters import Parameters, coordinates, parameters
from jaxsamplers.learn.paths import Path, along
from jaxsamplers.processes import Process, centre, uncentre
from jaxsamplers.solvers.ddim import ddim
from jaxsamplers.solvers.dpm_solver_pp import dpm_solver_pp
from jaxsamplers.solvers.runge_kutta import euler

if TYPE_CHECKING:
    from collections.abc import Callable

    import optax
    from jaxtyping import Array, Float, Key

    from jaxsamplers.learn.objectives import Distance, Objective
    from jaxsamplers.tableau import Tableau

    Solver = Callable[..., Tableau]
    Times = Float[Array, " n+1"]

S4S_PHASES = (("coefficients",), ("gaps", "network_times"))


class Family(NamedTuple):
    """What is learned and how.

    Attributes:
        build: parameters -> sampler.
        parameters: where learning starts.
        objective: what ``fit`` minimises.
    """

    build: Builder
    parameters: Parameters
    objective: Any


def bns(
    process: Process,
    model: Model,
    steps: int,
    *,
    solver: Solver = euler,
    schedule: Times | None = None,
    distance: Distance = log_squared,
    **options: Any,
) -> Family:
    """Bespoke non-stationary solvers: times and the weights of all answers, for ``E log |x_n - x(1)|^2`` of ``Pairs``.

    Args:
        process: the noise process.
        model: the denoiser.
        steps: of the schedule.
        solver: where to start; the paper's are Euler's and the midpoint method.
        schedule: where to start, of ``steps`` steps.
        distance: of two batches of samples.
        **options: of the solver.

    Raises:
        ValueError: what ``parameters`` or ``builder`` refuse.
    """
    build = builder(solver, process, consistent=False, **options)
    start = _start(build, steps, schedule, coefficients=True)
    return Family(build, start, endpoint(build, model, distance=distance))


def generalized_solver(
    process: Process,
    model: Model,
    steps: int,
    *,
    solver: Solver = dpm_solver_pp,
    schedule: Times | None = None,
    distance: Distance = absolute,
    **options: Any,
) -> Family:
    """GS: times, the times the network is shown and additions to a solver's weights of all answers; hard distillation.

    Its weights of earlier samples change nothing that weights of all answers cannot. DPM-Solver++(3M) in the paper,
    with ``order=3``; the distance is the feature distance of ``js.learn.features`` on pixels, L1 on latents. Arguments
    and errors as ``bns``.
    """
    build = builder(solver, process, consistent=False, **options)
    start = _start(build, steps, schedule, coefficients=True, network_times=True)
    return Family(build, start, endpoint(build, model, distance=distance))


def s4s(
    process: Process,
    model: Model,
    steps: int,
    *,
    memory: int = 3,
    alternating: bool = False,
    schedule: Times | None = None,
    distance: Distance = squared,
) -> Family:
    """S4S: the weights of the last ``memory`` answers on a schedule that stays, from DPM-Solver++ of that order.

    Args:
        process: the noise process.
        model: the denoiser.
        steps: of the schedule.
        memory: answers that are combined.
        alternating: S4S-Alt: times and the times the network is shown too, for ``js.learn.alternate`` with
            ``js.learn.S4S_PHASES``.
        schedule: where to start, or stay; of ``steps`` steps.
        distance: of two batches of samples. The paper's loss is LD3's: see ``js.learn.ld3`` for its noises that move.

    Raises:
        ValueError: what ``parameters`` or ``builder`` refuse.
    """
    checks.integer("memory", memory, low=2)
    build = builder(dpm_solver_pp, process, consistent=False, order=min(memory, 3))
    start = _start(build, steps, schedule, coefficients=memory, times=alternating, network_times=alternating)
    return Family(build, start, endpoint(build, model, distance=distance))


def neural_solver(
    process: Process,
    model: Model,
    steps: int,
    times: Float[Array, " m+1"],
    *,
    solver: Solver = ddim,
    coordinate: str = "half_log_snr",
    schedule: Times | None = None,
    distance: Distance = squared,
    last: Distance | None = None,
    **options: Any,
) -> Family:
    """Differentiable solver search: times and weights whose rows sum to one, for the whole path; batches of ``Path``.

    The paper starts from Euler's method on the straight path and combines velocities; for diffusion models its program
    starts from DDIM and combines estimates. On the straight path the two are the same, and so are the combinations.
    With 6 steps or fewer the program lets its last two combine no more than two answers; all are free here.

    Args:
        process: the noise process.
        model: the denoiser.
        steps: of the schedule.
        times: of the nodes of the paths, see ``js.learn.paths``.
        solver: where to start, of one network call a step.
        coordinate: of the paths.
        schedule: where to start, of ``steps`` steps.
        distance: of two batches of samples.
        last: a distance of the last samples that is added; the authors' is ``js.learn.absolute``, almost.
        **options: of the solver.

    Raises:
        ValueError: what ``parameters``, ``builder`` or ``follow`` refuse.
    """
    build = builder(solver, process, **options)
    start = _start(build, steps, schedule, coefficients=True)
    objective = follow(build, model, times, coordinate=coordinate, distance=distance, last=last)
    return Family(build, start, objective)


def follow(
    build: Builder,
    model: Model,
    times: Float[Array, " m+1"],
    *,
    coordinate: str = "half_log_snr",
    distance: Distance = squared,
    last: Distance | None = None,
) -> Follow:
    """The distance from the teacher's path after each step, wherever the learned schedule puts it.

    Mean over the steps and a batch of ``Path``. The authors round learned times to the teacher's, so that goals have no
    derivative; here the goal moves with its time.

    Args:
        build: parameters -> sampler, of one network call a step.
        model: the denoiser.
        times: of the nodes of the paths.
        coordinate: of the paths.
        distance: of two batches of samples.
        last: a distance that is added after the last step.

    Raises:
        ValueError: an unknown coordinate.
    """
    checks.one_of("coordinate", coordinate, coordinates)
    further = None if last is None else as_pytree(last)
    return Follow(build, as_pytree(model), jnp.asarray(times), as_pytree(distance), further, coordinate)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["build", "model", "times", "distance", "last"],
    meta_fields=["coordinate"],
)
@dataclasses.dataclass(frozen=True)
class Follow:
    """See ``follow``."""

    build: Builder
    model: Model
    times: Float[Array, " m+1"]
    distance: Distance
    last: Distance | None
    coordinate: str

    def __call__(self, parameters: Parameters, batch: Path, key: Key[Array, ""] | None) -> Float[Array, ""]:
        """The loss."""
        process, at = self.build.process, parameters.times(self.build.process)[1:]
        x = uncentre(jax.tree.map(lambda leaf: leaf[:, 0], batch.x), process.origin)
        _, places = run(self.build(parameters), self.model, x, key, record=lambda state: state.x)
        goal = along(process, self.times, batch, at, self.coordinate)
        places = jax.vmap(lambda x: centre(x, process.origin))(places)
        loss = jax.vmap(self.distance)(places, goal).mean()
        if self.last is None:
            return loss
        end = [jax.tree.map(lambda leaf: leaf[-1], path) for path in (places, goal)]
        return loss + self.last(*end).mean() / len(at)


def alternate(
    objective: Objective,
    parameters: Parameters,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    rounds: int,
    phases: Sequence[Sequence[str]] = S4S_PHASES,
    key: Key[Array, ""] | None = None,
    out: str | pathlib.Path | None = None,
    **options: Any,
) -> Result:
    """Learn some parts while the others stay, in turn: each phase is a ``fit`` that goes on from the best so far.

    Args:
        objective: as in ``fit``.
        parameters: to start from.
        optimizer: of optax; its state is new in each phase.
        steps: gradient steps of one phase.
        rounds: how often each phase comes.
        phases: names in ``parameters.learned``; a phase none of whose parts is learned is an error.
        key: of everything random.
        out: a directory for checkpoints, with one of its own for each phase. A run in it goes on.
        **options: of ``fit``.

    Returns:
        The best phase's parameters and value; ``last`` of the last phase, ``history`` of all, steps counted through.

    Raises:
        ValueError: a phase with a name that is not learned, no rounds, or what ``fit`` refuses.
    Source: Frankel et al. 2025, S4S (arXiv 2502.17423), algorithm 2.
    """
    checks.integer("rounds", rounds, low=1)
    for names in phases:
        for name in names:
            checks.one_of("phases", name, parameters.learned)
    key = jax.random.key(0) if key is None else key
    best: Result | None = None
    last, history = parameters, []
    for number, names in enumerate([tuple(names) for _ in range(rounds) for names in phases]):
        found = fit(
            objective,
            last if best is None else best.parameters,
            optimizer=only(optimizer, names),
            steps=steps,
            key=jax.random.fold_in(key, number),
            out=None if out is None else pathlib.Path(out) / f"phase-{number}",
            **options,
        )
        history += [row | {"step": row["step"] + number * steps} for row in found.history]
        best = found if best is None or found.value < best.value else best
        last = found.last
    assert best is not None
    return Result(best.parameters, best.value, last, history, "steps")


@functools.cache
def only(optimizer: optax.GradientTransformation, names: tuple[str, ...]) -> optax.GradientTransformation:
    """The optimiser for some parts of ``Parameters.learned``; the others stay. One object for equal arguments."""
    import optax

    def labels(learned: dict[str, Any]) -> dict[str, str]:
        return {name: "learned" if name in names else "kept" for name in learned}

    return optax.multi_transform({"learned": optimizer, "kept": optax.set_to_zero()}, labels)


def _start(build: Builder, steps: int, schedule: Times | None, **parts: Any) -> Parameters:
    """Parameters for as many network calls as the solver makes."""
    plain = parameters(build.process, steps, schedule=schedule)
    calls = jax.eval_shape(build, plain).rows.time.shape[0]
    return parameters(build.process, steps, schedule=schedule, calls=calls, **parts)
