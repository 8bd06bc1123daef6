"""The options of diffusers' schedulers, with the defaults of version 0.39."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsamplers import checks

VERSION = "0.39"
INFINITY = math.inf

_betas = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_latent = _betas | {"beta_start": 0.00085, "beta_end": 0.012}
_threshold = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_spacing = {"timestep_spacing": "linspace", "steps_offset": 0}
_leading = {"timestep_spacing": "leading", "steps_offset": 0}
_zero_snr = {"rescale_betas_zero_snr": False}
_sigmas = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_clip = {"clip_sample": False, "clip_sample_range": 1.0}
_dynamic = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
_flow = {"use_flow_sigmas": False, "flow_shift": 1.0, **_dynamic}
_final = {"final_sigmas_type": "zero"}
_range = {"sigma_min": None, "sigma_max": None}
_dpm = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lambda_min_clipped": -INFINITY,
    "variance_type": None,
}
_edm = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
_consistency = {
    **_latent,
    **_threshold,
    **_clip,
    **_leading,
    **_zero_snr,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "set_alpha_to_one": True,
    "timestep_scaling": 10.0,
}
_ancestral = {**_betas, **_spacing}
_kdpm = {**_latent, **_sigmas, **_spacing}

DEFAULTS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {
        **_betas,
        **_threshold,
        **_clip,
        **_leading,
        **_zero_snr,
        "clip_sample": True,
        "set_alpha_to_one": True,
    },
    "DDPMScheduler": {
        **_betas,
        **_threshold,
        **_clip,
        **_leading,
        **_zero_snr,
        "clip_sample": True,
        "variance_type": "fixed_small",
    },
    "PNDMScheduler": {**_betas, **_leading, "skip_prk_steps": False, "set_alpha_to_one": False},
    "DPMSolverMultistepScheduler": {
        **_betas,
        **_threshold,
        **_dpm,
        **_sigmas,
        **_flow,
        **_final,
        **_spacing,
        **_zero_snr,
        "lower_order_final": True,
        "euler_at_final": False,
        "use_lu_lambdas": False,
    },
    "DPMSolverSinglestepScheduler": {
        **_betas,
        **_threshold,
        **_dpm,
        **_sigmas,
        **_flow,
        **_final,
        "lower_order_final": False,
    },
    "UniPCMultistepScheduler": {
        **_betas,
        **_threshold,
        **_sigmas,
        **_flow,
        **_final,
        **_spacing,
        **_zero_snr,
        **_range,
        "solver_order": 2,
        "predict_x0": True,
        "solver_type": "bh2",
        "lower_order_final": True,
        "disable_corrector": [],
        "solver_p": None,
        "shift_terminal": None,
    },
    "DEISMultistepScheduler": {
        **_betas,
        **_threshold,
        **_sigmas,
        **_flow,
        **_spacing,
        "solver_order": 2,
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "lower_order_final": True,
    },
    "EulerDiscreteScheduler": {
        **_betas,
        **_sigmas,
        **_range,
        **_spacing,
        **_zero_snr,
        **_final,
        "interpolation_type": "linear",
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": {**_ancestral, **_zero_snr},
    "HeunDiscreteScheduler": {**_latent, **_sigmas, **_clip, **_spacing},
    "LMSDiscreteScheduler": {**_ancestral, **_sigmas},
    "KDPM2DiscreteScheduler": _kdpm,
    "KDPM2AncestralDiscreteScheduler": _kdpm,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": {
        **_edm,
        **_threshold,
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_sigmas,
        **_dynamic,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "stochastic_sampling": False,
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0},
    "SASolverScheduler": {
        **_betas,
        **_threshold,
        **_sigmas,
        **_spacing,
        "predictor_order": 2,
        "corrector_order": 2,
        "tau_func": None,
        "algorithm_type": "data_prediction",
        "lower_order_final": True,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "lambda_min_clipped": -INFINITY,
        "variance_type": None,
    },
    "LCMScheduler": _consistency,
    "TCDScheduler": _consistency,
}
ALL = frozenset(name for options in DEFAULTS.values() for name in options)
CHOICES: dict[str, tuple[Any, ...]] = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "time_shift_type": ("exponential", "linear"),
    "sigma_schedule": ("karras", "exponential"),
    "timestep_type": ("discrete", "continuous"),
    "interpolation_type": ("linear", "log_linear"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
}
POSITIVE = (
    *("rho", "shift", "flow_shift", "sigma_data", "sigma_min", "sigma_max", "beta_start", "beta_end"),
    *("clip_sample_range", "sample_max_value", "timestep_scaling"),
)
FRACTIONS = ("dynamic_thresholding_ratio", "shift_terminal")


def read(config: Mapping[str, Any] | str | Path) -> tuple[str, dict[str, Any]]:
    """The class's name and all its options; those of other schedulers are left out, as diffusers ignores them.

    (``sigma_min`` and ``sigma_max`` are kept: several schedulers look for them without declaring them.)

    Raises:
        ValueError: not a scheduler's configuration, a class or an option that is not known, a value of a wrong type.
    """
    if isinstance(config, str | Path):
        path = Path(config)
        path = path / "scheduler_config.json" if path.is_dir() else path
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, Mapping) or not isinstance(config.get("_class_name"), str):
        raise ValueError("a scheduler's configuration is a dict, or a JSON file, that names its _class_name")
    name = config["_class_name"].removeprefix("Flax")
    defaults = checks.look_up("_class_name", name, DEFAULTS)
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, value in given.items():
        checks.one_of("option of diffusers' schedulers", key, ALL)
        if key in defaults:
            _typed(name, key, value, defaults[key])
    options = defaults | {key: value for key, value in given.items() if key in defaults}
    options = {key: defaults[key] if value is None else value for key, value in options.items()}
    return name, {**{key: given.get(key) for key in _range if key in given or key not in options}, **options}


def _typed(name: str, key: str, value: Any, default: Any) -> None:
    if value is None:
        return
    if key in CHOICES:
        checks.one_of(key, value, CHOICES[key])
    number = (
        isinstance(value, int | float) and not isinstance(value, bool) and (key not in POSITIVE or value < INFINITY)
    )
    if key in POSITIVE or key in FRACTIONS or isinstance(default, float):
        fine, wanted = number and not math.isnan(value), "a number"
    else:
        wrong_bool = isinstance(value, bool) and not isinstance(default, bool)
        fine, wanted = default is None or (isinstance(value, type(default)) and not wrong_bool), f"like {default!r}"
    if not fine:
        raise ValueError(f"{name}'s {key} must be {wanted}, got {value!r}")
    if key in POSITIVE or key in FRACTIONS:
        checks.within(key, value, 0.0, 1.0 if key in FRACTIONS else INFINITY, above=key in POSITIVE)
