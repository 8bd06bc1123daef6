"""jaxsamplers: a sampler is a pytree of numbers, read by a pure step function and composed with ``lax.scan``."""

from jaxsamplers import (
    adaptive,
    analytic,
    boundary,
    discrete,
    distributed,
    exports,
    guidance,
    interpolants,
    learn,
    multimarginal,
    parallel,
    processes,
    recipes,
    schedules,
    shards,
    solvers,
    starts,
    statistics,
    transforms,
)
from jaxsamplers.chunks import chunked
from jaxsamplers.core import Sampler, SolverState, network_calls, run, sample, sample_keys
from jaxsamplers.denoisers import convert, denoiser, from_linen, from_nnx, predict
from jaxsamplers.exports import export
from jaxsamplers.memory import remembering
from jaxsamplers.stages import cascade, matched_time, stitch
from jaxsamplers.tableau import Tableau, align, pad, with_extra

__version__ = "0.1.0"

__all__ = [
    "Sampler",
    "SolverState",
    "Tableau",
    "adaptive",
    "align",
    "analytic",
    "boundary",
    "cascade",
    "chunked",
    "convert",
    "denoiser",
    "discrete",
    "distributed",
    "export",
    "exports",
    "from_linen",
    "from_nnx",
    "guidance",
    "interpolants",
    "learn",
    "matched_time",
    "multimarginal",
    "network_calls",
    "pad",
    "parallel",
    "predict",
    "processes",
    "recipes",
    "remembering",
    "run",
    "sample",
    "sample_keys",
    "schedules",
    "shards",
    "solvers",
    "starts",
    "statistics",
    "stitch",
    "transforms",
    "with_extra",
]
