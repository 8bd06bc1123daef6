"""Noise levels of the schedulers in half-log-SNR, and of their flows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxsamplers import processes
from jaxsamplers.recipes import levels
from jaxsamplers.recipes.levels import Options
from jaxsamplers.recipes.shared import Grid, decreasing, refuse, table_process, table_times


def half_log_snr_grid(
    options: Options, steps: int | None, timesteps: Any, mu: float | None, sigmas: Any = None
) -> Grid:
    """Levels of the multistep schedulers, with the timesteps they show."""
    if options.get("use_flow_sigmas"):
        return _flow_grid(options, steps, timesteps, mu, sigmas)
    if mu is not None or sigmas is not None:
        raise refuse("mu or sigmas", "they belong to use_flow_sigmas=True")
    if options.get("use_dynamic_shifting"):
        raise refuse("use_dynamic_shifting", "it belongs to use_flow_sigmas=True")
    log_alpha = levels.log_alphas(options, clamped=True)
    table = levels.sigma_table(log_alpha)
    n = len(table)
    if timesteps is None:
        shown = levels.multistep_timesteps(options, steps or 1, log_alpha)
    else:
        shown = np.asarray(timesteps).astype(np.int64)
        if shown.ndim != 1 or not len(shown) or shown.min() < 0 or shown.max() >= n:
            raise ValueError(f"timesteps must be integers from 0 to {n - 1}, got {timesteps}")
    spaced = levels.spaced_sigmas(options, table[::-1], len(shown) if steps is None else steps)
    why = "two timesteps are the same"
    last = table[0] if options["final_sigmas_type"] == "sigma_min" else 0.0
    if spaced is not None:
        if timesteps is not None:
            raise refuse("timesteps", "diffusers takes them only without karras, exponential, beta or Lu sigmas")
        at = levels.timestep_of(spaced, table)
        shown = at.round() if _rounds(options) else levels.truncated(at)
        why = "diffusers repeats its last level; use final_sigmas_type='zero', or sigmas that are not re-spaced"
        if "shift_terminal" in options or options.get(
            "repeats"
        ):  # UniPC, DEIS and SA-Solver repeat their own last level
            last = spaced[-1] if options["final_sigmas_type"] == "sigma_min" else 0.0
    found = np.append(table[shown] if spaced is None else spaced, last)
    if options["final_sigmas_type"] == "sigma_min" and abs(found[-2] / last - 1) < 1e-9:
        found[-2] = last  # equal but for rounding
    decreasing(found, why)
    return Grid(table_process(options), table_times(found, options), found, shown)


def _rounds(options: Options) -> bool:
    """Karras' and Lu's timesteps are rounded, the others truncated, both by the cosine table."""
    if not (options.get("use_karras_sigmas") or options.get("use_lu_lambdas")):
        return False
    multistep = "use_lu_lambdas" in options  # only DPMSolverMultistepScheduler looks at the table
    return not (multistep and options["beta_schedule"] == "squaredcos_cap_v2")


def _flow_grid(options: Options, steps: int | None, timesteps: Any, mu: float | None, sigmas: Any) -> Grid:
    n, is_unipc = options["num_train_timesteps"], "shift_terminal" in options
    if timesteps is not None:
        raise refuse("timesteps", "diffusers does not read them with use_flow_sigmas=True")
    if options.get("repeats"):
        raise refuse("use_flow_sigmas", "diffusers repeats its last level, far from clean")
    others = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    chosen = [key for key in others if options.get(key)]
    shift = options["flow_shift"]
    if options["use_dynamic_shifting"]:
        if mu is None:
            raise ValueError("mu must be given with use_dynamic_shifting=True")
        shift = math.exp(mu) if options["time_shift_type"] == "exponential" else mu
    elif mu is not None:
        raise refuse("mu", "it needs use_dynamic_shifting=True")
    if chosen == ["use_karras_sigmas"] and is_unipc and sigmas is None:
        log_alpha = levels.log_alphas(options, clamped=True)
        spaced = levels.spaced_sigmas(options, levels.sigma_table(log_alpha)[::-1], steps or 1)
        assert spaced is not None
        flow = spaced / (spaced + 1)
    elif chosen:
        raise refuse(f"{chosen[0]} with use_flow_sigmas", "diffusers reads levels above 1 as flow levels")
    elif is_unipc:
        flow = np.linspace(1, 1 / n, (steps or 1) + 1)[:-1] if sigmas is None else np.array(sigmas, np.float64)
        flow = levels.shifted(flow, shift)
        if options["shift_terminal"]:
            flow = 1 - (1 - flow) * (1 - options["shift_terminal"]) / (1 - flow[-1])
        flow[0] -= 1e-6 if abs(flow[0] - 1) < 1e-6 else 0.0
    else:
        flow = levels.shifted(1 - np.linspace(1, 1 / n, (steps or 1) + 1), shift)[:0:-1]
    last = 0.0
    if options["final_sigmas_type"] == "sigma_min":  # of the table of betas, whatever the flow
        last = flow[-1] if is_unipc else levels.sigma_table(levels.log_alphas(options, clamped=True))[0]
    found = np.append(flow, last)
    decreasing(found, "use final_sigmas_type='zero'")
    return Grid(processes.rectified_flow(), found, found, (flow * n).astype(np.int64))
