"""All samplers of tokens on digits, masked, with the trained network of the package; minutes on two cores."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(problems=("trained digits",), lengths=(64,), count=128)
