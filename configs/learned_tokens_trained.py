"""Learned samplers of tokens with the networks that ``experiments.train_text`` trains."""

from experiments.learned_tokens import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problems=("trained text", "trained countdown"),
        lengths=(64, 256),
        teacher=128,
        learn=32,
        judge=128,
        iterations=6,
    )
