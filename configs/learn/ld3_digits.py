"""LD3 with network times on the network that ``experiments.train_digits`` trained; some minutes on two cores.

Without one, ``--set problem=digits`` learns for smoothed digits in closed form.
"""

from experiments.learn_schedule import LearnSettings, Settings, TeacherSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problem="trained-digits",
        solver="unipc-3",
        calls=8,
        teacher=TeacherSettings(train=256, check=64, test=512),
        learn=LearnSettings(method="ld3", network_times=True, steps=300, batch=16, every=25),
    )
