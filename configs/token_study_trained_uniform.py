"""Samplers of tokens with a trained network where noise is any character alike."""

import dataclasses

from configs.token_study_uniform import get_config as exact_config
from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return dataclasses.replace(exact_config(), problems=("trained text",), calls=(8, 16, 32, 64), count=64)
