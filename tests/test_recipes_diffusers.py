"""Recipes of diffusers' schedulers against numbers that diffusers made, timestep by timestep."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem
from tests.reference.diffusers_cases import BROKEN, CASES, REFUSED, key, kind_of, network
from tests.replay import replay

STORED = problem.load("diffusers")


def recipe_of(name, config, call, steps):
    return js.recipes.from_diffusers(
        {"_class_name": f"{name}Scheduler", "_diffusers_version": "0.39.0", **config}, steps, **call
    )


def network_of(name, config, recipe):
    """The case's network, which knows the table of betas from the recipe's process."""
    kind = kind_of(name, config)
    options = {"sigma_data": recipe.sigma_data, **config}
    if name.startswith("FlowMatch"):
        options["prediction_type"] = "flow_prediction"
    squared = np.exp(2 * np.asarray(recipe.process.law.clock.knots)[1:]) if kind == "table" else None
    if squared is not None and config.get("rescale_betas_zero_snr") and name not in ("DDIM", "DDPM", "LCM", "TCD"):
        squared[-1] = 2**-24  # diffusers keeps that much signal there
    return network(kind, options, squared)


def denoise(recipe, apply):
    """``js.recipes.denoiser`` in NumPy: a second writing of it."""
    times = np.asarray(recipe.sampler.rows.time)
    alphas, sigmas = np.asarray(recipe.process.alpha(times)), np.asarray(recipe.process.sigma(times))
    levels = dict(zip(times.tolist(), zip(alphas, sigmas, strict=True), strict=True))
    to_x0 = {
        "epsilon": lambda x, out, a, s: (x - s * out) / a,
        "x0": lambda x, out, a, s: out,
        "v": lambda x, out, a, s: a * x - s * out,
        "velocity": lambda x, out, a, s: x - s * out,
    }

    def model(x, t, network_time, clip_weight=1.0):
        alpha, sigma = levels[float(t)]
        if recipe.sigma_data is None:
            x0 = to_x0[recipe.prediction](x, apply(x, float(network_time)), alpha, sigma)
        else:
            data, radius = recipe.sigma_data, np.hypot(sigma, recipe.sigma_data)
            out = apply(x / radius, float(network_time))
            x0 = (data / radius) ** 2 * x + (1 if recipe.prediction == "-v" else -1) * sigma * data / radius * out
        if recipe.clip is None:
            return x0
        limit = recipe.clip.high
        if recipe.clip.quantile is not None:
            limit = np.clip(np.quantile(np.abs(x0), recipe.clip.quantile, axis=1, keepdims=True), 1, limit)
        inside = np.clip(x0, -limit, limit) / (1 if recipe.clip.quantile is None else limit)
        return x0 + clip_weight * (inside - x0)

    return model


def close(ours, theirs, tolerance=1e-9):
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
def test_same_timesteps_and_same_samples(index, x64):
    name, config, call, all_steps = CASES[index]
    for steps in all_steps:
        recipe = recipe_of(name, config, call, steps)
        np.testing.assert_allclose(
            recipe.sampler.rows.extra["network_time"], STORED[key(index, steps) + "_t"], atol=1e-6
        )
        model = denoise(recipe, network_of(name, config, recipe))
        close(replay(recipe.sampler, model, recipe.start * problem.STARTS, problem.NOISE), STORED[key(index, steps)])


def of(name, **options):
    """The first case of a class with these options."""
    return next(i for i, case in enumerate(CASES) if case[0] == name and options.items() <= case[1].items())


@pytest.mark.parametrize(
    "index",
    [
        of("DDIM", clip_sample=True),
        of("DDPM", clip_sample=True),
        of("UniPCMultistep", thresholding=True),
        of("DPMSolverMultistep", prediction_type="sample", use_beta_sigmas=True),
        of("EDMEuler"),
        of("EulerDiscrete", timestep_type="continuous"),
        of("FlowMatchEulerDiscrete", shift=3.0),
    ],
)
def test_the_denoiser_does_what_the_scheduler_does_to_the_network(index, x64):
    name, config, call, _ = CASES[index]
    recipe = recipe_of(name, config, call, 8)
    apply = network_of(name, config, recipe)
    model = js.recipes.denoiser(recipe, lambda x, t: apply(np.asarray(x), float(t)))
    ours = replay(
        recipe.sampler,
        lambda x, t, **extra: np.asarray(model(x, t, **extra)),
        recipe.start * problem.STARTS,
        problem.NOISE,
    )
    close(ours, STORED[key(index, 8)])


@pytest.mark.parametrize("index", [of("DDIM", thresholding=True), of("EDMEuler")])
def test_a_recipe_runs_jitted(index, x64):
    name, config, call, _ = CASES[index]
    recipe = recipe_of(name, config, call, 8)
    apply = lambda x, t: jnp.tanh(3 * x) + t / 500  # far from any estimate: clipping matters
    model = js.recipes.denoiser(recipe, apply)
    x = jnp.asarray(recipe.start * problem.STARTS)
    ours = jax.jit(js.sample)(recipe.sampler, model, x)
    theirs = replay(recipe.sampler, denoise(recipe, lambda x, t: np.tanh(3 * x) + t / 500), x)
    close(np.asarray(ours), theirs)
    assert (recipe.clip is None) == (name != "DDIM")


@pytest.mark.parametrize(("name", "config", "says"), [*BROKEN, *REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(name, config, says):
    call = {"eta": 0.5} if name == "TCD" else {}
    with pytest.raises(ValueError, match=says):
        recipe_of(name, config, call, 20)


@pytest.mark.parametrize("name", ["UniPCMultistep", "HeunDiscrete", "LMSDiscrete", "DEISMultistep", "SASolver", "DDPM"])
def test_a_recipe_names_the_solver_that_makes_its_table(name, x64):
    recipe = recipe_of(name, {}, {}, 8)
    again = js.solvers.registry[recipe.solver["name"]](recipe.process, recipe.times, **recipe.solver["options"])
    np.testing.assert_allclose(recipe.sampler.rows.weights, again.rows.weights, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(recipe.sampler.rows.time, again.rows.time, rtol=1e-12)
    assert recipe.sampler.pattern == again.pattern


def test_in_float32_the_numbers_are_the_same_rounded():
    index = of("UniPCMultistep")
    name, config, call, _ = CASES[index]
    recipe = recipe_of(name, config, call, 10)
    assert recipe.sampler.rows.weights.dtype == recipe.times.dtype == recipe.process.law.clock.knots.dtype == np.float32
    model = denoise(recipe, network_of(name, config, recipe))
    close(replay(recipe.sampler, model, recipe.start * problem.STARTS), STORED[key(index, 10)], 1e-4)


def exploding(sigmas):
    """A process and its times with these ``sigma / alpha``."""
    return js.processes.edm(sigma_max=1e4), np.asarray(sigmas)


@pytest.mark.parametrize("index", [i for i, case in enumerate(CASES) if case[3] == (None,)])
def test_a_schedule_becomes_the_arguments_that_diffusers_turns_into_it(index, x64):
    name, config, call, _ = CASES[index]
    config = {"_class_name": f"{name}Scheduler", **config}
    if name == "DDPM":
        recipe = js.recipes.from_diffusers(config, **call)
        process, times = recipe.process, recipe.times
    elif kind_of(name, config) == "flow":
        process, times = js.processes.rectified_flow(), STORED[key(index, None) + "_s"]
    else:
        levels = STORED[key(index, None) + "_s"]
        process, times = exploding(np.append(np.unique(levels[levels > 0])[::-1], 0.0))
    mu = {"mu": call["mu"]} if "mu" in call else {}
    arguments = js.recipes.to_diffusers(process, times, config, **mu)
    if name == "EulerDiscrete":  # takes levels, which say more than timesteps
        call = {"sigmas": STORED[key(index, None) + "_s"]}
    assert arguments.keys() == call.keys()
    for key_, value in call.items():
        np.testing.assert_allclose(arguments[key_], value, rtol=2e-6)  # UniPC's flows start at 1 - 1e-6
    again = js.recipes.from_diffusers(config, **arguments)
    close(
        np.asarray(again.process.sigma(again.times)),
        np.asarray(js.recipes.from_diffusers(config, **call).process.sigma(again.times)),
    )


@pytest.mark.parametrize(
    ("name", "config", "sigmas", "says"),
    [
        ("DPMSolverMultistep", {"use_karras_sigmas": True}, [9, 1, 0], "space its levels itself"),
        ("DPMSolverMultistep", {}, [999, 1, 0], "start at most at 157"),
        ("DPMSolverMultistep", {}, [99, 1], "end at most at 0.01"),
        ("DDPM", {}, [99, 10, 9.999, 0], "one timestep"),
        ("DDIM", {}, [99, 1, 0], "DDIMScheduler is refused"),
        ("EDMEuler", {}, [9, 1, 0], "EDMEulerScheduler is refused"),
        ("FlowMatchEulerDiscrete", {}, [9, 1], "end at the clean end"),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, [9, 1, 0], "mu must be given"),
        ("FlowMatchEulerDiscrete", {"shift_terminal": 0.1}, [9, 1, 0], "shift_terminal"),
        ("DPMSolverMultistep", {"use_flow_sigmas": True}, [9, 1, 0], "takes no sigmas"),
        ("HeunDiscrete", {}, [9, 9, 0], "strictly decreasing"),
    ],
)
def test_schedules_that_diffusers_cannot_take_are_refused(name, config, sigmas, says):
    with pytest.raises(ValueError, match=says):
        js.recipes.to_diffusers(*exploding(np.asarray(sigmas, float)), {"_class_name": f"{name}Scheduler", **config})


@pytest.mark.parametrize(
    ("steps", "call", "says"),
    [
        (None, {}, "give either steps"),
        (5, {"timesteps": [3, 2]}, "give either steps"),
        (0, {}, "steps must be from 1 to 1000"),
        (1001, {}, "steps must be from 1 to 1000"),
        (5, {"etas": 0.1}, "unknown argument of DPMSolverMultistepScheduler 'etas'"),
        (None, {"timesteps": [3, 5]}, "two timesteps are the same|followed by|go from"),
        (None, {"timesteps": [1000]}, "integers from 0 to 999"),
        (5, {"mu": 1.0}, "use_flow_sigmas"),
    ],
)
def test_arguments_are_checked(steps, call, says):
    with pytest.raises(ValueError, match=says):
        recipe_of("DPMSolverMultistep", {}, call, steps)


def test_a_configuration_may_be_a_file_or_its_folder(tmp_path):
    config = {"_class_name": "DPMSolverMultistepScheduler", "clip_sample": False, "skip_prk_steps": True}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    recipes = [
        js.recipes.from_diffusers(source, 5) for source in (config, tmp_path, str(tmp_path / "scheduler_config.json"))
    ]
    assert all((r.sampler.rows.weights == recipes[0].sampler.rows.weights).all() for r in recipes)
    with pytest.raises(ValueError, match="_class_name"):
        js.recipes.from_diffusers({"beta_start": 0.1}, 5)


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    example = re.search(r"## Recipes\n.*?```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    config = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "v_prediction"}
    Path("scheduler_config.json").write_text(json.dumps(config))
    names = {"js": js, "apply": lambda x, t: 0.1 * x, "noise": jnp.ones((4, 2)), "key": jax.random.key(0)}
    exec(example, names)
    assert len(names["recipe"].sampler) == 20
    assert bool(jnp.isfinite(names["x"]).all())
    assert names["arguments"].keys() == {"timesteps"}
    again = js.recipes.load("sampler.json")
    assert (again.sampler.rows.weights == names["recipe"].sampler.rows.weights).all()
