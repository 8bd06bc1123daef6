"""diffusers' scheduler configurations as tables, and schedules as its arguments; diffusers itself is not needed.

Every class here is its scheduler of diffusers 0.39 on its own grid of noise levels, with the timesteps it shows the
network (``network_time`` of every row). Schedulers on ``x0 + sigma eps`` divide what the network sees by
``sqrt(1 + sigma^2)``: that is the variance-preserving scale, in which their recipes run; only the sample at the very
end is in diffusers' own, which differs where ``final_sigmas_type="sigma_min"`` leaves noise in it.

What diffusers gets wrong is refused, with the reason, rather than repeated; so is what a table cannot express.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsamplers import checks
from jaxsamplers.recipes import continuous, indexed, multistep
from jaxsamplers.recipes.options import VERSION, read
from jaxsamplers.recipes.recipe import Recipe

_schedulers: dict[str, tuple[Callable[..., Recipe], dict[str, Any]]] = {
    "DDIMScheduler": (indexed.ddim, {"eta": 0.0, "use_clipped_model_output": False}),
    "DDPMScheduler": (indexed.ddpm, {"timesteps": None}),
    "PNDMScheduler": (indexed.pndm, {}),
    "LCMScheduler": (indexed.lcm, {}),
    "TCDScheduler": (indexed.tcd, {"eta": 0.3}),
    "DPMSolverMultistepScheduler": (multistep.dpm_solver_multistep, {"timesteps": None, "mu": None}),
    "DPMSolverSinglestepScheduler": (multistep.dpm_solver_singlestep, {"timesteps": None, "mu": None}),
    "DEISMultistepScheduler": (multistep.deis, {"mu": None}),
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
