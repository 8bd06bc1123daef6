"""Numbers of k-diffusion's ``sample_dpm_adaptive``: ``dpm_adaptive.npz``.

    python -m tests.reference.make_dpm_adaptive

In float64, from the highest noise level to the lowest, not to 0; samples, and how many steps were accepted, rejected
and what they cost.
"""

import numpy as np

from tests.reference import problem

LOW, HIGH = 0.03, 15.0
TOLERANCES = ((0.05, 0.0078), (0.005, 0.001))


def main():
    import torch

    from tests.reference.make_k_diffusion import load

    torch.set_default_dtype(torch.float64)  # tolerances and ends are made in the default type
    sampling = load()
    network = lambda x, sigma: torch.from_numpy(problem.denoise(x.numpy(), 1.0, float(sigma[0])))
    results = {}
    for order in (2, 3):
        for rtol, atol in TOLERANCES:
            start = torch.from_numpy(problem.STARTS * HIGH)
            options = {"order": order, "rtol": rtol, "atol": atol, "return_info": True, "disable": True}
            x, info = sampling.sample_dpm_adaptive(network, start, LOW, HIGH, **options)
            results[f"x_{order}_{rtol}"] = x.numpy()
            results[f"steps_{order}_{rtol}"] = np.array([info["n_accept"], info["n_reject"], info["nfe"]])
    command = "python -m tests.reference.make_dpm_adaptive"
    problem.save("dpm_adaptive", results, ["k-diffusion", "torch"], command)


if __name__ == "__main__":
    main()
