"""Diffusion on tokens: processes, denoisers and samplers that run on ``js.run`` and ``js.sample`` like all others.

    process = js.discrete.masked(vocab)  # or uniform(vocab), marginal(probabilities)
    times = js.schedules.uniform(process, steps=32)
    sampler = js.discrete.ancestral(process, times)
    tokens = js.sample(sampler, model, process.prior(key, (batch, length)), key)  # model(tokens, t) -> logits

Time runs from 1, noise, to 0, clean. ``model`` returns logits of the Bayes posterior of each clean token; a network
that was trained on something else is wrapped by ``js.discrete.denoiser``.
"""

from jaxsamplers.discrete import chain, orders, survival, text
from jaxsamplers.discrete.categorical import Categorical, categorical
from jaxsamplers.discrete.denoisers import Denoiser, denoiser, from_bayes, predictions, to_bayes
from jaxsamplers.discrete.first_hitting import FirstHitting, first_hitting
from jaxsamplers.discrete.ordered import OrderedSampler, ordered
from jaxsamplers.discrete.processes import Replacement, marginal, masked, posterior, uniform
from jaxsamplers.discrete.samplers import analytic, ancestral, euler, remasking, tau_leaping
from jaxsamplers.discrete.table import TokenTable, only
from jaxsamplers.discrete.two_stage import TwoStage, theta_rk2, theta_trapezoidal

registry = {
    "ancestral": ancestral,
    "analytic": analytic,
    "euler": euler,
    "tau_leaping": tau_leaping,
    "theta_trapezoidal": theta_trapezoidal,
    "theta_rk2": theta_rk2,
    "remasking": remasking,
    "ordered": ordered,
    "first_hitting": first_hitting,
}

__all__ = [
    "Categorical",
    "Denoiser",
    "FirstHitting",
    "OrderedSampler",
    "Replacement",
    "TokenTable",
    "TwoStage",
    "categorical",
    "chain",
    "denoiser",
    "from_bayes",
    "marginal",
    "masked",
    "only",
    "orders",
    "posterior",
    "predictions",
    "registry",
    "survival",
    "text",
    "to_bayes",
    "uniform",
    *registry,
]
