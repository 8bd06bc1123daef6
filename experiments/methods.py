"""Every way of learning a sampler, behind one door: a ``Task`` goes in, a sampler of as many network calls comes out.

All see the same training noises with the exact solution as their goals, and start from the schedule that is best by
hand on them, unless a method says otherwise. What none of them sees is the noises they are measured on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import optax

import jaxsamplers as js

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key

    from jaxsamplers.core import Model, Sampler
    from jaxsamplers.learn import Pairs, Parameters
    from jaxsamplers.processes import Process

    Times = Float[Array, " n+1"]


class NotForThis(Exception):
    """A method has no meaning for a task; the message says why."""


class Task(NamedTuple):
    """What there is to learn from.

    Attributes:
        process: the noise process.
        model: the denoiser.
        solver: ``(process, times, **options) -> Tableau``.
        options: the solver's keywords.
        times: the schedule to start from.
        calls: the network calls that the solver makes on it.
        train: noises and exact solutions to learn from.
        check: others, for validation.
        data: samples of the data, ``[count, ...]``.
        steps: gradient steps.
        batch: noises in each.
        rate: the learning rate.
        key: of everything random.
    """

    process: Process
    model: Model
    solver: Callable[..., Any]
    options: dict[str, Any]
    times: Times
    calls: int
    train: Pairs
    check: Pairs
    data: Float[Array, "count ..."]
    steps: int
    batch: int
    rate: float
    key: Key[Array, ""]


Method = Callable[[Task], "Sampler | Times"]  # times are for the task's own solver


def by_gradient(task: Task, **parts: Any) -> tuple[js.learn.Builder, Parameters]:
    """End-to-end distillation of whichever parts are on."""
    steps = len(task.times) - 1
    build = js.learn.builder(task.solver, task.process, **task.options)
    parameters = js.learn.parameters(task.process, steps, schedule=task.times, calls=task.calls, **parts)
    objective = js.learn.endpoint(build, task.model, distance=js.learn.rms)
    options = _options(task, build, task.train, task.steps)
    return build, js.learn.fit(objective, parameters, optimizer=optimizer(task.rate, task.steps), **options).parameters


@functools.cache
def optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with clipped gradients and a rate that falls to zero; one object for equal numbers, so one compilation."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))


def schedule(task: Task) -> Times:
    """The schedule alone: LD3's parameters with the hard teacher."""
    _, parameters = by_gradient(task)
    return parameters.times(task.process)


def network_times(task: Task) -> Sampler:
    """The schedule and the times the network is shown: all of LD3's parameters."""
    build, parameters = by_gradient(task, network_times=True)
    return build(parameters)


def coefficients(task: Task) -> Sampler:
    """Schedule, network times and the weights of all answers: a generalised solver."""
    build, parameters = by_gradient(task, network_times=True, coefficients=True)
    return build(parameters)


def only_coefficients(task: Task) -> Sampler:
    """The weights of all answers on the hand-made schedule."""
    build, parameters = by_gradient(task, times=False, coefficients=True)
    return build(parameters)


def ld3(task: Task) -> Sampler:
    """LD3 as its authors run it: 50 noises, two at a time, a soft teacher, their optimiser and their rule for rates."""
    steps, few = len(task.times) - 1, lambda pairs: jax.tree.map(lambda leaf: leaf[:50], pairs)
    train, check = few(task.train), few(task.check)
    build = js.learn.builder(task.solver, task.process, **task.options)
    found = js.learn.fit(
        js.learn.ld3(build, task.model, train, steps=steps),
        js.learn.parameters(task.process, steps, schedule=task.times, calls=task.calls, network_times=True),
        optimizer=js.learn.ld3_optimizer(steps, both_from=50),
        batches=js.learn.batches(train, 2),
        steps=175,
        every=5,
        plateau=js.learn.Plateau(5),
        validate=jax.tree_util.Partial(_validate, js.learn.endpoint(build, task.model), check),
        key=task.key,
        report=lambda *_, **__: None,
    )
    return build(found.parameters)


def bns(task: Task) -> Sampler:
    """Bespoke non-stationary solvers: schedule and free weights of all answers, for the mean logarithm of the error."""
    steps = len(task.times) - 1
    family = js.learn.bns(task.process, task.model, steps, solver=task.solver, schedule=task.times, **task.options)
    return _learned(task, *family, task.train)


def s4s_alt(task: Task) -> Sampler:
    """S4S-Alt: weights of the last three answers, and schedule and network times, in turn; five times each."""
    steps = _one_call_a_step(task)
    build, start, objective = js.learn.s4s(task.process, task.model, steps, alternating=True, schedule=task.times)
    rounds = 5 if task.steps % 10 == 0 else 1
    phase = task.steps // (2 * rounds)
    found = js.learn.alternate(
        objective,
        start,
        optimizer=optimizer(task.rate, phase),
        rounds=rounds,
        **_options(task, build, task.train, phase),
    )
    return build(found.parameters)


def neural_solver(task: Task) -> Sampler:
    """Differentiable solver search: from DDIM, schedule and weights whose rows sum to one, for the whole path."""
    steps, nodes = _one_call_a_step(task), _nodes(task)
    coordinate = js.learn.parameters(task.process, steps, schedule=task.times).coordinate
    family = js.learn.neural_solver(
        task.process, task.model, steps, nodes, coordinate=coordinate, schedule=task.times, last=js.learn.absolute
    )
    return _learned(task, *family, js.learn.paths(task.process, task.model, task.train.x, nodes, coordinate=coordinate))


def bespoke(task: Task) -> Sampler:
    """The midpoint method on a path of another scale and speed, or Euler's where network calls are odd."""
    if task.solver is not js.solvers.euler:
        raise NotForThis("it learns Runge-Kutta methods: see what it makes of euler")
    method, times = ("euler", task.times) if task.calls % 2 else ("midpoint", task.times[::2])
    build, start = js.learn.bespoke(task.process, len(times) - 1, method=method, schedule=times)
    nodes = _nodes(task)
    objective = js.learn.bespoke_loss(build, task.model, nodes, coordinate=start.coordinate)
    data = js.learn.paths(task.process, task.model, task.train.x, nodes, coordinate=start.coordinate)
    return _learned(task, build, start, objective, data)


def dc_solver(task: Task) -> Sampler:
    """DC-Solver: one compensation ratio after the other, for the teacher's path."""
    if task.solver is not js.solvers.unipc:
        raise NotForThis("it compensates a predictor-corrector: see what it makes of unipc")
    steps, nodes = _one_call_a_step(task), _nodes(task)
    build = js.learn.builder(task.solver, task.process, **task.options)
    start = js.learn.parameters(task.process, steps, schedule=task.times, times=False, ratios=True)
    few = task.train.x[: task.batch]
    whole = js.learn.paths(task.process, task.model, few, nodes, coordinate=start.coordinate)
    places = js.learn.along(task.process, nodes, whole, task.times[1:], start.coordinate)
    return build(js.learn.dc_solver(build, start, task.model, few, places.swapaxes(0, 1)))


def pas(task: Task) -> Sampler:
    """PAS: directions of DDIM, or of iPNDM where the solver is a multistep one, corrected where the path bends."""
    steps, nodes = _one_call_a_step(task), _nodes(task)
    order = 1 if task.solver in (js.solvers.ddim, js.solvers.euler) else 3
    build, start = js.learn.pas(task.process, steps, schedule=task.times, order=order)
    whole = js.learn.paths(task.process, task.model, task.train.x, nodes, coordinate=start.coordinate)
    places = js.learn.along(task.process, nodes, whole, task.times[1:], start.coordinate)
    return build(js.learn.pas_search(build, start, task.model, task.train.x, places.swapaxes(0, 1)))


def amed(task: Task) -> Sampler:
    """AMED, taught by where it ends: its solver where the task's is a Runge-Kutta method, or put into iPNDM."""
    if task.calls % 2:
        raise NotForThis("it makes two network calls a step: see what it makes of an even number")
    times = task.times if task.calls == 2 * len(task.times) - 2 else task.times[::2]
    if task.calls != 2 * len(times) - 2:
        raise NotForThis("it makes two network calls a step, and the solver's schedule is not one of half the calls")
    flow = task.solver in (js.solvers.euler, js.solvers.heun)
    build: Any
    build, start = js.learn.amed(
        task.process, len(times) - 1, task.train.x[:1], task.key, schedule=times,
        plugin=None if flow else 3, feature=js.learn.entries,
    )  # fmt: skip
    return _learned(task, build, start, js.learn.endpoint(build, task.model, distance=js.learn.rms), task.train)


def align_your_steps(task: Task) -> Times:
    """The coordinate search on the KLUB, from equal steps in half-log-SNR, stopped by the validation error."""
    if not float(task.times[-1]):
        raise NotForThis("the KLUB of a step to the clean end is infinite")

    def error(times: Times) -> Array:
        return _error(task.solver, tuple(task.options.items()), task.process, times, task.model, task.check)

    first, last = float(task.times[0]), float(task.times[-1])
    start = js.schedules.half_log_snr(task.process, len(task.times) - 1, t_start=first, t_end=last)
    data, key = task.data[:256], task.key
    return js.learn.align_your_steps(task.process, task.model, data, start, key, sweeps=10, metric=error, patience=3)


def gits(task: Task) -> Times:
    """Dynamic programming on the teacher's path, by how far straight steps leave it."""
    coordinate = "edm" if float(task.process.alpha(task.times[0])) else "flow"
    few = task.train.x[: task.batch]
    return js.learn.gits(task.process, task.model, few, _nodes(task, 60), len(task.times) - 1, coordinate=coordinate)


def oss(task: Task) -> Times:
    """Dynamic programming with the student's own samples."""
    return js.learn.oss(task.process, task.model, task.train.x[: task.batch], _nodes(task, 60), len(task.times) - 1)


def usf(task: Task) -> Sampler:
    """Evolution over times, and over order, prediction and corrector of each step."""
    if task.solver is not js.solvers.unipc:
        raise NotForThis("it searches among UniPC's steps")
    pairs = js.learn.pairs(task.train.x[: task.batch], task.train.goal[: task.batch])
    found = js.learn.usf(
        task.key, task.process, task.model, pairs, _nodes(task, 60), len(task.times) - 1, start=task.times,
        distance=js.learn.rms, generations=30,
    )  # fmt: skip
    return found.sampler


registry: dict[str, Method] = {
    "schedule": schedule,
    "network times": network_times,
    "all": coefficients,
    "LD3": ld3,
    "BNS": bns,
    "S4S-Alt": s4s_alt,
    "NeuralSolver": neural_solver,
    "Bespoke": bespoke,
    "DC-Solver": dc_solver,
    "AMED": amed,
    "PAS": pas,
    "AYS": align_your_steps,
    "GITS": gits,
    "OSS": oss,
    "USF": usf,
}


def _options(task: Task, build: Any, data: Any, steps: int) -> dict[str, Any]:
    """What ``fit`` is given by all of them: the same noises, judged by the same error."""
    objective = js.learn.endpoint(build, task.model, distance=js.learn.rms)
    return {
        "batches": js.learn.batches(data, task.batch),
        "steps": steps,
        "every": next(every for every in range(max(task.steps // 20, 1), 0, -1) if steps % every == 0),
        "validate": jax.tree_util.Partial(_validate, objective, task.check),
        "key": task.key,
        "report": lambda *_, **__: None,
    }


def _learned(task: Task, build: Any, start: Parameters, objective: Any, data: Any) -> Sampler:
    options = _options(task, build, data, task.steps)
    return build(js.learn.fit(objective, start, optimizer=optimizer(task.rate, task.steps), **options).parameters)


def _one_call_a_step(task: Task) -> int:
    if task.calls != len(task.times) - 1:
        raise NotForThis("it makes one network call a step")
    return task.calls


def _nodes(task: Task, steps: int = 100) -> Times:
    """A teacher's: steps on the curve of the hand-made schedule; where its half-log-SNR is infinite, equal ones."""
    if bool(jax.numpy.isfinite(task.process.half_log_snr(task.times)).all()):
        return js.schedules.interpolate(task.process, task.times, steps)
    return js.schedules.uniform(task.process, steps)


@functools.partial(jax.jit, static_argnames=("solver", "options"))
def _error(solver: Any, options: Any, process: Process, times: Times, model: Model, pairs: Pairs) -> Array:
    sampler = solver(process, times, **dict(options))
    return js.learn.rms(js.sample(sampler, model, pairs.x), pairs.goal).mean()


def _validate(objective: Any, pairs: Pairs, parameters: Any) -> Float[Array, ""]:
    return objective(parameters, pairs, None)
