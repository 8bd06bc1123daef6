"""Denoiser -> denoiser transforms: corrections of a network's answer that no table can express.

Each returns a callable pytree: its numbers are leaves, so new ones compile nothing.
"""

from jaxsamplers.transforms.exposure import epsilon_scaling, time_shift
from jaxsamplers.transforms.structure import structural_guidance
from jaxsamplers.transforms.thresholds import dynamic_threshold, static_threshold
from jaxsamplers.transforms.velocity import remember_velocity, velocity_refiner

__all__ = [
    "dynamic_threshold",
    "epsilon_scaling",
    "remember_velocity",
    "static_threshold",
    "structural_guidance",
    "time_shift",
    "velocity_refiner",
]
