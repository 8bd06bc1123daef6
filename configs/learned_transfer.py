"""UniPC-3 on the eight-dimensional mixture: a few minutes on two cores."""

from experiments.learned_transfer import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings()
