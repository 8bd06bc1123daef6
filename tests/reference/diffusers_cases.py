"""What ``make_diffusers.py`` runs and the tests compare: schedulers' configurations, and the networks they are given.

The network of a case is exact for the noise level that belongs to the timestep it is *shown*, so that a wrong timestep
changes the result; it knows the table of betas through ``alphas_cumprod`` alone.
"""

from __future__ import annotations

import numpy as np

from tests.reference import problem

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
MANY, SOME = (5, 8, 10, 20), (8, 20)
V, SAMPLE, FLOW = [{"prediction_type": name} for name in ("v_prediction", "sample", "flow_prediction")]
KARRAS, EXPONENTIAL, BETA = [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]
LEADING, TRAILING, LINSPACE = [{"timestep_spacing": name} for name in ("leading", "trailing", "linspace")]
ONE = {"steps_offset": 1}
MIN = {"final_sigmas_type": "sigma_min"}
ZERO_SNR = {"rescale_betas_zero_snr": True}
CLIPPED = {"clip_sample": True, "clip_sample_range": 1.2}
DYNAMIC = {"thresholding": True, "dynamic_thresholding_ratio": 0.7, "sample_max_value": 1.3}
UNCLIPPED = {"clip_sample": False}
FLOWS = {"use_flow_sigmas": True, **FLOW}
NOISE_ONLY = {"algorithm_type": "dpmsolver", **MIN}
HEUN = {"solver_type": "heun"}

# class, configuration, arguments of the call, numbers of steps
CASES = [
    ("DDIM", {**SD, **UNCLIPPED, **ONE, "set_alpha_to_one": False}, {}, MANY),
    ("DDIM", UNCLIPPED, {"eta": 0.6}, MANY),
    ("DDIM", {**UNCLIPPED, **TRAILING, **V, **ZERO_SNR, **SD}, {"eta": 1.0}, (8, 10)),
    ("DDIM", {**UNCLIPPED, **LINSPACE, **SAMPLE}, {}, (8,)),
    ("DDIM", {**CLIPPED, **V}, {"eta": 0.5}, SOME),
    ("DDIM", {**DYNAMIC, **TRAILING}, {}, (8,)),
    ("DDIM", CLIPPED, {"use_clipped_model_output": True, "eta": 0.5}, (8,)),
    ("DDIM", DYNAMIC, {"use_clipped_model_output": True}, (8,)),
    ("DDPM", CLIPPED, {}, MANY),
    ("DDPM", {**DYNAMIC, **TRAILING, "variance_type": "fixed_large"}, {}, SOME),
    ("DDPM", {**UNCLIPPED, **LINSPACE, **COSINE, "variance_type": "fixed_small_log"}, {}, (8,)),
    ("DDPM", {**UNCLIPPED, "beta_schedule": "sigmoid"}, {"timesteps": [900, 500, 77, 3]}, (None,)),
    ("DDPM", {**UNCLIPPED, **TRAILING, **V, **ZERO_SNR}, {}, (8,)),
    ("DPMSolverMultistep", {}, {}, MANY),
    ("DPMSolverMultistep", {"num_train_timesteps": 40, "trained_betas": np.linspace(1e-3, 0.2, 40).tolist()}, {}, (8,)),
    ("DPMSolverMultistep", {**SD, "solver_order": 3}, {}, MANY),
    ("DPMSolverMultistep", {**HEUN, **LEADING, **ONE, "solver_order": 3, "lower_order_final": False}, {}, SOME),
    ("DPMSolverMultistep", {**MIN, **TRAILING, "euler_at_final": True, "solver_order": 3}, {}, SOME),
    ("DPMSolverMultistep", {**NOISE_ONLY, "euler_at_final": True, "lower_order_final": False}, {}, SOME),
    ("DPMSolverMultistep", {**NOISE_ONLY, **HEUN, "solver_order": 3, **SAMPLE}, {}, SOME),
    ("DPMSolverMultistep", {**NOISE_ONLY, **V, **DYNAMIC}, {}, (8,)),
    ("DPMSolverMultistep", {**KARRAS, **SD}, {}, SOME),
    ("DPMSolverMultistep", {**KARRAS, **COSINE, "sigma_max": 80.0}, {}, (8,)),
    ("DPMSolverMultistep", {**EXPONENTIAL, **V}, {}, SOME),
    ("DPMSolverMultistep", {**BETA, **SAMPLE}, {}, (5, 8)),
    ("DPMSolverMultistep", {"use_lu_lambdas": True, **HEUN}, {}, SOME),
    ("DPMSolverMultistep", {**COSINE, "lambda_min_clipped": -5.1, **DYNAMIC}, {}, SOME),
    ("DPMSolverMultistep", {**COSINE, "lambda_min_clipped": -5.1, **TRAILING}, {}, (8,)),
    ("DPMSolverMultistep", {**TRAILING, **V, **ZERO_SNR, **SD}, {}, (8,)),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}, SOME),
    (
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++", **HEUN, **KARRAS, "euler_at_final": True},
        {},
        (8, 20),
    ),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver", **MIN}, {}, SOME),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver", **MIN, **HEUN, "euler_at_final": True}, {}, SOME),
    ("DPMSolverMultistep", {**FLOWS, "flow_shift": 3.0}, {}, SOME),
    ("DPMSolverMultistep", {**FLOWS, **MIN}, {}, (8,)),
    ("DPMSolverMultistep", {**FLOWS, "use_dynamic_shifting": True}, {"mu": 0.7}, (8,)),
    ("DPMSolverMultistep", SD, {"timesteps": [999, 700, 301, 50, 4]}, (None,)),
    ("DPMSolverSinglestep", {}, {}, MANY),
    ("DPMSolverSinglestep", {"solver_order": 3, **SD}, {}, (5, 6, 7, 8, 20)),
    ("DPMSolverSinglestep", {"solver_order": 3, **HEUN, **KARRAS}, {}, (8, 9)),
    ("DPMSolverSinglestep", {"solver_order": 3, **NOISE_ONLY}, {}, (6, 10)),
    ("DPMSolverSinglestep", {"solver_order": 3, **NOISE_ONLY, **HEUN}, {}, (6, 9)),
    ("DPMSolverSinglestep", {"solver_order": 2, **NOISE_ONLY, **HEUN, "lower_order_final": True}, {}, (6, 9)),
    ("DPMSolverSinglestep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, {}, (8,)),
    ("DPMSolverSinglestep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, **HEUN}, {}, (8,)),
    ("DPMSolverSinglestep", {**FLOWS, "flow_shift": 2.0, **DYNAMIC}, {}, (8,)),
    ("DEISMultistep", {}, {}, MANY),
    ("DEISMultistep", {**SD, "solver_order": 3, **LEADING, **ONE}, {}, MANY),
    ("DEISMultistep", {**V, **TRAILING, **DYNAMIC, "solver_order": 3}, {}, (8,)),
    ("UniPCMultistep", {}, {}, MANY),
    ("UniPCMultistep", {**SD, "solver_order": 3, **LEADING, **ONE}, {}, MANY),
    ("UniPCMultistep", {"solver_type": "bh1", **MIN, "solver_order": 3, "lower_order_final": False}, {}, SOME),
    ("UniPCMultistep", {"predict_x0": False, **MIN, "disable_corrector": [0, 1, 4]}, {}, SOME),
    ("UniPCMultistep", {**KARRAS, **V, **TRAILING, **DYNAMIC, "sigma_max": 50.0, "sigma_min": 0.02}, {}, SOME),
    ("UniPCMultistep", {**EXPONENTIAL, **SAMPLE}, {}, (8,)),
    ("UniPCMultistep", {**EXPONENTIAL, **V, **ZERO_SNR}, {}, (8,)),
    ("UniPCMultistep", BETA, {}, (5,)),
    ("UniPCMultistep", {**FLOWS, "flow_shift": 3.0, "solver_order": 3}, {}, SOME),
    ("UniPCMultistep", {**FLOWS, **KARRAS}, {}, (8,)),
    ("UniPCMultistep", {**FLOWS, "use_dynamic_shifting": True, "shift_terminal": 0.05}, {"mu": 0.7}, (8,)),
    ("UniPCMultistep", FLOWS, {"sigmas": [1.0, 0.8, 0.5, 0.3, 0.1]}, (None,)),
    ("EulerDiscrete", {}, {}, MANY),
    ("EulerDiscrete", {**SD, **LEADING, **ONE, **V}, {}, SOME),
    ("EulerDiscrete", {**TRAILING, **SAMPLE, **MIN}, {}, (8,)),
    ("EulerDiscrete", {**KARRAS, "sigma_min": 0.05, "sigma_max": 30.0}, {}, SOME),
    ("EulerDiscrete", {**EXPONENTIAL, **SD}, {}, (8,)),
    ("EulerDiscrete", BETA, {}, (5,)),
    ("EulerDiscrete", {"interpolation_type": "log_linear"}, {}, (8,)),
    ("EulerDiscrete", {**TRAILING, **V, **ZERO_SNR, **SD}, {}, (8,)),
    (
        "EulerDiscrete",
        {**SD, **V, **KARRAS, **LEADING, **ONE, "timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0},
        {},
        (8, 20),
    ),
    ("EulerDiscrete", {**V, "timestep_type": "continuous", "interpolation_type": "log_linear"}, {}, (8,)),
    ("EulerDiscrete", {}, {"timesteps": [990, 400, 100, 1]}, (None,)),
    ("EulerDiscrete", {}, {"sigmas": [80.0, 10.0, 1.0, 0.2, 0.0]}, (None,)),
    ("EulerAncestralDiscrete", {}, {}, MANY),
    ("EulerAncestralDiscrete", {**SD, **V, **LEADING, **ONE}, {}, (8,)),
    ("HeunDiscrete", {}, {}, MANY),
    ("HeunDiscrete", {**KARRAS, **V, **CLIPPED}, {}, (8,)),
    ("HeunDiscrete", {**EXPONENTIAL, **SAMPLE, **LEADING, "beta_schedule": "exp"}, {}, (8,)),
    ("HeunDiscrete", BETA, {}, (5,)),
    ("HeunDiscrete", {}, {"timesteps": [990, 400, 100, 1]}, (None,)),
    ("LMSDiscrete", {}, {}, MANY),
    ("LMSDiscrete", {**SD, **KARRAS, **V}, {}, SOME),
    ("LMSDiscrete", {**EXPONENTIAL, **TRAILING, **SAMPLE}, {"order": 3}, (8,)),
    ("KDPM2Discrete", {}, {}, MANY),
    ("KDPM2Discrete", {**KARRAS, **V, **LEADING}, {}, (8,)),
    ("KDPM2AncestralDiscrete", {}, {}, SOME),
    ("KDPM2AncestralDiscrete", {**EXPONENTIAL, **TRAILING}, {}, (8,)),
    ("EDMEuler", {}, {}, MANY),
    ("EDMEuler", {"sigma_schedule": "exponential", **V, "sigma_data": 1.0, "sigma_max": 200.0}, {}, (8,)),
    ("EDMDPMSolverMultistep", {}, {}, MANY),
    ("EDMDPMSolverMultistep", {"solver_order": 3, **DYNAMIC}, {}, SOME),
    ("EDMDPMSolverMultistep", {"sigma_schedule": "exponential", **V, **HEUN}, {}, SOME),
    ("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, {}, SOME),
    ("FlowMatchEulerDiscrete", {}, {}, MANY),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}, {}, SOME),
    ("FlowMatchEulerDiscrete", {"shift": 3.0, **KARRAS}, {}, (8,)),
    ("FlowMatchEulerDiscrete", {"shift_terminal": 0.1, **EXPONENTIAL}, {}, (8,)),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, {"mu": 0.9}, (8,)),
    (
        "FlowMatchEulerDiscrete",
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"mu": 2.0, "sigmas": [1.0, 0.75, 0.5, 0.25]},
        (None,),
    ),
    ("FlowMatchEulerDiscrete", {"stochastic_sampling": True, **BETA}, {}, (5,)),
    ("FlowMatchHeunDiscrete", {}, {}, MANY),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}, {}, (8,)),
    ("PNDM", {**SD, **ONE, "skip_prk_steps": True}, {}, MANY),
    ("PNDM", {**SD, "set_alpha_to_one": True}, {}, (10,)),
    ("SASolver", {}, {}, MANY),
    ("SASolver", {"predictor_order": 3, "corrector_order": 4, **V, **TRAILING, **DYNAMIC}, {}, SOME),
    ("SASolver", {"predictor_order": 2, "corrector_order": 1, **SD, **LEADING, **ONE}, {}, (8,)),
    ("SASolver", {"predictor_order": 1, "corrector_order": 3, "lower_order_final": False}, {}, (8,)),
    ("LCM", {}, {}, (2, 4, 8)),
    ("LCM", {**V, **CLIPPED, "timestep_scaling": 0.01}, {}, (4, 7)),
    ("TCD", {}, {}, (4, 7)),
    ("TCD", V, {"eta": 0.0}, (4,)),
]


def key(index, steps):
    """Where a case's result is stored."""
    return f"{index:03d}_{CASES[index][0]}_{steps}"


def network(kind, options, alphas_cumprod):
    """``(x, shown) -> output`` in NumPy, exact for the mixture.

    ``kind`` is "edm" (``x`` scaled, shown ``log(sigma) / 4``), "flow" (shown ``1000 t``) or "table".
    """
    prediction = options.get("prediction_type", "epsilon")

    def levels(shown):
        if kind == "flow":
            return 1 - shown / 1000, shown / 1000
        squared = np.interp(shown, np.arange(len(alphas_cumprod)), alphas_cumprod)
        return np.sqrt(squared), np.sqrt(1 - squared)

    def apply(x, shown):
        if kind == "edm":
            data, sigma = options["sigma_data"], np.exp(4 * shown)
            radius = np.hypot(sigma, data)
            x0 = problem.denoise(x * radius, 1.0, sigma)
            sign = -1 if prediction == "v_prediction" else 1
            return sign * (x0 - data**2 / radius * x) / (sigma * data / radius)
        alpha, sigma = levels(float(shown))
        x0 = problem.denoise(x, alpha, sigma)
        if prediction == "sample":
            return x0
        noise = (x - alpha * x0) / max(sigma, 1e-9)
        return {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "flow_prediction": noise - x0}[prediction]

    return apply


def kind_of(name, options):
    """Which network a case has."""
    continuous = options.get("timestep_type") == "continuous" and options.get("prediction_type") == "v_prediction"
    if name.startswith("EDM") or continuous:
        return "edm"
    return "flow" if name.startswith("FlowMatch") or options.get("use_flow_sigmas") else "table"


# class, configuration, what the refusal says; with the first ones diffusers itself fails, gives NaN or stands still
BROKEN = [
    ("DDIM", {**UNCLIPPED, **TRAILING, **ZERO_SNR}, "rescale_betas_zero_snr"),
    ("DDPM", {"variance_type": "fixed_large_log"}, "fixed_large_log"),
    ("UniPCMultistep", {"solver_type": "bh1"}, "bh1"),
    ("UniPCMultistep", {"predict_x0": False}, "predict_x0=False"),
    ("UniPCMultistep", {"lower_order_final": False}, "lower_order_final=False"),
    ("DPMSolverMultistep", {**KARRAS, **MIN, **HEUN}, "repeats its last level"),
    ("DPMSolverMultistep", {**EXPONENTIAL, **MIN, "solver_order": 3}, "repeats its last level"),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, "final_sigmas_type"),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver", **MIN, "solver_order": 3}, "solver_order=3"),
    ("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "solver_order=3"),
    ("DPMSolverSinglestep", {"algorithm_type": "sde-dpmsolver", **MIN}, "sde-dpmsolver"),
    ("UniPCMultistep", {**FLOWS, **EXPONENTIAL}, "reads levels above 1"),
    ("DEISMultistep", KARRAS, "repeats its last level"),
    ("DEISMultistep", FLOWS, "use_flow_sigmas"),
    ("SASolver", BETA, "repeats its last level"),
    ("SASolver", FLOWS, "use_flow_sigmas"),
    ("EulerDiscrete", {**KARRAS, **MIN}, "repeats its last level"),
    ("EDMEuler", MIN, "repeats its last level"),
]
REFUSED = [
    ("DDIM", {**UNCLIPPED, "set_alpha_to_one": False}, "steps_offset=1"),
    ("DDPM", {"variance_type": "learned_range"}, "learned_range"),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "sign"),
    ("DPMSolverSinglestep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, **HEUN}, "sign"),
    ("DDIM", {**LINSPACE, "set_alpha_to_one": False}, "goes nowhere"),
    ("DPMSolverMultistep", FLOW, "use_flow_sigmas"),
    ("DPMSolverMultistep", {"variance_type": "learned"}, "variance_type"),
    ("DPMSolverMultistep", {**KARRAS, **BETA}, "only one of"),
    ("DPMSolverMultistep", {"solver_order": "2"}, "solver_order"),
    ("DPMSolverMultistep", {"solver_ordr": 2}, "did you mean solver_order"),
    ("DPMSolverMultistep", {"timestep_spacing": "log"}, "timestep_spacing"),
    ("EulerDiscrete", {**KARRAS, "sigma_max": 700.0}, "sigma_max"),
    ("EulerAncestralDiscrete", SAMPLE, "sample"),
    ("UniPCMultistep", {"predict_x0": False, **MIN, **DYNAMIC}, "ignores it"),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "invert_sigmas"),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, "mu"),
    ("SASolver", {"algorithm_type": "noise_prediction"}, "data_prediction"),
    ("PNDM", {**ONE, "num_train_timesteps": 700}, "falls between"),
    ("PNDM", {**ONE, **V, "skip_prk_steps": True}, "averages the outputs"),
    ("PNDM", {"skip_prk_steps": True}, "steps_offset=1"),
    ("TCD", CLIPPED, "ignores them"),
    ("ScoreSdeVe", {}, "unknown _class_name"),
    ("DDPM", {"beta_start": float("nan")}, "beta_start must be a number"),
    ("DDPM", {"clip_sample_range": -1}, "clip_sample_range must be above 0"),
    ("DDPM", {"trained_betas": [0.1, 0.2]}, "trained_betas must be a list of num_train_timesteps=1000"),
    ("DDPM", {"trained_betas": "many"}, "trained_betas"),
    ("DDPM", {"num_train_timesteps": True}, "num_train_timesteps must be"),
    ("DDPM", {"thresholding": 1}, "thresholding must be"),
    ("UniPCMultistep", {"sigma_min": "a"}, "sigma_min must be a number"),
    ("UniPCMultistep", {**FLOWS, "shift_terminal": 7}, "shift_terminal must be"),
    ("EDMEuler", {"rho": 0.0}, "rho must be above 0"),
    ("EDMEuler", {"sigma_max": float("inf")}, "sigma_max must be a number"),
]
