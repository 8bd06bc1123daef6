"""Samplers of tokens on characters where noise is any character alike, with exact posteriors; minutes on two cores."""

from experiments.token_study import Settings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problems=("text",),
        lengths=(64,),
        samplers=(
            "ancestral",
            "euler",
            "tau_leaping",
            "theta_trapezoidal",
            "theta_rk2",
            "predictor_corrector",
            "remasking",
            "flow_euler",
            "flow_cumulative",
            "flow_exact",
            "rdm",
            "ddpd",
        ),
        process="uniform",
        calls=(8, 16, 32, 64, 128),
        count=128,
    )
