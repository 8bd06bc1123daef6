"""From parameters to a sampler: the solver on the learned schedule, with whatever else is learned put on top."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from jaxsamplers.core import Model, sample
from jaxsamplers.denoisers import as_pytree
from jaxsamplers.learn.compensation import compensated, corrected_register
from jaxsamplers.learn.parameters import Parameters
from jaxsamplers.learn.residuals import with_residuals
from jaxsamplers.tableau import Tableau, with_extra

if TYPE_CHECKING:
    from jaxtyping import Array, Key, PyTree

    from jaxsamplers.processes import Process

    Start = Callable[[Process, PyTree, Array], PyTree]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["process", "start"],
    meta_fields=["solver", "options", "consistent"],
)
@dataclasses.dataclass(frozen=True)
class Builder:
    """``parameters -> Tableau``; a pytree, equal by value, so that no second one compiles anything again.

    Attributes:
        process: the noise process.
        solver: ``(process, times, **options) -> Tableau``.
        options: the solver's fixed keywords.
        consistent: whether learned coefficients keep the solver exact for constant answers.
        start: what is done to the noise when the schedule starts late; ``None`` for nothing.
    """

    process: Process
    solver: Callable[..., Tableau]
    options: tuple[tuple[str, Any], ...] = ()
    consistent: bool = True
    start: Start | None = None

    def __call__(self, parameters: Parameters) -> Tableau:
        """The sampler.

        Raises:
            ValueError: parts that do not fit the solver: another number of network calls, an unknown option.
        """
        times = parameters.times(self.process)
        tableau = self.solver(self.process, times, **dict(self.options), **parameters.options())
        for part in ("network_times", "coefficients", "ratios"):
            size = len(parameters.learned.get(part, tableau.rows.time))
            if size != len(tableau):
                raise ValueError(
                    f"{part} are for {size} network calls, but the solver makes {len(tableau)} in "
                    f"{len(times) - 1} steps: make the parameters with calls={len(tableau)}"
                )
        if "ratios" in parameters.learned:
            if len(tableau) != len(times) - 1:
                raise ValueError(f"ratios are for solvers of one network call a step, not {len(tableau)} in all")
            ratios, register = 1 + parameters.learned["ratios"], corrected_register(self.solver)
            tableau = compensated(tableau, tableau.rows.time, ratios, corrected=register)
        if "coefficients" in parameters.learned:
            tableau = with_residuals(tableau, parameters.learned["coefficients"], consistent=self.consistent)
        if "network_times" in parameters.learned:
            asked = parameters.network_times(self.process, times, tableau.rows.time)
            tableau = dataclasses.replace(tableau, rows=dataclasses.replace(tableau.rows, time=asked))
        return with_extra(tableau, **parameters.extra())

    def begin(self, parameters: Parameters, x: PyTree) -> PyTree:
        """Noise at ``process.t_max`` as a sample at the schedule's first time."""
        return x if self.start is None else self.start(self.process, x, parameters.times(self.process)[0])

    def sample(self, parameters: Parameters, model: Model, x: PyTree, key: Key[Array, ...] | None = None) -> PyTree:
        """The sample of the built sampler, from noise ``x``; differentiable in the parameters, at one call's memory."""
        return sample(self(parameters), model, self.begin(parameters, x), key)


def builder(
    solver: Callable[..., Tableau],
    process: Process,
    *,
    start: Start | None = None,
    consistent: bool = True,
    **options: Any,
) -> Builder:
    """What makes samplers of one solver from parameters.

    Args:
        solver: any of ``js.solvers``, or a function like them.
        process: the noise process.
        start: ``(process, x, t) -> x``, what makes a sample at ``t`` from noise at ``t_max`` when the first time is
            learned or later than ``t_max``: ``js.learn.truncated`` or ``js.learn.teleport(mean, covariance)``.
        consistent: learned coefficients keep the solver exact for constant answers of the network.
        **options: the solver's fixed keywords. Arrays are learned instead: ``parameters(..., options={...})``.

    Raises:
        ValueError: an option that is an array.
    """
    for name, value in options.items():
        try:
            hash(value)
        except TypeError:
            raise ValueError(
                f"{name} is an array: give it to js.learn.parameters(options={{{name!r}: ...}}), not to the builder"
            ) from None
    start = None if start is None else as_pytree(start)
    return Builder(process, solver, tuple(sorted(options.items())), consistent, start)
