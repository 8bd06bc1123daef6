"""Guidance: functions that make a denoiser from denoisers, and functions that change what they made."""

from jaxsamplers.guidance.cfg_pp import cfg_pp
from jaxsamplers.guidance.combine import projected, rescale
from jaxsamplers.guidance.guided import Guided, autoguidance, classifier_free, conditional, unguided
from jaxsamplers.guidance.interval import interval, interval_parts
from jaxsamplers.guidance.momentum import momentum

__all__ = [
    "Guided",
    "autoguidance",
    "cfg_pp",
    "classifier_free",
    "conditional",
    "interval",
    "interval_parts",
    "momentum",
    "projected",
    "rescale",
    "unguided",
]
