"""The whole study; hours on two cores, and it goes on where it stopped."""

from experiments.learned_vs_hand import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings()
