"""Align Your Steps for DPM-Solver++ on a mixture in eight dimensions, from equal steps in half-log-SNR; seconds."""

from experiments.learn_schedule import LearnSettings, Settings, TeacherSettings


def get_config() -> Settings:
    """The settings."""
    return Settings(
        problem="mixture-8",
        solver="dpm_solver_pp",
        calls=10,
        start="half_log_snr",
        teacher=TeacherSettings(train=512, check=256, test=1024),
        learn=LearnSettings(method="align_your_steps", network_times=False, steps=10),
    )
