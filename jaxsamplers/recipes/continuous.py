"""Schedulers on ``x0 + sigma eps``, taken from k-diffusion and EDM, and those of flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, processes, solvers
from jaxsamplers.recipes import levels, rows
from jaxsamplers.recipes.levels import Numbers, Options
from jaxsamplers.recipes.multistep import DPM_TYPES, dpm_table
from jaxsamplers.recipes.recipe import Recipe
from jaxsamplers.recipes.shared import Grid, decreasing, prediction, refuse, table_process, table_times
from jaxsamplers.tableau import Tableau, table


def euler(options: Options, steps: int | None, *, timesteps: Any, sigmas: Any) -> Recipe:
    """EulerDiscreteScheduler: DDIM."""
    return _discrete(options, steps, "ddim", {}, timesteps=timesteps, sigmas=sigmas)


def euler_ancestral(options: Options, steps: int) -> Recipe:
    """EulerAncestralDiscreteScheduler: DDIM with ``eta=1``."""
    return _discrete(_no_sample(options), steps, "ddim", {"eta": 1.0})


def heun(options: Options, steps: int | None, *, timesteps: Any) -> Recipe:
    """HeunDiscreteScheduler."""
    return _discrete(options, steps, "heun", {"variable": "rho"}, _twice, timesteps=timesteps)


def lms(options: Options, steps: int, *, order: int) -> Recipe:
    """LMSDiscreteScheduler."""
    if options["use_karras_sigmas"]:
        options = {**options, "sigma_min": None, "sigma_max": None}
    return _discrete(options, steps, "lms", {"order": order})


def kdpm2(options: Options, steps: int) -> Recipe:
    """KDPM2DiscreteScheduler: DPM-Solver-2, singlestep."""
    return _discrete(_no_sample(options), steps, "dpm_solver_singlestep", {"order": 2}, _inside)


def kdpm2_ancestral(options: Options, steps: int) -> Recipe:
    """KDPM2AncestralDiscreteScheduler."""
    return _discrete(_no_sample(options), steps, "dpm_solver_singlestep_ancestral", {"order": 2}, _inside)


def edm_euler(options: Options, steps: int) -> Recipe:
    """EDMEulerScheduler: DDIM, as Euler's method is on ``x0 + sigma eps``."""
    grid = _edm_grid(options, steps)
    return _edm_recipe(grid, options, solvers.ddim(grid.process, jnp.asarray(grid.times)), "ddim", {})


def edm_dpm_solver(options: Options, steps: int) -> Recipe:
    """EDMDPMSolverMultistepScheduler."""
    kind = "dpmsolver++" if options["algorithm_type"] == "deis" else options["algorithm_type"]
    checks.one_of("algorithm_type", kind, ("dpmsolver++", "sde-dpmsolver++"))
    variant = checks.look_up("solver_type", options["solver_type"], DPM_TYPES)
    grid = _edm_grid(options, steps)
    return _edm_recipe(grid, options, *dpm_table(grid, options, kind, variant))


def flow_euler(options: Options, steps: int | None, *, sigmas: Any, mu: float | None) -> Recipe:
    """FlowMatchEulerDiscreteScheduler. The shift moves its own ends too, which were shifted once already."""
    if options["invert_sigmas"]:
        raise refuse("invert_sigmas", "negate the network's output, show it 1 - t, and give invert_sigmas=False")
    if options["use_dynamic_shifting"] == (mu is None):
        raise ValueError("mu must be given with use_dynamic_shifting=True, and only then")
    n = options["num_train_timesteps"]
    flow = np.asarray(sigmas, np.float64)
    if sigmas is None:
        flow = _flow_levels(n, steps, 1.0 if options["use_dynamic_shifting"] else options["shift"])
    exponential = options["time_shift_type"] == "exponential"
    flow = levels.shifted(flow, options["shift"] if mu is None else math.exp(mu) if exponential else mu)
    if options["shift_terminal"]:
        flow = 1 - (1 - flow) * (1 - options["shift_terminal"]) / (1 - flow[-1])
    spaced = levels.spaced_sigmas(options, flow, len(flow))
    grid = _flow_grid(options, flow if spaced is None else spaced)
    named = {**options, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    times = jnp.asarray(grid.times)
    if not options["stochastic_sampling"]:
        return grid.recipe(solvers.ddim(grid.process, times), named, "ddim", {})
    again = table(grid.process, times[:-1], [[0, 1 - times[1:]]], noise=[times[1:]])  # the estimate, noised anew
    return grid.recipe(again, named, "renoise", {})


def flow_heun(options: Options, steps: int) -> Recipe:
    """FlowMatchHeunDiscreteScheduler."""
    shift = options["shift"]
    grid = _flow_grid(options, levels.shifted(_flow_levels(options["num_train_timesteps"], steps, shift), shift))
    named = {**options, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    sampler = solvers.heun(grid.process, jnp.asarray(grid.times))
    return grid._replace(shown=_twice(grid.shown, grid.shown)).recipe(sampler, named, "heun", {})


def _discrete(
    options: Options,
    steps: int | None,
    name: str,
    chosen: Options,
    asked: Callable[[Numbers, Numbers], Numbers] = lambda shown, _: shown,
    *,
    timesteps: Any = None,
    sigmas: Any = None,
) -> Recipe:
    """A solver of ``x0 + sigma eps``, in the scale that the network sees, on the levels of a table of betas."""
    log_alpha = levels.log_alphas(options, clamped=True)
    grid, continuous = _discrete_grid(options, log_alpha, steps, timesteps, sigmas)
    high, last = float(grid.sigmas[0]), float(grid.sigmas[-1])
    leading = options["timestep_spacing"] == "leading"
    solve = lambda times: solvers.registry[name](grid.process, times, **chosen)
    solve = jax.jit(solve) if name.endswith("_ancestral") else solve  # made step by step: one program is faster
    sampler = solve(jnp.asarray(grid.times))
    if continuous:  # levels beyond any table: the network is EDM's, for data of unit variance
        start = math.hypot(high, 1) if leading else high
        return grid.recipe(sampler, options, name, chosen, start=start, sigma_data=1.0)
    if last > 0:
        sampler = rows.rescaled(sampler, math.hypot(1, last))
    between = np.exp(-np.asarray(grid.process.half_log_snr(sampler.rows.time)))
    shown = grid.shown.round() if asked is _inside and options["use_karras_sigmas"] else grid.shown
    shown = asked(shown, levels.timestep_of(between, levels.sigma_table(log_alpha)))
    start = 1.0 if leading else high / math.hypot(high, 1)
    return grid._replace(shown=shown).recipe(sampler, options, name, chosen, start=start)


def _discrete_grid(
    options: Options, log_alpha: Numbers, steps: int | None, timesteps: Any, sigmas: Any
) -> tuple[Grid, bool]:
    continuous = options.get("timestep_type") == "continuous" and options["prediction_type"] == "v_prediction"
    sigma = levels.sigma_table(log_alpha)
    if sigmas is not None:
        found = np.asarray(sigmas, np.float64)
        if found.ndim != 1 or len(found) < 2:
            raise ValueError("sigmas must be a list of steps + 1 levels, the last one included")
        shown = levels.timestep_of(found[:-1], sigma)
    else:
        shown = (
            levels.fractional_timesteps(options, steps or 1) if timesteps is None else np.asarray(timesteps, np.float64)
        )
        found = np.interp(shown, np.arange(len(sigma)), sigma)
        log_linear = options.get("interpolation_type") == "log_linear"
        if log_linear:
            found = levels.exponential(sigma[0], sigma[-1], len(shown) + 1)
        spaced = levels.spaced_sigmas(options, found, len(shown))
        if spaced is not None:
            if timesteps is not None:
                raise refuse("timesteps", "diffusers takes them only without karras, exponential or beta sigmas")
            found, shown = spaced, levels.timestep_of(spaced, sigma)
        if spaced is not None or not log_linear or continuous:
            found = np.append(found, sigma[0] if options.get("final_sigmas_type") == "sigma_min" else 0.0)
            if found[-1] > 0 and abs(found[-2] / found[-1] - 1) < 1e-9:
                found[-2] = found[-1]  # equal but for rounding
    decreasing(found, "with final_sigmas_type='sigma_min' diffusers repeats its last level; use 'zero'")
    if continuous:
        return Grid(processes.edm(found[found > 0][-1] / 2, found[0]), found, found, 0.25 * np.log(found[:-1])), True
    return Grid(table_process(options), table_times(found, options), found, shown), False


def _twice(shown: Numbers, _: Numbers) -> Numbers:
    """Timesteps of a method that asks at both ends of every step but the last."""
    return np.append(shown[:1], np.repeat(shown[1:], 2))


def _inside(shown: Numbers, at: Numbers) -> Numbers:
    """Timesteps of a method that asks inside every step but the last; only those of the levels may be rounded."""
    return np.append(shown[:1], np.stack([at[1::2], shown[1:]], axis=1).ravel())


def _no_sample(options: Options) -> Options:
    if prediction(options) == "x0":
        raise refuse("prediction_type='sample'", "diffusers has no formula for it in this scheduler")
    return options


def _edm_grid(options: Options, steps: int) -> Grid:
    low, high = options["sigma_min"], options["sigma_max"]
    if not 0 < low < high:
        raise ValueError(f"sigma_min and sigma_max must be positive and increasing, got {low} and {high}")
    if options["final_sigmas_type"] == "sigma_min":
        raise refuse("final_sigmas_type='sigma_min'", "diffusers repeats its last level there; use 'zero'")
    if options["sigma_schedule"] == "karras":
        sigmas = levels.karras(low, high, np.linspace(0, 1, steps), options["rho"])
    else:
        sigmas = levels.exponential(low, high, steps)
    found = np.append(sigmas, 0.0)
    return Grid(processes.edm(low, high), found, found, 0.25 * np.log(sigmas))


def _edm_recipe(grid: Grid, options: Options, sampler: Tableau, name: str, chosen: Options) -> Recipe:
    """diffusers' prediction_type only says with which sign the wrapped network predicts v."""
    signs = {"epsilon": "-v", "v_prediction": "v"}
    wrapped = checks.look_up("prediction_type", options["prediction_type"], signs)
    start = math.hypot(options["sigma_max"], 1)
    data = float(options["sigma_data"])
    return grid.recipe(sampler, options, name, chosen, prediction=wrapped, start=start, sigma_data=data)


def _flow_levels(n: int, steps: int | None, shift: float) -> Numbers:
    first, last = levels.shifted(np.array([1.0, 1 / n]), shift)
    return np.linspace(first, last, steps or 1)


def _flow_grid(options: Options, flow: Numbers) -> Grid:
    found = np.append(flow, 0.0)
    if not 0 < found[0] <= 1:
        raise ValueError(f"flow levels lie in (0, 1], got {found}")
    decreasing(found, "flow levels must be decreasing and positive")
    return Grid(processes.rectified_flow(), found, found, flow * options["num_train_timesteps"])
