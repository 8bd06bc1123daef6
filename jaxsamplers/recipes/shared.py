"""What the schedulers' recipes have in common: grids on a process, predictions, refusals."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsamplers import processes
from jaxsamplers.recipes import levels, rows
from jaxsamplers.recipes.levels import Numbers, Options
from jaxsamplers.recipes.recipe import Clip, Recipe
from jaxsamplers.tableau import Tableau

if TYPE_CHECKING:
    from jaxsamplers.processes import Process

PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


class Grid(NamedTuple):
    """Where a scheduler steps: ``n + 1`` times of a process, their ``sigma / alpha``, and what the network is shown.

    Flows have their own sigma in place of ``sigma / alpha``.
    """

    process: Process
    times: Numbers | None
    sigmas: Numbers
    shown: Numbers

    def recipe(self, sampler: Tableau, options: Options, name: str, chosen: Options, **rest: Any) -> Recipe:
        """The recipe of a sampler that is solver ``name`` with ``chosen`` options, its noise starting at 1."""
        usual = {"start": 1.0, "prediction": prediction(options), "clip": clip(options)}
        solver = {"name": name, "options": dict(chosen)}
        shown = rows.showing(sampler, self.shown)
        times = None if self.times is None else jnp.asarray(self.times)
        return Recipe(shown, self.process, times, solver=solver, **{**usual, **rest})


def refuse(option: str, reason: str) -> ValueError:
    """The error that says what cannot be honoured, and why."""
    return ValueError(f"{option} is refused: {reason}")


def prediction(options: Options) -> str:
    """What the network predicts, in this library's words."""
    name, flow = options["prediction_type"], bool(options.get("use_flow_sigmas"))
    if flow and name == "v_prediction":
        raise refuse("prediction_type='v_prediction' with use_flow_sigmas", "it assumes alpha^2 + sigma^2 = 1")
    if not flow and name == "flow_prediction":
        raise refuse("prediction_type='flow_prediction'", "it needs use_flow_sigmas=True")
    return PREDICTIONS[name]


def clip(options: Options) -> Clip | None:
    """How the estimate is clipped: by the denoiser, before any solver sees it."""
    if options.get("thresholding"):
        return Clip(float(options["sample_max_value"]), float(options["dynamic_thresholding_ratio"]))
    return Clip(float(options["clip_sample_range"])) if options.get("clip_sample") else None


def decreasing(sigmas: Numbers, why: str) -> None:
    """Refuse a step of length zero, by which diffusers divides or on which it wastes a call."""
    if not (np.diff(sigmas) < 0).all():
        at = int(np.argmax(np.diff(sigmas) >= 0))
        raise ValueError(f"step {at} would go from noise level {sigmas[at]:.6g} to {sigmas[at + 1]:.6g}: {why}")


def no_learned_variance(options: Options) -> None:
    """Refuse what only a network with twice the channels has."""
    if options["variance_type"] in ("learned", "learned_range"):
        raise refuse(
            f"variance_type={options['variance_type']!r}",
            "a table's noise does not depend on the network (js.solvers.ddpm_learned_variance does); let the network "
            "return its mean channels alone and give variance_type=None, for DDPM 'fixed_small' or 'fixed_large'",
        )


def table_process(options: Options) -> Process:
    """``from_betas`` of the options' table, rescaled if asked; where it ends in no signal at all, in next to none."""
    log_alpha = levels.log_alphas(options, clamped=False)
    usual = processes.from_betas(jnp.full(len(log_alpha), 0.5))
    clock = dataclasses.replace(usual.law.clock, knots=jnp.asarray(np.append(0.0, log_alpha)))  # type: ignore[attr-defined]
    return dataclasses.replace(usual, law=dataclasses.replace(usual.law, clock=clock))  # type: ignore[type-var]


def table_times(sigmas: Numbers, options: Options) -> Numbers:
    """The times of ``table_process`` at which ``sigma / alpha`` is this."""
    log_alpha = levels.log_alphas(options, clamped=False)
    highest = levels.sigma_table(log_alpha)[-1]
    if sigmas.max() > highest * (1 + 1e-6):
        raise refuse("sigma_max", f"the table of betas ends at {highest:.6g}, below {sigmas.max():.6g}")
    knots = np.append(0.0, -log_alpha)
    return np.interp(0.5 * np.log1p(sigmas**2), knots, np.arange(len(knots)) / len(log_alpha))


def at_timesteps(options: Options, shown: Numbers, after: Numbers) -> Grid:
    """A grid that takes its levels at integers of the table; ``after`` are the targets, -1 for the clean end."""
    log_alpha = levels.log_alphas(options, clamped=False)
    visited = np.append(shown[:1], after)
    sigma = np.append(0.0, levels.sigma_table(log_alpha))
    return Grid(table_process(options), (visited + 1) / len(log_alpha), sigma[visited + 1], shown)
