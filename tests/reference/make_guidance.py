"""What diffusers' guiders and thresholding make of given estimates.

    python -m tests.reference.make_guidance

in an environment with torch and diffusers.
"""

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg

from tests.reference import problem

SCALE, PHI, ETA, RADIUS, BETA = 7.5, 0.7, 0.3, 1.5, -0.5


def main():
    positive, negative = torch.tensor(np.random.default_rng(3).normal(size=(2, 3, 5, 2, 4, 4)))  # three calls of five
    results = {"positive": positive.numpy(), "negative": negative.numpy()}
    guided = negative[0] + SCALE * (positive[0] - negative[0])
    results["rescaled"] = rescale_noise_cfg(guided, positive[0], PHI).numpy()
    # with the original formulation the scale counts from 0
    apg = {"eta": ETA, "norm_threshold": RADIUS, "use_original_formulation": True}
    results["projected"] = normalized_guidance(positive[0], negative[0], SCALE - 1, None, **apg).numpy()
    buffer = MomentumBuffer(BETA)
    results["momentum"] = np.stack(
        [normalized_guidance(c, u, SCALE - 1, buffer, **apg) for c, u in zip(positive, negative, strict=True)]
    )
    for ceiling in (1.0, 1.5, 10.0):
        scheduler = DPMSolverMultistepScheduler(
            thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=ceiling
        )
        results[f"threshold-{ceiling}"] = scheduler._threshold_sample(positive[0]).numpy()
    problem.save("guidance", results, ["torch", "diffusers"], "python -m tests.reference.make_guidance")


if __name__ == "__main__":
    main()
