"""Schedulers that step between integers of the table of betas: DDIM, DDPM, PNDM, LCM, TCD."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks, solvers
from jaxsamplers.recipes import levels, rows
from jaxsamplers.recipes.levels import Numbers, Options
from jaxsamplers.recipes.recipe import Recipe
from jaxsamplers.recipes.shared import at_timesteps, clip, decreasing, no_learned_variance, prediction, refuse
from jaxsamplers.tableau import Tableau, with_extra


def ddim(options: Options, steps: int, *, eta: float, use_clipped_model_output: bool) -> Recipe:
    """DDIMScheduler. It steps by ``num_train_timesteps // steps``, whatever its next timestep is.

    Unless ``use_clipped_model_output``, the noise is that of the estimate before clipping. With ``w = alpha' / gain``,
    ``keep x + gain (m + w (clip(m) - m))`` is that step: the weight rides in the row, for the denoiser.
    """
    checks.within("eta", eta, 0.0, 1.0)
    log_alpha = _table(options)
    shown = levels.integer_timesteps(options, steps)
    _signal(options, shown)
    targets = shown - len(log_alpha) // steps
    targets = np.where(targets >= 0, targets, -1 if options["set_alpha_to_one"] else 0)
    if (targets >= shown).any():
        raise refuse("set_alpha_to_one=False", "the last step goes nowhere; give steps_offset=1, or another spacing")
    chained = bool((targets[:-1] == shown[1:]).all())
    grid = at_timesteps(options, shown, targets)
    alpha, sigma = _levels(log_alpha, shown)
    alpha_next, sigma_next = _levels(log_alpha, targets)
    fresh = eta * np.sqrt((sigma_next / sigma) ** 2 * (1 - (alpha / alpha_next) ** 2))
    keep = np.sqrt(sigma_next**2 - fresh**2) / sigma
    gain = alpha_next - alpha * keep
    sampler = rows.dense((shown + 1) / len(log_alpha), np.stack([keep, gain, fresh], axis=1)[:, None])
    recipe = grid._replace(times=grid.times if chained else None).recipe(sampler, options, "ddim", {"eta": eta})
    if recipe.clip is None or use_clipped_model_output:
        return recipe
    return recipe._replace(sampler=with_extra(recipe.sampler, clip_weight=jnp.asarray(alpha_next / gain)))


def ddpm(options: Options, steps: int | None, *, timesteps: Any) -> Recipe:
    """DDPMScheduler."""
    no_learned_variance(options)
    kinds = {"fixed_small": False, "fixed_small_log": False, "fixed_large": True}
    if options["variance_type"] == "fixed_large_log":
        raise refuse("variance_type='fixed_large_log'", "diffusers takes the square root of a negative logarithm (NaN)")
    large = checks.look_up("variance_type", options["variance_type"], kinds)
    log_alpha = _table(options)
    shown = levels.integer_timesteps(options, steps) if steps else _given(timesteps, len(log_alpha))
    _signal(options, shown)
    grid = at_timesteps(options, shown, np.append(shown[1:], -1))
    sampler = solvers.ddpm(grid.process, jnp.asarray(grid.times), variance=float(large))
    if large and shown[-1] > 0:  # diffusers adds the forward kernel's noise to the clean sample too, save at timestep 0
        _, sigma = _levels(log_alpha, shown)
        noise = sampler.rows.noise.at[-1, 0].set(sigma[-1])
        sampler = dataclasses.replace(sampler, rows=dataclasses.replace(sampler.rows, noise=noise))
    return grid.recipe(sampler, options, "ddpm", {"variance": float(large)})


def pndm(options: Options, steps: int) -> Recipe:
    """PNDMScheduler: PLMS with one call more than steps, or three Runge-Kutta steps first with nine more."""
    if prediction(options) != "epsilon":
        raise refuse("prediction_type of PNDM other than epsilon", "diffusers averages the outputs, not the noises")
    log_alpha = _table(options)
    shown, stride = levels.integer_timesteps(options, steps), len(log_alpha) // steps
    if steps < 4 or (np.diff(shown) != -stride).any():
        raise refuse(
            "timestep_spacing or steps of PNDM",
            f"it steps by num_train_timesteps // steps, at least four times, but its timesteps are {shown}",
        )
    clean = options["set_alpha_to_one"]
    grid = at_timesteps(options, shown, np.append(shown[1:], -1 if clean else 0))
    decreasing(grid.sigmas, "give steps_offset=1 or set_alpha_to_one=True")
    last = shown[-1] / 2 - 1 / 2 if clean else 0
    times = jnp.asarray(np.append(shown, last) + 1) / len(log_alpha)
    if options["skip_prk_steps"]:
        name, asked = "plms", np.concatenate([shown[:2], shown[1:]])
    else:
        if stride % 2:
            raise refuse("skip_prk_steps=False", f"half of a step of {stride} timesteps falls between two of them")
        middle = shown[:3] - stride // 2
        name = "pndm"
        asked = np.concatenate([np.stack([shown[:3], middle, middle, shown[1:4]], axis=1).ravel(), shown[3:]])
    sampler = solvers.registry[name](grid.process, times)
    if clean:
        ends = times[-2:]
        sampler = _last_to_clean(sampler, np.asarray(grid.process.alpha(ends)), np.asarray(grid.process.sigma(ends)))
    return grid._replace(shown=asked).recipe(sampler, options, name, {})


def _last_to_clean(sampler: Tableau, alpha: Numbers, sigma: Numbers) -> Tableau:
    """The last transfer, of the same noise, all the way to the clean end: diffusers keeps its order even there."""
    keep = alpha[1] / alpha[0]
    gain, gain_clean = sigma[1] - sigma[0] * keep, -sigma[0] / alpha[0]
    weights = np.array(sampler.rows.weights)
    weights[-1, 0, 0] -= keep
    weights[-1, 0] *= gain_clean / gain
    weights[-1, 0, 0] += 1 / alpha[0]
    return dataclasses.replace(sampler, rows=dataclasses.replace(sampler.rows, weights=jnp.asarray(weights)))


def lcm(options: Options, steps: int) -> Recipe:
    """LCMScheduler: a consistency function from the estimate, then noise again."""
    log_alpha = _table(options)
    shown = _distilled(options, steps)
    _signal(options, shown)
    grid = at_timesteps(options, shown, np.append(shown[1:], -1))
    scaled = shown * options["timestep_scaling"]
    skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
    alpha_next, sigma_next = _levels(log_alpha, np.append(shown[1:], -1))
    values = np.stack([alpha_next * skip, alpha_next * out, sigma_next], axis=1)[:, None]
    return grid.recipe(rows.dense((shown + 1) / len(log_alpha), values), options, "lcm", {})


def tcd(options: Options, steps: int, *, eta: float) -> Recipe:
    """TCDScheduler: DDIM to a cleaner timestep than the next, then noise up to it."""
    checks.within("eta", eta, 0.0, 1.0)
    if clip(options) is not None:
        raise refuse("clip_sample or thresholding in TCD", "diffusers ignores them there")
    log_alpha = _table(options)
    shown = _distilled(options, steps)
    _signal(options, shown)
    targets = np.append(shown[1:], 0)
    between = levels.truncated((1 - eta) * targets).astype(np.int64)
    alpha, sigma = _levels(log_alpha, shown)
    alpha_next, _ = _levels(log_alpha, targets)
    alpha_low, sigma_low = _levels(log_alpha, between)
    keep = sigma_low / sigma
    noisy = np.where((np.arange(steps) < steps - 1) & (eta > 0), 1.0, 0.0)
    up = np.where(noisy > 0, alpha_next / alpha_low, 1.0)
    values = np.stack([up * keep, up * (alpha_low - alpha * keep), noisy * np.sqrt(1 - np.minimum(up, 1) ** 2)], axis=1)
    grid = at_timesteps(options, shown, targets)
    return grid.recipe(rows.dense((shown + 1) / len(log_alpha), values[:, None]), options, "tcd", {"eta": eta})


def _table(options: Options) -> Numbers:
    return levels.log_alphas(options, clamped=False)


def _levels(log_alpha: Numbers, shown: Numbers) -> tuple[Numbers, Numbers]:
    """Signal and noise at integers of the table, -1 being the clean end."""
    here = np.append(0.0, log_alpha)[shown + 1]
    return np.exp(here), np.sqrt(-np.expm1(2 * here))


def _signal(options: Options, shown: Numbers) -> None:
    last = shown[0] == options["num_train_timesteps"] - 1
    if options["rescale_betas_zero_snr"] and options["prediction_type"] == "epsilon" and last:
        raise refuse("prediction_type='epsilon' with rescale_betas_zero_snr", "pure noise predicts no data (NaN)")


def _given(timesteps: Any, n: int) -> Numbers:
    shown = np.asarray(timesteps)
    if shown.ndim != 1 or shown.dtype.kind not in "iu" or not len(shown) or shown.min() < 0 or shown.max() >= n:
        raise ValueError(f"timesteps must be integers from 0 to {n - 1}, got {timesteps}")
    decreasing(shown, "timesteps must be decreasing")
    return shown.astype(np.int64)


def _distilled(options: Options, steps: int) -> Numbers:
    original = checks.integer("original_inference_steps", options["original_inference_steps"], low=1)
    n = options["num_train_timesteps"]
    if original > n or steps > original:
        raise ValueError(f"steps must be at most original_inference_steps={original}, and that at most {n}")
    trained = np.arange(1, original + 1) * (n // original) - 1
    return trained[::-1][np.floor(np.linspace(0, original, steps, endpoint=False)).astype(np.int64)]
