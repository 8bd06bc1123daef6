"""diffusers' scheduler configurations as tables, and schedules as its arguments; diffusers itself is not needed.

Every class here is its scheduler of diffusers 0.39 on its own grid of noise levels, with the timesteps it shows the
network (``network_time`` of every row). Schedulers on ``x0 + sigma eps`` divide what the network sees by
``sqrt(1 + sigma^2)``: that is the variance-preserving scale, in which their recipes run; only the sample at the very
end is in diffusers' own, which differs where ``final_sigmas_type="sigma_min"`` leaves noise in it.

What diffusers gets wrong is refused, with the reason, rather than repeated; so is what a table cannot express. One slip
is neither: where the first two timesteps coincide, diffusers starts at the second noise level; a recipe at the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.recipes import continuous, indexed, levels, multistep
from jaxsamplers.recipes.levels import Numbers, Options
from jaxsamplers.recipes.options import VERSION, read
from jaxsamplers.recipes.recipe import Recipe
from jaxsamplers.recipes.shared import decreasing, refuse
from jaxsamplers.schedules import validate

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from jaxsamplers.processes import Process

_schedulers: dict[str, tuple[Callable[..., Recipe], dict[str, Any]]] = {
    "DDIMScheduler": (indexed.ddim, {"eta": 0.0, "use_clipped_model_output": False}),
    "DDPMScheduler": (indexed.ddpm, {"timesteps": None}),
    "PNDMScheduler": (indexed.pndm, {}),
    "LCMScheduler": (indexed.lcm, {}),
    "TCDScheduler": (indexed.tcd, {"eta": 0.3}),
    "DPMSolverMultistepScheduler": (multistep.dpm_solver_multistep, {"timesteps": None, "mu": None}),
    "DPMSolverSinglestepScheduler": (multistep.dpm_solver_singlestep, {"timesteps": None, "mu": None}),
    "DEISMultistepScheduler": (multistep.deis, {"mu": None}),
    "SASolverScheduler": (multistep.sa_solver, {}),
    "UniPCMultistepScheduler": (multistep.unipc, {"sigmas": None, "mu": None}),
    "EulerDiscreteScheduler": (continuous.euler, {"timesteps": None, "sigmas": None}),
    "EulerAncestralDiscreteScheduler": (continuous.euler_ancestral, {}),
    "HeunDiscreteScheduler": (continuous.heun, {"timesteps": None}),
    "LMSDiscreteScheduler": (continuous.lms, {"order": 4}),
    "KDPM2DiscreteScheduler": (continuous.kdpm2, {}),
    "KDPM2AncestralDiscreteScheduler": (continuous.kdpm2_ancestral, {}),
    "EDMEulerScheduler": (continuous.edm_euler, {}),
    "EDMDPMSolverMultistepScheduler": (continuous.edm_dpm_solver, {}),
    "FlowMatchEulerDiscreteScheduler": (continuous.flow_euler, {"sigmas": None, "mu": None}),
    "FlowMatchHeunDiscreteScheduler": (continuous.flow_heun, {}),
}


def from_diffusers(config: Mapping[str, Any] | str | Path, steps: int | None = None, **call: Any) -> Recipe:
    """The sampler that a diffusers scheduler is, from its configuration.

    Args:
        config: the dict of ``scheduler_config.json``, or its path, or its folder's. Change an option, or the class by
            its ``_class_name``, with ``{**config, "use_karras_sigmas": True}``.
        steps: ``num_inference_steps``; omitted where ``timesteps`` or ``sigmas`` are given.
        **call: what a pipeline passes to the scheduler's ``set_timesteps`` and ``step``, by class: ``eta`` (DDIM, TCD),
            ``use_clipped_model_output`` (DDIM), ``timesteps`` (DDPM, DPM-Solver, Euler, Heun), ``sigmas`` (Euler, flow
            matching, UniPC on flows), ``mu`` (dynamic shifting), ``order`` (LMS).

    Returns:
        A recipe whose ``start`` is the scheduler's ``init_noise_sigma`` in the recipe's scale. Use it with
        ``js.recipes.denoiser(recipe, network)``, which converts, scales and clips as the scheduler does.

    Raises:
        ValueError: an unknown class or option, one that a table cannot honour, or one with which diffusers itself
            gives NaN, fails or repeats a noise level; by name, with the reason.
    """
    name, options = read(config)
    build, accepted = checks.look_up("_class_name", name, _schedulers)
    for key in call:
        checks.one_of(f"argument of {name}", key, accepted)
    custom = [key for key in ("timesteps", "sigmas") if call.get(key) is not None]
    if (steps is not None) + len(custom) != 1:
        raise ValueError("give either steps, or timesteps or sigmas where the scheduler takes them")
    if steps is not None:
        checks.integer("steps", steps, low=1, high=options["num_train_timesteps"])
    with jax.enable_x64(True):
        recipe = build(options, steps, **(accepted | call))
        parts = jax.tree.map(np.asarray, (recipe.sampler, recipe.process, recipe.times))
    sampler, process, times = jax.tree.map(jnp.asarray, parts)  # in the precision of this session
    given = {key: value for key, value in options.items() if isinstance(value, str | int | float | list)}
    finite = {key: value for key, value in given.items() if value != -np.inf}
    provenance = {"diffusers": VERSION, "config": {"_class_name": name, **finite}}
    return recipe._replace(sampler=sampler, process=process, times=times, provenance=provenance)


def to_diffusers(
    process: Process,
    times: Float[Array, " n+1"],
    config: Mapping[str, Any] | str | Path,
    *,
    mu: float | None = None,
) -> dict[str, Any]:
    """The arguments of a diffusers scheduler's ``set_timesteps`` that make it step where ``times`` do.

    Integer timesteps are the nearest ones; everything else is exact. The end is the scheduler's own (zero, or its
    smallest level, by ``final_sigmas_type``), except for Euler's, whose ``sigmas`` hold it.

    Args:
        process: the noise process the times belong to; its ``sigma / alpha`` is what is matched.
        times: ``n + 1`` decreasing times, ending at the clean end or at the scheduler's smallest level.
        config: the scheduler's configuration, as for ``from_diffusers``.
        mu: for ``use_dynamic_shifting``.

    Raises:
        ValueError: a scheduler that takes no schedule, or options under which it ignores one; times beyond its table,
            ending too early, or so close that two are one timestep.
    """
    name, options = read(config)
    with jax.enable_x64(True):
        half_log_snr = np.asarray(process.half_log_snr(validate(process, jnp.asarray(times, jnp.float64))))
    spaced = [key for key in options if key.startswith("use_") and key.endswith(("_sigmas", "_lambdas"))]
    for key in spaced:
        if options[key] and key != "use_flow_sigmas":
            raise refuse(key, "the scheduler would space its levels itself")
    if name == "FlowMatchEulerDiscreteScheduler" or options.get("use_flow_sigmas"):
        return _flow_arguments(name, options, half_log_snr, mu)
    if mu is not None:
        raise refuse("mu", "it belongs to flows")
    table = levels.sigma_table(levels.log_alphas(options, clamped=True)) if "beta_schedule" in options else np.ones(1)
    sigmas = np.exp(-half_log_snr)
    if name == "EulerDiscreteScheduler":
        return {"sigmas": sigmas.tolist()}
    integers = ("DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")
    if name not in (*integers, "HeunDiscreteScheduler"):
        raise refuse(name, "its set_timesteps takes no timesteps or sigmas that could say this")
    if sigmas[0] > table[-1] * 1.001 or sigmas[-1] > table[0] * 1.001:  # float32 times
        raise ValueError(
            f"times go from sigma / alpha = {sigmas[0]:.6g} to {sigmas[-1]:.6g}, but the scheduler's levels start at "
            f"most at {table[-1]:.6g} and end at most at {table[0]:.6g}"
        )
    if name == "HeunDiscreteScheduler":
        return {"timesteps": np.interp(sigmas[:-1], table, np.arange(len(table))).tolist()}
    shown = levels.timestep_of(sigmas[:-1], table).round().astype(int)
    decreasing(shown, "two times fall on one timestep; take fewer steps")
    return {"timesteps": shown.tolist()}


def _flow_arguments(name: str, options: Options, half_log_snr: Numbers, mu: float | None) -> dict[str, Any]:
    """Levels before the scheduler's own shift."""
    if name not in ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        raise refuse(f"{name} with flows", "its set_timesteps takes no sigmas")
    if options["shift_terminal"]:
        raise refuse("shift_terminal", "the scheduler would stretch the schedule")
    if options["use_dynamic_shifting"] == (mu is None):
        raise ValueError("mu must be given with use_dynamic_shifting=True, and only then")
    flow = 1 / (1 + np.exp(half_log_snr))
    if flow[-1] > 1 / options["num_train_timesteps"]:
        raise ValueError(
            f"times must end at the clean end, as the scheduler does, but end at a noise of {flow[-1]:.6g}"
        )
    shift = options["shift"] if name.startswith("FlowMatch") else options["flow_shift"]
    if mu is not None:
        shift = float(np.exp(mu)) if options["time_shift_type"] == "exponential" else mu
    sigmas = levels.shifted(flow[:-1], 1 / shift).tolist()
    return {"sigmas": sigmas} if mu is None else {"sigmas": sigmas, "mu": mu}
