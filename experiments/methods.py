"""Every way of learning a sampler, behind one door: a ``Task`` goes in, a sampler of as many network calls comes out.

All start from the best hand-made schedule (by its error on the training noises) and see the same training noises with
the exact solution as their goals. What none of them sees is the noises they are measured on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
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


def distance(x: Array, y: Array) -> Float[Array, " batch"]:
    """The logarithm of the mean squared difference: every sample counts, not only those that end far away."""
    return jnp.log(js.learn.squared(x, y) + 1e-10)


def by_gradient(task: Task, **parts: bool) -> tuple[js.learn.Builder, Parameters]:
    """End-to-end distillation of whichever parts are on."""
    steps = len(task.times) - 1
    build = js.learn.builder(task.solver, task.process, **task.options)
    parameters = js.learn.parameters(task.process, steps, schedule=task.times, calls=task.calls, **parts)
    objective = js.learn.endpoint(build, task.model, distance=distance)
    found = js.learn.fit(
        objective,
        parameters,
        optimizer=optimizer(task.rate, task.steps),
        batches=js.learn.batches(task.train, task.batch),
        steps=task.steps,
        every=max(task.steps // 20, 1),
        validate=jax.tree_util.Partial(_validate, objective, task.check),
        key=task.key,
        report=lambda *_, **__: None,
    )
    return build, found.parameters


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


registry: dict[str, Method] = {
    "schedule": schedule,
    "network times": network_times,
    "all": coefficients,
}


def _validate(objective: Any, pairs: Pairs, parameters: Any) -> Float[Array, ""]:
    return objective(parameters, pairs, None)
