"""jaxsamplers: a sampler is a pytree of numbers, read by a pure step function and composed with ``lax.scan``."""

from jaxsamplers import adaptive, analytic, processes, schedules, solvers
from jaxsamplers.core import Sampler, SolverState, network_calls, run, sample, sample_keys
from jaxsamplers.denoisers import denoiser, from_linen, from_nnx, predict
from jaxsamplers.tableau import Tableau, align, pad

__version__ = "0.1.0"

__all__ = [
    "Sampler",
    "SolverState",
    "Tableau",
    "adaptive",
    "align",
    "analytic",
    "denoiser",
    "from_linen",
    "from_nnx",
    "network_calls",
    "pad",
    "predict",
    "processes",
    "run",
    "sample",
    "sample_keys",
    "schedules",
    "solvers",
]
