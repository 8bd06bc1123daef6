"""Diffusion on tokens: processes, denoisers and samplers that run on ``js.run`` and ``js.sample`` like all others.

    process = js.discrete.masked(vocab)  # or uniform(vocab), marginal(probabilities)
    times = js.schedules.uniform(process, steps=32)
    sampler = js.discrete.ancestral(process, times)
    tokens = js.sample(sampler, model, process.prior(key, (batch, length)), key)  # model(tokens, t) -> logits

Time runs from 1, noise, to 0, clean. ``model`` returns logits of the Bayes posterior of each clean token; a network
that was trained on something else is wrapped by ``js.discrete.denoiser``.
"""

from jaxsamplers.discrete import chain, survival, text
from jaxsamplers.discrete.categorical import Categorical, categorical
from jaxsamplers.discrete.denoisers import Denoiser, denoiser, from_bayes, predictions, to_bayes
from jaxsamplers.discrete.processes import Replacement, marginal, masked, posterior, uniform
from jaxsamplers.discrete.samplers import analytic, ancestral, euler, remasking, tau_leaping
from jaxsamplers.discrete.table import TokenTable, only

registry = {
    "ancestral": ancestral,
    "analytic": analytic,
    "euler": euler,
    "tau_leaping": tau_leaping,
    "remasking": remasking,
}

__all__ = [
    "Categorical",
    "Denoiser",
    "Replacement",
    "TokenTable",
    "categorical",
    "chain",
    "denoiser",
    "from_bayes",
    "marginal",
    "masked",
    "only",
    "posterior",
    "predictions",
    "registry",
    "survival",
    "text",
    "to_bayes",
    "uniform",
    *registry,
]
