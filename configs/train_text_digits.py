"""Digits as texts of 64 grey levels: the network that comes with the package, ``js.discrete.digits``."""

from experiments.token_networks import NetworkSettings
from experiments.tokens import SampleSettings, Settings
from experiments.training import TrainSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        data="digits",
        length=64,
        process="masked",
        prediction="bayes",
        loss="mdlm",
        network=NetworkSettings(width=64, depth=4, heads=4, hidden=3, time=False),
        train=TrainSettings(
            steps=4500, batch=64, learning_rate=2e-3, weight_decay=0.1, average=0.998, chunk=100, checkpoint=500
        ),
        sample=SampleSettings(count=64, steps=32, sampler="ancestral", schedule="uniform"),
    )
