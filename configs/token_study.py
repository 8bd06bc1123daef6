"""All samplers of tokens on characters and on countdown, masked; minutes on two cores."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(count=128)
