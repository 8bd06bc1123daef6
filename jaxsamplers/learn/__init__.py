"""Learned schedules and solvers: parameters, objectives and one fit loop, and searches that need no gradient.

parameters = js.learn.parameters(process, steps=8, network_times=True, coefficients=True)
build      = js.learn.builder(js.solvers.unipc, process, order=3)
pairs      = js.learn.teach(teacher, model, noises)
result     = js.learn.fit(js.learn.endpoint(build, model), parameters, optimizer=optax.adam(3e-2),
                          batches=js.learn.batches(pairs, 64), steps=500)
js.recipes.save("unipc8.json", build(result.parameters))
"""

from jaxsamplers.distributed import Preempted
from jaxsamplers.learn.align_your_steps import align_your_steps, subdivide
from jaxsamplers.learn.amed import Amed, AmedSampler, Answer, amed, amed_loss, entries, statistics
from jaxsamplers.learn.bespoke import Bespoke, bespoke, bespoke_loss, scale_time
from jaxsamplers.learn.builder import Builder, builder
from jaxsamplers.learn.compensation import Cascade, cascade, compensated, dc_solver
from jaxsamplers.learn.decisions import Found, autodiffusion, choose, search, usf
from jaxsamplers.learn.dynamic import gits, oss, shortest_path
from jaxsamplers.learn.evolution import Generation, evolve, kernel_ridge
from jaxsamplers.learn.families import (
    S4S_PHASES,
    Family,
    alternate,
    bns,
    follow,
    generalized_solver,
    neural_solver,
    only,
    s4s,
)
from jaxsamplers.learn.fit import NotFinite, Plateau, Result, fit
from jaxsamplers.learn.jump_your_steps import break_gain, jump_your_counts, jump_your_steps
from jaxsamplers.learn.klub import Klub, klub, klub_gaussian, klub_intervals, klub_objective
from jaxsamplers.learn.ld3 import LD3, ld3, ld3_optimizer
from jaxsamplers.learn.lsd import Alignment, Teacher, Traces, lsd, lsd_objective, lsd_steps, lsd_teacher
from jaxsamplers.learn.objectives import (
    absolute,
    endpoint,
    features,
    log_squared,
    pseudo_huber,
    rms,
    squared,
    trajectory,
)
from jaxsamplers.learn.pairs import Pairs, batches, draws, pairs, teach
from jaxsamplers.learn.parameters import Parameters, parameters
from jaxsamplers.learn.pas import Corrected, Pas, pas, pas_search, principal_basis
from jaxsamplers.learn.paths import Path, along, paths
from jaxsamplers.learn.residuals import with_residuals
from jaxsamplers.learn.starts import Teleport, teleport, teleport_to, truncated
from jaxsamplers.learn.unified import unified

__all__ = [
    "LD3",
    "S4S_PHASES",
    "Alignment",
    "Amed",
    "AmedSampler",
    "Answer",
    "Bespoke",
    "Builder",
    "Cascade",
    "Corrected",
    "Family",
    "Found",
    "Generation",
    "Klub",
    "NotFinite",
    "Pairs",
    "Parameters",
    "Pas",
    "Path",
    "Plateau",
    "Preempted",
    "Result",
    "Teacher",
    "Teleport",
    "Traces",
    "absolute",
    "align_your_steps",
    "along",
    "alternate",
    "amed",
    "amed_loss",
    "autodiffusion",
    "batches",
    "bespoke",
    "bespoke_loss",
    "bns",
    "break_gain",
    "builder",
    "cascade",
    "choose",
    "compensated",
    "dc_solver",
    "draws",
    "endpoint",
    "entries",
    "evolve",
    "features",
    "fit",
    "follow",
    "generalized_solver",
    "gits",
    "jump_your_counts",
    "jump_your_steps",
    "kernel_ridge",
    "klub",
    "klub_gaussian",
    "klub_intervals",
    "klub_objective",
    "ld3",
    "ld3_optimizer",
    "log_squared",
    "lsd",
    "lsd_objective",
    "lsd_steps",
    "lsd_teacher",
    "neural_solver",
    "only",
    "oss",
    "pairs",
    "parameters",
    "pas",
    "pas_search",
    "paths",
    "principal_basis",
    "pseudo_huber",
    "rms",
    "s4s",
    "scale_time",
    "search",
    "shortest_path",
    "squared",
    "statistics",
    "subdivide",
    "teach",
    "teleport",
    "teleport_to",
    "trajectory",
    "truncated",
    "unified",
    "usf",
    "with_residuals",
]
