"""A transformer as a masked denoiser of countdown, for ``experiments.token_study``: minutes on two cores."""

from experiments.token_networks import NetworkSettings
from experiments.tokens import SampleSettings, Settings
from experiments.training import TrainSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        data="countdown",
        length=256,
        process="masked",
        prediction="bayes",
        loss="mdlm",
        network=NetworkSettings(width=64, depth=3, heads=4, hidden=3, time=False, relative=True),
        train=TrainSettings(steps=3000, batch=8, learning_rate=2e-3, average=0.995, chunk=100, checkpoint=500),
        sample=SampleSettings(count=16, steps=32, sampler="ancestral", schedule="uniform"),
    )
