"""Characters and countdown, exact posteriors, 8 to 64 calls: a quarter of an hour on two cores."""

from experiments.learned_tokens import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings()
