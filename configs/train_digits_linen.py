"""A mixer in Flax linen, trained on 8x8 digits with v-prediction on the cosine process: a few minutes on two cores."""

from experiments.digits import SampleSettings, Settings, TrainSettings
from experiments.networks import NetworkSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        process="vp_cosine",
        prediction="v",
        network=NetworkSettings(framework="linen", width=96, depth=3, patch=2),
        train=TrainSettings(steps=5000, batch=96, learning_rate=3e-3, average=0.998, chunk=100, checkpoint=500),
        sample=SampleSettings(count=256, steps=16, order=2),
    )
