"""The same study as ``train_digits_linen``, with the network in Flax NNX."""

import dataclasses

from configs.train_digits_linen import get_config as linen_config
from experiments.digits import Settings


def get_config() -> Settings:
    """The settings."""
    settings = linen_config()
    return dataclasses.replace(settings, network=dataclasses.replace(settings.network, framework="nnx"))
