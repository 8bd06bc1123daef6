"""Recipes of diffusers' schedulers against numbers that diffusers made, timestep by timestep."""

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

    def model(x, t, network_time):
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
        if recipe.clip.quantile is None:
            return np.clip(x0, -limit, limit)
        limit = np.clip(np.quantile(np.abs(x0), recipe.clip.quantile, axis=1, keepdims=True), 1, limit)
        return np.clip(x0, -limit, limit) / limit

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


@pytest.mark.parametrize(("name", "config", "says"), [*BROKEN, *REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(name, config, says):
    call = {"eta": 0.5} if name == "TCD" else {}
    with pytest.raises(ValueError, match=says):
        recipe_of(name, config, call, 20)


def test_in_float32_the_numbers_are_the_same_rounded():
    index = of("UniPCMultistep")
    name, config, call, _ = CASES[index]
    recipe = recipe_of(name, config, call, 10)
    assert recipe.sampler.rows.weights.dtype == recipe.times.dtype == recipe.process.law.clock.knots.dtype == np.float32
    model = denoise(recipe, network_of(name, config, recipe))
    close(replay(recipe.sampler, model, recipe.start * problem.STARTS), STORED[key(index, 10)], 1e-4)
