"""Numbers of diffusers' schedulers, run from its package on the mixture.

    python -m tests.reference.make_diffusers

diffusers computes its tables, levels and some of its steps in float32. Here every scheduler's module sees a ``torch``
and a ``numpy`` whose ``float32`` is float64, and torch's default type is float64, so that all of it is in float64; the
code that runs is diffusers' own. ``randn_tensor`` gives row ``i`` of ``NOISE`` in the ``i``-th call of ``step``.
The start is ``init_noise_sigma`` times ``STARTS``, as in diffusers' pipelines.
"""

from __future__ import annotations

import importlib
import inspect
import types
import warnings

import diffusers
import numpy as np
import torch

from tests.reference import problem
from tests.reference.diffusers_cases import BROKEN, CASES, key, kind_of, network


class Wide(types.ModuleType):
    """A module whose ``float32`` is float64."""

    def __init__(self, module):
        super().__init__(module.__name__)
        self.module = module

    def __getattr__(self, name):
        return getattr(self.module, "float64" if name == "float32" else name)


row = 0


def noise(shape, **_):
    return torch.from_numpy(problem.NOISE[row].reshape(shape).copy())


def run(name, config, call, steps):
    """The final sample, or a note of what went wrong."""
    global row
    cls = getattr(diffusers, f"{name}Scheduler")
    module = importlib.import_module(cls.__module__)
    module.torch, module.np = Wide(torch), Wide(np)
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = noise
    scheduler = cls.from_config({"_class_name": cls.__name__, **config})
    call = {k: np.array(v) if k == "sigmas" else v for k, v in call.items()}  # UniPC takes no list
    setting = {k: v for k, v in call.items() if k in inspect.signature(scheduler.set_timesteps).parameters}
    arguments = {k: v for k, v in call.items() if k not in setting}
    scheduler.set_timesteps(**({} if steps is None else {"num_inference_steps": steps}), **setting)
    options = dict(scheduler.config)
    if options.get("timestep_type") == "continuous":
        options["sigma_data"] = 1.0
    if name.startswith("FlowMatch"):
        options["prediction_type"] = "flow_prediction"
    squared = getattr(scheduler, "alphas_cumprod", None)
    apply = network(kind_of(name, options), options, None if squared is None else squared.numpy())
    x = torch.from_numpy(problem.STARTS.reshape(16, 2, 1, 1)) * getattr(scheduler, "init_noise_sigma", 1.0)
    for row, t in enumerate(scheduler.timesteps):  # noqa: B007
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = apply(seen.numpy().reshape(16, 2), t.item())
        x = scheduler.step(torch.from_numpy(output.reshape(16, 2, 1, 1)), t, x, **arguments).prev_sample
    return x.numpy().reshape(16, 2), scheduler


def broken(name, config):
    """Whether diffusers fails, gives NaN, or takes a step whose length is zero in its own float32."""
    try:
        final, scheduler = run(name, config, {}, 20)
        still = hasattr(scheduler, "sigmas") and (np.diff(scheduler.sigmas.numpy().astype("f4")) == 0).any()
        return not np.isfinite(final).all() or still
    except (ValueError, NotImplementedError, UnboundLocalError):
        return True


def main():
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity_error()
    torch.set_default_dtype(torch.float64)
    results = {}
    for index, (name, config, call, all_steps) in enumerate(CASES):
        for steps in all_steps:
            final, scheduler = run(name, config, call, steps)
            assert np.isfinite(final).all(), (name, config, steps)
            results[key(index, steps)] = final
            results[key(index, steps) + "_t"] = scheduler.timesteps.numpy().astype(np.float64)
            if steps is None and hasattr(scheduler, "sigmas"):
                results[key(index, steps) + "_s"] = scheduler.sigmas.numpy()
    for name, config, _ in BROKEN:
        assert broken(name, config), (name, config)
    problem.save("diffusers", results, ["diffusers", "torch", "numpy"], "python -m tests.reference.make_diffusers")


if __name__ == "__main__":
    main()
