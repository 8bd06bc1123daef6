"""Samplers of tokens with trained networks, which ``experiments.train_text`` makes: characters, and countdown."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problems=("trained text", "trained countdown"),
        lengths=(64, 256),
        samplers=(
            "ancestral",
            "tau_leaping",
            "theta_trapezoidal",
            "theta_rk2",
            "predictor_corrector",
            "remasking",
            "remdm_rescale",
            "remdm_cap",
            "remdm_loop",
            "remdm_confidence",
            "first_hitting",
            "ordered",
            "ordered, confidence",
            "ordered, left to right",
            "rdm",
        ),
        count=64,
    )
