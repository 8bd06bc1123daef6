"""The same transformer, told the time, as a denoiser of characters replaced by others: UDLM's bound."""

import dataclasses

from configs.train_text_masked import get_config as masked_config
from experiments.tokens import Settings


def get_config() -> Settings:
    """The settings."""
    settings = masked_config()
    network = dataclasses.replace(settings.network, time=True)
    return dataclasses.replace(
        settings, process="uniform", prediction="leave_one_out", loss="score_entropy", network=network
    )
