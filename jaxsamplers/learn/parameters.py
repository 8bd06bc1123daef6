"""What of a sampler is learned: one pytree of unconstrained numbers, for every method.

Learning starts from a sampler that exists. A parameter says how far to go from it and is zero in the beginning, so that
zero is the base sampler, bit for bit, and one scale of numbers suits one optimiser:

    gaps            h_j = h0_j (f + (1 - f) softmax-ratio_j),  ratio_j = e^{g_j} sum h0 / sum h0 e^{g}
    ends            the first and the last node, moved by  reach * range * tanh
    network_times   where the network is asked: its node, moved by  tanh * half the smaller gap beside it
    coefficients    added to the weights of the network's answers, see ``residuals``
    ratios          DC-Solver's compensation, 1 + r, see ``compensation``
    options, extra  any number that the solver takes (``eta``), or that the model is given (``scale``): v0 e^{v}

The ``h`` are gaps between nodes in a *coordinate* that grows while sampling, half-log-SNR for instance; they add up to
what they did, and none becomes smaller than the fraction ``f`` (the floor) of what it was.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxsamplers import checks, schedules

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

    Nodes = Float[Array, " n+1"]

FLOOR = 0.02  # of a gap, as a fraction of what it was
REACH = 0.25  # of an end, as a fraction of the whole range


def _half_log_snr(process: Process) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return process.half_log_snr, process.time


def _time(process: Process) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return jnp.negative, jnp.negative


def _angle(process: Process) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return (
        lambda t: -jnp.arctan2(process.sigma(t), process.alpha(t)),
        lambda u: process.time(-jnp.log(jnp.tan(-u))),
    )


coordinates = {"half_log_snr": _half_log_snr, "time": _time, "angle": _angle}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["learned", "start"], meta_fields=["coordinate"])
@dataclasses.dataclass(frozen=True)
class Parameters:
    """What is learned, and where it starts; made by ``parameters``.

    Attributes:
        learned: unconstrained arrays by name, zero in the beginning; parts that are off are absent.
        start: what zero stands for: the ``schedule`` [n+1], and the values of ``options`` and ``extra``. No optimiser
            touches it.
        coordinate: what the gaps are gaps in.
    """

    learned: dict[str, Any]
    start: dict[str, Any]
    coordinate: str

    def times(self, process: Process) -> Nodes:
        """The schedule."""
        t = jax.lax.stop_gradient(self.start["schedule"])
        to, back = coordinates[self.coordinate](process)
        nodes = to(t)
        span = nodes[-1] - nodes[0]
        moved = jnp.zeros_like(nodes)
        if "gaps" in self.learned:
            moved = moved.at[1:-1].add(jnp.cumsum(_change(jnp.diff(nodes), self.learned["gaps"]))[:-1])
        if "ends" in self.learned:
            first, last = self._reach(process, nodes) * jnp.tanh(self.learned["ends"])
            moved = moved + first + (nodes + moved - nodes[0]) / span * (last - first)
        return jnp.clip(_displace(back, t, nodes, moved), 0.0, process.t_max)  # what rounding adds

    def network_times(self, process: Process, times: Nodes, asked: Float[Array, " calls"]) -> Float[Array, " calls"]:
        """The times the network is shown where the table would show it ``asked``; the first stays.

        Args:
            process: the noise process.
            times: the schedule.
            asked: the table's own times, each within the schedule.
        """
        to, back = coordinates[self.coordinate](process)
        nodes = to(times)
        gaps = jnp.diff(nodes)
        beside = jnp.minimum(gaps, jnp.concatenate([gaps[:1], gaps[:-1]]))
        step = jnp.clip(jnp.searchsorted(-times, -asked, side="right") - 1, 0, len(gaps) - 1)
        free = jnp.arange(len(asked)) > 0
        moved = jnp.where(free, jnp.tanh(self.learned["network_times"]) * beside[step] / 2, 0.0)
        return _displace(back, asked, to(asked), moved)

    def options(self) -> dict[str, Array]:
        """Numbers for the solver, by keyword."""
        return self._scaled("options")

    def extra(self) -> dict[str, Array]:
        """Numbers for the model, by keyword, one a row."""
        return self._scaled("extra")

    def _scaled(self, part: str) -> dict[str, Array]:
        start = jax.lax.stop_gradient(self.start.get(part, {}))
        return {name: start[name] * jnp.exp(value) for name, value in self.learned.get(part, {}).items()}

    def _reach(self, process: Process, nodes: Nodes) -> Float[Array, "2"]:
        """How far each end may go: not out of the process's range, so that an end on its boundary stays."""
        to, _ = coordinates[self.coordinate](process)
        room = jnp.stack(
            [nodes[0] - to(jnp.asarray(process.t_max, nodes.dtype)), to(jnp.zeros_like(nodes[0])) - nodes[-1]]
        )
        return jnp.clip(jax.lax.stop_gradient(room), 0.0, REACH * (nodes[-1] - nodes[0]))


def parameters(
    process: Process,
    steps: int,
    *,
    times: bool = True,
    ends: bool = False,
    network_times: bool = False,
    coefficients: bool | int = False,
    ratios: bool = False,
    options: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    schedule: Nodes | None = None,
    coordinate: str | None = None,
    calls: int | None = None,
) -> Parameters:
    """Parameters at the base sampler; what is off is not there, and each combination compiles once.

    Args:
        process: the noise process.
        steps: of the schedule.
        times: learn where the steps go.
        ends: learn the first and the last time too; one on the boundary of the process's range stays there.
        network_times: learn the times the network is shown, the solver's own left as they are.
        coefficients: learn weights of the network's answers; a number to use only that many of the last ones.
        ratios: learn DC-Solver's compensation ratios.
        options: numbers the solver takes, above 0, to start from: ``{"eta": 1.0}``. A number becomes one a step.
        extra: keyword arguments of the model, above 0: ``{"scale": 7.5}``. A number becomes one a row.
        schedule: where to start, of ``steps`` steps: equal in the coordinate by default.
        coordinate: "half_log_snr", "time" or "angle" (of ``arctan(sigma / alpha)``); by default the first, unless it is
            infinite at an end of the schedule, where it is "time".
        calls: network calls of the solver, if it needs more than one a step.

    Raises:
        ValueError: a schedule of another length, an unknown coordinate or one that is infinite at an end, numbers that
            are not above 0.
    """
    checks.integer("steps", steps, low=1)
    calls = steps if calls is None else checks.integer("calls", calls, low=1)
    schedule, coordinate = _base(process, steps, schedule, coordinate)
    dtype = schedule.dtype
    learned: dict[str, Any] = {}
    if times:
        learned["gaps"] = jnp.zeros(steps, dtype)
    if ends:
        learned["ends"] = jnp.zeros(2, dtype)
    if network_times:
        learned["network_times"] = jnp.zeros(calls, dtype)
    if coefficients:
        remembered = calls if coefficients is True else checks.integer("coefficients", coefficients, low=2)
        learned["coefficients"] = jnp.zeros((calls, min(remembered, calls)), dtype)
    if ratios:
        learned["ratios"] = jnp.zeros(calls, dtype)
    start: dict[str, Any] = {"schedule": schedule}
    for part, given, length in (("options", options, steps), ("extra", extra, calls)):
        if given:
            for name, value in given.items():
                checks.within(f"{part}[{name!r}]", value, 0.0, above=True)
            start[part] = {
                name: jnp.broadcast_to(jnp.asarray(value, dtype), (length,)) for name, value in given.items()
            }
            learned[part] = jax.tree.map(jnp.zeros_like, start[part])
    return Parameters(learned, start, coordinate)


def _base(process: Process, steps: int, schedule: Nodes | None, coordinate: str | None) -> tuple[Nodes, str]:
    finite = lambda t: bool(jnp.isfinite(process.half_log_snr(t)).all())
    ends = jnp.stack([jnp.asarray(t, jnp.result_type(float)) for t in (process.t_max, process.t_min)])
    if schedule is not None:
        schedule = schedules.validate(process, schedule)
        if len(schedule) != steps + 1:
            raise ValueError(f"schedule must have steps + 1 = {steps + 1} times, got {len(schedule)}")
        ends = schedule[jnp.array([0, -1])]
    if coordinate is None:
        coordinate = "half_log_snr" if finite(ends) else "time"
    checks.one_of("coordinate", coordinate, coordinates)
    if coordinate == "half_log_snr" and not finite(ends):
        raise ValueError(
            f"the half-log-SNR is infinite at an end of the schedule, {ends[0]:g} to {ends[1]:g}: "
            'learn in coordinate="time" or "angle", or give a schedule= inside the range'
        )
    if schedule is None:
        to, back = coordinates[coordinate](process)
        nodes = jnp.linspace(to(ends[0]), to(ends[1]), steps + 1)
        schedule = schedules.validate(process, jnp.concatenate([ends[:1], back(nodes[1:-1]), ends[1:]]))
    return schedule, coordinate


def _change(gaps: Float[Array, " n"], logits: Float[Array, " n"]) -> Float[Array, " n"]:
    """What gaps of unchanged sum grow by; exactly zero for logits of zero."""
    growth = jnp.expm1(logits - jax.lax.stop_gradient(jnp.max(logits)))
    mean = jnp.sum(gaps * growth) / jnp.sum(gaps)
    return (1 - FLOOR) * gaps * (growth - mean) / (1 + mean)


def _displace(back: Callable[[Array], Array], t: Array, nodes: Array, moved: Array) -> Array:
    """``back(nodes + moved)``, and exactly ``t`` where nothing is moved, with the derivative of the former."""
    still = moved == 0
    slope = jax.jvp(back, (nodes,), (jnp.ones_like(nodes),))[1]
    nearby = t + jax.lax.stop_gradient(jnp.where(jnp.isfinite(slope), slope, 0.0)) * moved
    inside = nodes[len(nodes) // 2]  # where ``back`` has a gradient, for those whose gradient is not used
    return jnp.where(still, nearby, back(jnp.where(still, inside, nodes + moved)))
