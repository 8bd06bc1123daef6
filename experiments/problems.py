"""Problems for ``python -m jaxsamplers compare`` that need a trained network.

    python -m experiments.train_digits --config configs/train_digits_linen.py
    python -m jaxsamplers compare --problem experiments.problems:trained_digits

The network is trained on one process and compared on whichever is asked for: ``denoisers.convert`` is exact.
"""

from __future__ import annotations

from pathlib import Path

from experiments import digits
from jaxsamplers.denoisers import convert
from jaxsamplers.problems import Problem

RUN = Path("runs/train_digits_linen")


def trained_digits() -> Problem:
    """The network that ``train_digits`` left in its default folder.

    Raises:
        ValueError: there is no finished run.
    """
    if not (RUN / "config.json").exists():
        raise ValueError(
            f"there is no trained network in {RUN}: first run "
            "python -m experiments.train_digits --config configs/train_digits_linen.py"
        )
    settings, training = digits.load(RUN)
    own, model = digits.process_of(settings), digits.denoiser_of(settings, training)
    return Problem(settings.network.shape, lambda process: convert(model, own, process))
