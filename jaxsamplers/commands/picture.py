"""``schedules``: where the steps of every schedule are, drawn; the times of one, printed."""

from __future__ import annotations

import argparse

from jaxsamplers import checks, processes, schedules
from jaxsamplers.commands.files import check_pictures, complete, need


def picture(options: argparse.Namespace) -> None:
    """Draw the schedules that the process can carry."""
    process = checks.look_up("process", options.process, processes.registry)()
    chosen = {n: checks.look_up("schedule", n, schedules.registry) for n in options.schedule or schedules.registry}
    made, refused = {}, {}
    for name, schedule in chosen.items():
        try:
            made[name] = schedule(process, options.steps, t_start=options.t_start, t_end=options.t_end)
        except ValueError as error:
            refused[name] = str(error)
    if not made:
        raise ValueError(f"there is no schedule to draw: {next(iter(refused.values()))}")
    check_pictures(options.out)
    need("matplotlib")

    import numpy as np

    from jaxsamplers import plotting_schedules

    families = {name: schedule.__module__ for name, schedule in chosen.items()}
    title = f"{options.process}, {options.steps} steps"
    with complete(options.out) as drafts:
        plotting_schedules.draw(process, made, drafts[0], families=families, title=title)
    if len(chosen) == 1:
        (times,) = made.values()
        print(f"{'time':>12s} {'sigma / alpha':>14s}")
        for time_, level in zip(times, np.exp(-process.half_log_snr(times)), strict=True):
            print(f"{time_:12.6g} {level:14.6g}")
    for name, reason in refused.items():
        print(f"{name}: {reason}")
    print(f"wrote {options.out}")
