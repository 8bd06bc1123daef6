"""Samplers of tokens on digits, masked, with the trained network of the package; minutes on two cores."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problems=("trained digits",),
        lengths=(64,),
        samplers=(
            "ancestral",
            "tau_leaping",
            "theta_trapezoidal",
            "predictor_corrector",
            "remdm_rescale",
            "ordered",
            "ordered, confidence",
            "ordered, left to right",
            "first_hitting",
            "rdm",
        ),
        count=128,
    )
