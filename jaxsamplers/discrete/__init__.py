"""Diffusion on tokens: processes, denoisers and samplers that run on ``js.run`` and ``js.sample`` like all others.

    process = js.discrete.masked(vocab)  # or uniform(vocab), marginal(probabilities)
    times = js.schedules.uniform(process, steps=32)
    sampler = js.discrete.ancestral(process, times)
    tokens = js.sample(sampler, model, process.prior(key, (batch, length)), key)  # model(tokens, t) -> logits

Time runs from 1, noise, to 0, clean. ``model`` returns logits of the Bayes posterior of each clean token; a network
that was trained on something else is wrapped by ``js.discrete.denoiser``.
"""

from jaxsamplers.discrete import chain, counts, digits, losses, orders, randomness, survival, text, truncation
from jaxsamplers.discrete.blocks import Blocks, blocks
from jaxsamplers.discrete.caching import Cached, cached
from jaxsamplers.discrete.categorical import Categorical, categorical
from jaxsamplers.discrete.d3pm import D3PM, d3pm
from jaxsamplers.discrete.ddpd import Plan, Planned, ddpd, planned, planned_from
from jaxsamplers.discrete.denoisers import Denoiser, denoiser, from_bayes, predictions, to_bayes
from jaxsamplers.discrete.first_hitting import FirstHitting, first_hitting
from jaxsamplers.discrete.flow import bump, flow_cumulative, flow_euler, flow_exact
from jaxsamplers.discrete.gillespie import k_gillespie
from jaxsamplers.discrete.glauber import Glauber, glauber, glauber_generative, signal_classifier
from jaxsamplers.discrete.matrices import (
    Matrices,
    absorbing_steps,
    gaussian_steps,
    neighbour_steps,
    transition_matrices,
    uniform_steps,
)
from jaxsamplers.discrete.ordered import OrderedSampler, ordered
from jaxsamplers.discrete.predictor_corrector import predictor_corrector
from jaxsamplers.discrete.processes import Replacement, marginal, masked, posterior, uniform
from jaxsamplers.discrete.rdm import Routing, rdm
from jaxsamplers.discrete.remdm import Confidence, remdm_cap, remdm_confidence, remdm_loop, remdm_rescale
from jaxsamplers.discrete.samplers import analytic, ancestral, euler, remasking, tau_leaping
from jaxsamplers.discrete.table import TokenTable, only
from jaxsamplers.discrete.tempered import Tempered, scaled, tempered
from jaxsamplers.discrete.truncation import truncated
from jaxsamplers.discrete.two_stage import TwoStage, theta_rk2, theta_trapezoidal

registry = {
    "ancestral": ancestral,
    "analytic": analytic,
    "euler": euler,
    "tau_leaping": tau_leaping,
    "theta_trapezoidal": theta_trapezoidal,
    "theta_rk2": theta_rk2,
    "remasking": remasking,
    "remdm_confidence": remdm_confidence,
    "remdm_cap": remdm_cap,
    "remdm_rescale": remdm_rescale,
    "remdm_loop": remdm_loop,
    "ordered": ordered,
    "rdm": rdm,
    "k_gillespie": k_gillespie,
    "first_hitting": first_hitting,
    "flow_euler": flow_euler,
    "flow_cumulative": flow_cumulative,
    "flow_exact": flow_exact,
    "predictor_corrector": predictor_corrector,
    "glauber": glauber,
    "glauber_generative": glauber_generative,
    "d3pm": d3pm,
    "ddpd": ddpd,  # of a model that returns a ``Plan``, see ``planned``
}

__all__ = [
    "D3PM",
    "Blocks",
    "Cached",
    "Categorical",
    "Confidence",
    "Denoiser",
    "FirstHitting",
    "Glauber",
    "Matrices",
    "OrderedSampler",
    "Plan",
    "Planned",
    "Replacement",
    "Routing",
    "Tempered",
    "TokenTable",
    "TwoStage",
    "absorbing_steps",
    "blocks",
    "bump",
    "cached",
    "categorical",
    "chain",
    "counts",
    "denoiser",
    "digits",
    "from_bayes",
    "gaussian_steps",
    "losses",
    "marginal",
    "masked",
    "neighbour_steps",
    "only",
    "orders",
    "planned",
    "planned_from",
    "posterior",
    "predictions",
    "randomness",
    "registry",
    "scaled",
    "signal_classifier",
    "survival",
    "tempered",
    "text",
    "to_bayes",
    "transition_matrices",
    "truncated",
    "truncation",
    "uniform",
    "uniform_steps",
    *registry,
]
