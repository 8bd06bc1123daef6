"""LD3 with network times on smoothed digits, whose perfect network is known; a minute or two on two cores."""

from experiments.learn_schedule import LearnSettings, Settings, TeacherSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problem="digits",
        solver="unipc-3",
        calls=8,
        teacher=TeacherSettings(train=512, check=128, test=512),
        learn=LearnSettings(method="ld3", network_times=True, steps=500, batch=64, rate=0.02, every=25),
    )
