"""All samplers of tokens with trained networks, which ``experiments.train_text`` makes: characters, and countdown."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(problems=("trained text", "trained countdown"), lengths=(64, 256), count=64)
