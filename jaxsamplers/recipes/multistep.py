"""Schedulers in half-log-SNR, on the table of betas or on flow levels: DPM-Solver, DEIS, UniPC, SA-Solver."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, solvers
from jaxsamplers.recipes import rows
from jaxsamplers.recipes.grids import half_log_snr_grid
from jaxsamplers.recipes.levels import Options
from jaxsamplers.recipes.recipe import Recipe
from jaxsamplers.recipes.shared import Grid, no_learned_variance, refuse
from jaxsamplers.solvers.grid import interpolate, multistep, past, select
from jaxsamplers.solvers.grid import steps as steps_of
from jaxsamplers.tableau import Tableau

DPM_TYPES = {"midpoint": "midpoint", "heun": "exact", "logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"}


def dpm_solver_multistep(options: Options, steps: int | None, *, timesteps: Any, mu: float | None) -> Recipe:
    """DPMSolverMultistepScheduler. Only below 15 steps does ``lower_order_final`` lower more than the last order."""
    kind, variant = _dpm_kind(options)
    no_learned_variance(options)
    grid = half_log_snr_grid(options, steps, timesteps, mu)
    sampler, name, chosen = dpm_table(grid, options, kind, variant)
    return grid.recipe(sampler, options, name, chosen)


def dpm_table(grid: Grid, options: Options, kind: str, variant: str) -> tuple[Tableau, str, dict[str, Any]]:
    """Multistep DPM-Solver of one of the four kinds, with its solver's name and options."""
    order = checks.integer("solver_order", options["solver_order"], low=1, high=3)
    if order == 3 and kind.startswith("sde"):
        raise refuse(f"solver_order=3 with {kind}", "diffusers has no formula there, or one with a sign reversed")
    lower = bool(options["lower_order_final"]) and len(grid.shown) < 15
    times = jnp.asarray(grid.times)
    chosen: dict[str, Any] = {"order": order, "lower_order_final": lower, "variant": variant}
    if kind == "sde-dpmsolver":
        solve: Any = _sde_dpm_solver
        name = "sde_dpm_solver"
    else:
        name = {"dpmsolver": "dpm_solver", "dpmsolver++": "dpm_solver_pp", "sde-dpmsolver++": "sde_dpm_solver_pp"}[kind]
        solve = solvers.registry[name]
        chosen["curvature"] = 0.5
    sampler = solve(grid.process, times, **chosen)
    if options["euler_at_final"] and not lower:
        sampler = rows.with_last(sampler, solve(grid.process, times, **{**chosen, "order": 1}))
    return sampler, name, chosen


def dpm_solver_singlestep(options: Options, steps: int | None, *, timesteps: Any, mu: float | None) -> Recipe:
    """DPMSolverSinglestepScheduler, whose stages are grid points: they lie anywhere inside the step."""
    kind, variant = _dpm_kind(options)
    no_learned_variance(options)
    if kind == "sde-dpmsolver":
        raise refuse("algorithm_type='sde-dpmsolver'", "DPMSolverSinglestepScheduler has no such algorithm")
    if kind == "dpmsolver" and options["thresholding"]:
        raise refuse("thresholding with algorithm_type='dpmsolver'", "diffusers reads a timestep it does not have")
    order = checks.integer("solver_order", options["solver_order"], low=1, high=3)
    if order == 3 and kind == "sde-dpmsolver++" and variant == "exact":
        raise refuse("solver_type='heun' of order 3 with sde-dpmsolver++", "diffusers has a sign reversed there")
    grid = half_log_snr_grid(options, steps, timesteps, mu)
    n, zero = len(grid.shown), options["final_sigmas_type"] == "zero"
    lower = options["lower_order_final"] or n % order != 0 or zero
    orders = _orders(n, order, lower)
    if zero:
        orders[-1] = 1
    times = jnp.asarray(grid.times)
    alpha, sigma = (np.asarray(level(times)) for level in (grid.process.alpha, grid.process.sigma))
    sampler = rows.singlestep(np.asarray(times)[:-1], alpha, sigma, orders, kind, variant == "exact")
    chosen = {"orders": orders, "algorithm_type": kind, "variant": variant}
    return grid.recipe(sampler, options, "diffusers_singlestep", chosen)


def deis(options: Options, steps: int, *, mu: float | None) -> Recipe:
    """DEISMultistepScheduler: polynomials in half-log-SNR, hence DPM-Solver's, and to third order the true one."""
    checks.one_of("algorithm_type", options["algorithm_type"], ("deis", "dpmsolver", "dpmsolver++"))
    checks.one_of("solver_type", options["solver_type"], ("logrho", *DPM_TYPES))
    order = checks.integer("solver_order", options["solver_order"], low=1, high=3)
    grid = half_log_snr_grid({**options, "final_sigmas_type": "sigma_min", "repeats": True}, steps, None, mu)
    lower = bool(options["lower_order_final"]) and len(grid.shown) < 15
    chosen: dict[str, Any] = {"order": order, "lower_order_final": lower, "variant": "exact", "curvature": 1.0}
    sampler = solvers.dpm_solver(grid.process, jnp.asarray(grid.times), **chosen)
    return grid.recipe(sampler, options, "dpm_solver", chosen)


def unipc(options: Options, steps: int | None, *, sigmas: Any, mu: float | None) -> Recipe:
    """UniPCMultistepScheduler."""
    order = checks.integer("solver_order", options["solver_order"], low=1, high=4)
    kinds = {"bh1": "bh1", "bh2": "bh2", "midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}
    variant = checks.look_up("solver_type", options["solver_type"], kinds)
    zero, on_data = options["final_sigmas_type"] == "zero", options["predict_x0"]
    if options["solver_p"] is not None:
        raise refuse("solver_p", "a predictor of another scheduler is not a table of this one")
    if not on_data and options["thresholding"]:
        raise refuse("thresholding with predict_x0=False", "diffusers ignores it there")
    if not on_data and options["prediction_type"] == "flow_prediction":
        raise refuse("prediction_type='flow_prediction' with predict_x0=False", "diffusers has no formula for it")
    for name, broken in (
        ("solver_type='bh1'", variant == "bh1"),
        ("predict_x0=False", not on_data),
        ("lower_order_final=False", not options["lower_order_final"] and order > 1),
    ):
        if zero and broken:
            raise refuse(f"{name} with final_sigmas_type='zero'", "diffusers gives NaN; use 'sigma_min'")
    grid = half_log_snr_grid(options, steps, None, mu, sigmas)
    chosen: dict[str, Any] = {
        "order": order,
        "prediction": "x0" if on_data else "epsilon",
        "variant": variant,
        "lower_order_final": bool(options["lower_order_final"]),
    }
    skipped = [checks.integer("disable_corrector", i, low=0) for i in options["disable_corrector"]]
    if skipped:
        chosen["uncorrected"] = tuple(skipped)
    sampler = solvers.unipc(grid.process, jnp.asarray(grid.times), **chosen)
    return grid.recipe(sampler, options, "unipc", chosen)


def sa_solver(options: Options, steps: int) -> Recipe:
    """SASolverScheduler, stochastic between timesteps 200 and 800."""
    no_learned_variance(options)
    if options["algorithm_type"] != "data_prediction":
        raise refuse(f"algorithm_type={options['algorithm_type']!r}", "only 'data_prediction' has a solver here")
    if options["tau_func"] is not None:
        raise refuse("tau_func", "a function is no configuration; js.solvers.sa_solver takes eta, its square, per step")
    order = checks.integer("predictor_order", options["predictor_order"], low=1, high=4)
    corrector = checks.integer("corrector_order", options["corrector_order"], low=1, high=4)
    grid = half_log_snr_grid({**options, "final_sigmas_type": "sigma_min", "repeats": True}, steps, None, None)
    chosen: dict[str, Any] = {
        "order": order,
        "corrector_order": corrector,
        "eta": ((grid.shown >= 200) & (grid.shown <= 800)).astype(float),
        "variant": "bh1",
        "lower_order_final": bool(options["lower_order_final"]),
    }
    sampler = solvers.sa_solver(grid.process, jnp.asarray(grid.times), **chosen)
    return grid.recipe(sampler, options, "sa_solver", {**chosen, "eta": chosen["eta"].tolist()})


def _dpm_kind(options: Options) -> tuple[str, str]:
    kind = "dpmsolver++" if options["algorithm_type"] == "deis" else options["algorithm_type"]
    checks.one_of("algorithm_type", kind, ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"))
    if kind in ("dpmsolver", "sde-dpmsolver"):
        if options["final_sigmas_type"] == "zero":
            raise refuse(f"final_sigmas_type='zero' with algorithm_type={kind!r}", "diffusers does not allow it")
        if options["prediction_type"] == "flow_prediction":
            raise refuse("prediction_type='flow_prediction'", f"diffusers has no formula for it with {kind}")
    return kind, checks.look_up("solver_type", options["solver_type"], DPM_TYPES)


def _orders(n: int, order: int, lower: bool) -> list[int]:
    ramp = list(range(1, order + 1))
    if not lower or order == 1:
        return ramp * (n // order)
    tails = {2: {0: [1, 1], 1: [1]}, 3: {0: [1, 2, 1], 1: [1], 2: [1, 2]}}[order][n % order]
    return ramp * ((n - len(tails)) // order) + tails


def _sde_dpm_solver(process: Any, times: Any, *, order: int, lower_order_final: bool, variant: str) -> Tableau:
    """SDE-DPM-Solver on the noise prediction, of orders 1 and 2: every weight of the flow's doubled."""
    g = steps_of(process, times)
    x = g.alpha_next / g.alpha
    gain = -2 * g.sigma_next * jnp.expm1(g.h)

    def weights(k: int, here: Any) -> list[Any]:
        slope = gain / 2 if variant == "midpoint" else -2 * g.sigma_next * (jnp.expm1(g.h) / g.h - 1)
        return interpolate(past(g.h, k, here), [gain, slope])

    e = select(g.orders(order, lower_order_final), order, weights)
    return multistep(process, g, x, e, "epsilon", g.sigma_next * jnp.sqrt(jnp.expm1(2 * g.h)))
