"""Learned schedules and solvers: parameters, objectives and one fit loop, and searches that need no gradient.

    parameters = js.learn.parameters(process, steps=8, network_times=True, coefficients=True)
    build      = js.learn.builder(js.solvers.unipc, process, order=3)
    pairs      = js.learn.teach(teacher, model, noises)
    result     = js.learn.fit(js.learn.endpoint(build, model), parameters, optimizer=optax.adam(3e-2),
                              batches=js.learn.batches(pairs, 64), steps=500)
    js.recipes.save("unipc8.json", build(result.parameters))
"""

from jaxsamplers.learn.align_your_steps import align_your_steps, subdivide
from jaxsamplers.learn.builder import Builder, builder
from jaxsamplers.learn.decisions import Found, autodiffusion, choose, search, usf
from jaxsamplers.learn.dynamic import gits, oss, shortest_path
from jaxsamplers.learn.evolution import Generation, evolve, kernel_ridge
from jaxsamplers.learn.fit import NotFinite, Plateau, Result, fit
from jaxsamplers.learn.klub import Klub, klub, klub_gaussian, klub_intervals, klub_objective
from jaxsamplers.learn.objectives import absolute, endpoint, features, pseudo_huber, rms, squared, trajectory
from jaxsamplers.learn.pairs import Pairs, batches, draws, pairs, teach
from jaxsamplers.learn.parameters import Parameters, parameters
from jaxsamplers.learn.residuals import with_residuals
from jaxsamplers.learn.unified import unified

__all__ = [
    "Builder",
    "Found",
    "Generation",
    "Klub",
    "NotFinite",
    "Pairs",
    "Parameters",
    "Plateau",
    "Result",
    "absolute",
    "align_your_steps",
    "autodiffusion",
    "batches",
    "builder",
    "choose",
    "draws",
    "endpoint",
    "evolve",
    "features",
    "fit",
    "gits",
    "kernel_ridge",
    "klub",
    "klub_gaussian",
    "klub_intervals",
    "klub_objective",
    "oss",
    "pairs",
    "parameters",
    "pseudo_huber",
    "rms",
    "search",
    "shortest_path",
    "squared",
    "subdivide",
    "teach",
    "trajectory",
    "unified",
    "usf",
    "with_residuals",
]
