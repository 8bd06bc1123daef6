"""From the words of a command line to schedules, problems and samplers."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxsamplers import checks, schedules

if TYPE_CHECKING:
    from jaxsamplers.core import Sampler
    from jaxsamplers.problems import Problem

INFINITE_ENDS = {"rectified_flow", "trigonometric"}  # half-log-SNR schedules need t_start and t_end there


def times_of(options: argparse.Namespace, process: Any, steps: int) -> tuple[str, Any]:
    """The schedule's name, and its times."""
    name = options.schedule or usual_schedule(options)
    schedule = checks.look_up("schedule", name, schedules.registry)
    return name, schedule(process, steps, t_start=options.t_start, t_end=options.t_end)


def schedules_of(
    options: argparse.Namespace, process: Any, budgets: Sequence[int]
) -> tuple[dict[str, Callable[[int], Any]], dict[str, str]]:
    """The schedules that were asked for, and of "all" those that were left out, with the reason.

    Of all, those are compared that the process allows, that have the ends of the usual one (there is one start and one
    goal for everybody), and that no earlier one equals.
    """

    def grid(name: str) -> Callable[[int], Any]:
        make = checks.look_up("schedule", name, schedules.registry)
        return lambda steps: make(process, steps, t_start=options.t_start, t_end=options.t_end)

    if options.schedule != ["all"]:
        return {name: grid(name) for name in options.schedule or [usual_schedule(options)]}, {}
    usual = grid(usual_schedule(options))(budgets[-1])
    made: dict[str, list[Any]] = {}
    left_out: dict[str, str] = {}
    for name in schedules.registry:
        try:
            times = [np.asarray(grid(name)(steps)) for steps in budgets]
        except ValueError as error:
            left_out[name] = " ".join(str(error).split())
            continue
        twin = next((n for n, other in made.items() if all(map(np.allclose, times, other))), None)
        if twin is not None:
            left_out[name] = f"the same as {twin}"
        elif not np.allclose([times[-1][0], times[-1][-1]], [usual[0], usual[-1]]):
            left_out[name] = "has other ends"
        else:
            made[name] = times
    return {name: grid(name) for name in made}, left_out


def usual_schedule(options: argparse.Namespace) -> str:
    """What is used when nothing is asked for."""
    return "uniform" if options.process in INFINITE_ENDS else "half_log_snr"


def problem_of(name: str) -> Problem:
    """A named problem, or what a function of one's own, ``package.module:function``, returns."""
    from jaxsamplers import problems

    module, colon, function = name.partition(":")
    if not colon:
        return checks.look_up("problem", name, problems.registry)()
    try:
        problem = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"there is no problem {name}: {error}") from error
    if not isinstance(problem, problems.Problem):
        raise ValueError(f"{name} must return a jaxsamplers.problems.Problem, got {type(problem).__name__}")
    return problem


def build(solver: Callable[..., Sampler], process: Any, times: Any, options: Mapping[str, Any]) -> Sampler:
    """The sampler, or a sentence that says which option is missing or unknown."""
    missing = [
        name
        for name, parameter in list(inspect.signature(solver).parameters.items())[2:]
        if parameter.default is parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"this solver needs {' and '.join(f'--option {name}=...' for name in missing)}")
    try:
        return solver(process, times, **options)
    except TypeError as error:
        raise ValueError(f"this solver cannot use {dict(options)}: {error}") from error


def solver_options(solver: Callable[..., Any], given: Sequence[str]) -> dict[str, Any]:
    """What ``--option NAME=VALUE`` said, each value of its default's kind."""
    parameters = {n: p for n, p in inspect.signature(solver).parameters.items() if p.kind is p.KEYWORD_ONLY}
    return dict(_solver_option(parameters, item) for item in given)


def _solver_option(known: Mapping[str, inspect.Parameter], item: str) -> tuple[str, Any]:
    """The name and the value of ``NAME=VALUE``, which must be of the default's kind, or of the annotation's."""
    name, equals, text = item.partition("=")
    if not equals:
        raise ValueError(f"--option wants NAME=VALUE, got {item!r}")
    checks.one_of("option", name, known)
    value, default = _value(text), known[name].default
    kinds = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}
    needed = default is inspect.Parameter.empty
    kind = {each.__name__: each for each in kinds}.get(known[name].annotation) if needed else type(default)
    if kind not in kinds:
        raise ValueError(f"option {name} is no plain value and can only be given in Python")
    if type(value) is not kind and not (kind is float and type(value) is int):
        example = "" if needed else f", such as its default {default}"
        raise ValueError(f"option {name} must be {kinds[kind]}{example}, got {text!r}")
    return name, value


def _value(text: str) -> bool | int | float | str:
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
