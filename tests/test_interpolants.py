"""Interpolants between two laws and among several: exact models, exact moments, equal marginals for every diffusion."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from tests.reference import problem
from tests.replay import replay

PATHS = {
    "linear": js.interpolants.linear(),
    "trigonometric": js.interpolants.trigonometric(2.0),
    "encoding_decoding": js.interpolants.encoding_decoding(),
}
METHODS = {"euler": (js.interpolants.euler, 1), "heun": (js.interpolants.heun, 2)}


class Mixtures:
    """The exact model of an interpolant between two independent mixtures: a mixture of all pairs."""

    def __init__(self, interpolant, first, last):
        self.interpolant, pairs = (
            interpolant,
            list(itertools.product(zip(*first, strict=True), zip(*last, strict=True))),
        )
        self.log_weights = np.log([a[0] * b[0] for a, b in pairs])
        self.means = np.array([[a[1], b[1]] for a, b in pairs])  # [pairs, 2, D]
        self.covariances = np.array([[a[2], b[2]] for a, b in pairs])

    def components(self, t):
        a, b, gamma = self.interpolant(t)
        means = a * self.means[:, 0] + b * self.means[:, 1]
        spread = a**2 * self.covariances[:, 0] + b**2 * self.covariances[:, 1]
        return means, spread + gamma**2 * jnp.eye(means.shape[-1])

    def __call__(self, x, t):
        """``E[a' x0 + b' x1 + gamma' z | x]`` and ``E[z | x]``: the velocity of a Gaussian is that of its moments."""
        t = jnp.clip(t, 1e-12, 1 - 1e-12)  # at the ends gamma' is infinite, (gamma^2)' is not
        (means, spread), (mean_dot, spread_dot) = jax.jvp(self.components, (t,), (jnp.ones_like(t),))
        away = x[:, None] - means
        solved = jnp.einsum("kij,nkj->nki", jnp.linalg.inv(spread), away)
        log_density = self.log_weights - 0.5 * jnp.linalg.slogdet(spread)[1] - 0.5 * jnp.sum(away * solved, axis=-1)
        weights = jax.nn.softmax(log_density, axis=1)
        velocity = jnp.einsum("nk,nki->ni", weights, mean_dot + 0.5 * jnp.einsum("kij,nkj->nki", spread_dot, solved))
        return velocity, self.interpolant(t)[2] * jnp.einsum("nk,nki->ni", weights, solved)

    def cumulative(self, x, t, axis):
        """Of one coordinate's marginal law."""
        means, spread = self.components(t)
        return jax.scipy.stats.norm.cdf(x[:, None], means[:, axis], jnp.sqrt(spread[:, axis, axis])) @ np.exp(
            self.log_weights
        )


LINE = [[1.0], [[0.8]], [[[0.3]]]], [[1.0], [[-0.5]], [[[1.4]]]]
FIRST = [0.4, 0.6], [[-1.5, 0.0], [1.0, 1.0]], [0.2 * np.eye(2), [[0.5, 0.3], [0.3, 0.4]]]
LAST = (
    [0.5, 0.2, 0.3],
    [[0.0, 2.0], [2.0, -1.0], [-1.0, -1.0]],
    [0.1 * np.eye(2), 0.3 * np.eye(2), [[0.4, -0.2], [-0.2, 0.3]]],
)


def moments(sampler, model, mean, variance):
    """Exact mean and variance of the final sample in one dimension; the model's drift is affine in ``x``."""
    probe = jnp.array([[0.0], [1.0]])
    answer = jax.vmap(lambda t, extra: model(probe, t, **extra)[:, 0])
    at = np.asarray(jax.jit(answer)(sampler.rows.time, sampler.rows.extra))
    count = sampler.registers
    m, cov = np.zeros(count), np.zeros((count, count))
    m[0], cov[0, 0] = mean, variance
    for (low, high), weights, noise in zip(
        at, np.asarray(sampler.rows.weights), np.asarray(sampler.rows.noise), strict=True
    ):
        step = weights[:, :count].copy()
        step[:, 0] += weights[:, count] * (high - low)
        m = step @ m + weights[:, count] * low
        cov = step @ cov @ step.T + np.outer(noise, noise)
    return m[0], cov[0, 0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("scale", "back"), [(0.0, False), (1.5, False), (1.5, True)])
def test_moments_converge_for_every_diffusion(path, method, scale, back, x64):
    """Between Gaussians on a line the final mean and variance have errors of the method's order, both ways."""
    interpolant, (build, order) = PATHS[path], METHODS[method]
    model = js.interpolants.drift(Mixtures(interpolant, *LINE), interpolant)
    ends = [(0.8, 0.3), (-0.5, 1.4)]
    start, end = ends[::-1] if back else ends
    errors = []
    for steps in (100, 200):
        times = jnp.linspace(1.0, 0.0, steps + 1) if back else jnp.linspace(0.0, 1.0, steps + 1)
        sampler = build(interpolant, times, diffusion=scale * interpolant(times)[2])
        assert len(sampler) == steps * order
        assert sampler.stochastic == (scale > 0)
        errors.append(np.abs(np.subtract(moments(sampler, model, *start), end)).max())
    assert errors[0] < (0.1 if order == 1 else 0.01), errors
    assert np.log2(errors[0] / errors[1]) > order - 0.2, errors


def distance(uniforms):
    """Kolmogorov's: above ``2.8 / sqrt(n)`` with probability ``2 exp(-2 2.8^2) = 3e-7`` if they are uniform."""
    ordered, n = np.sort(np.asarray(uniforms)), len(uniforms)
    return max(np.max(np.arange(1, n + 1) / n - ordered), np.max(ordered - np.arange(n) / n)) * np.sqrt(n)


@pytest.mark.parametrize("path", PATHS)
def test_marginals_between_mixtures_are_equal_for_every_diffusion(path, x64):
    """ODE, SDE and SDE backwards, half-way and at the end, in both coordinates: 4,000 samples each."""
    interpolant = PATHS[path]
    exact = Mixtures(interpolant, FIRST, LAST)
    model = js.interpolants.drift(exact, interpolant)

    def mixture(law, key):
        data = js.analytic.gaussian_mixture(js.processes.edm(), law[1], np.array(law[2]), law[0])
        return data.draw(key, 4000)

    @jax.jit
    def run(sampler, x):
        return js.run(sampler, model, x, jax.random.key(5), record=lambda state: state.x, remat=False)[1]

    for scale, back in ((0.0, False), (1.0, False), (1.0, True)):
        times = jnp.linspace(1.0, 0.0, 121) if back else jnp.linspace(0.0, 1.0, 121)
        sampler = js.interpolants.heun(interpolant, times, diffusion=scale * interpolant(times)[2])
        x = mixture(LAST if back else FIRST, jax.random.key(4))
        visited = run(sampler, x)
        for step in (60, 120):
            for axis in (0, 1):
                uniforms = exact.cumulative(visited[2 * step - 1, :, axis], times[step], axis)
                assert distance(uniforms) < 2.8, (scale, back, step, axis)


def test_the_score_pulls_the_right_way(x64):
    """With the sign of the denoiser turned, the marginals are lost: what the tests above would see."""
    interpolant = PATHS["linear"]
    exact = Mixtures(interpolant, *LINE)
    turned = js.interpolants.drift(lambda x, t: (exact(x, t)[0], -exact(x, t)[1]), interpolant)
    times = jnp.linspace(0.0, 1.0, 201)
    sampler = js.interpolants.heun(interpolant, times, diffusion=interpolant(times)[2])
    assert abs(moments(sampler, turned, 0.8, 0.3)[1] - 1.4) > 1.0


@pytest.mark.parametrize("path", PATHS)
def test_networks_regress_on_the_exact_model(path, x64):
    """The targets' slope on ``x_t`` is that of the closed form: 200,000 draws within 5 standard errors."""
    interpolant, n, t = PATHS[path], 200_000, 0.3
    keys = jax.random.split(jax.random.key(0), 3)
    x0 = 0.8 + np.sqrt(0.3) * jax.random.normal(keys[0], (n, 1))
    x1 = -0.5 + np.sqrt(1.4) * jax.random.normal(keys[1], (n, 1))
    x, velocity, z = js.interpolants.draw(interpolant, keys[2], x0, x1, t)
    model = Mixtures(interpolant, *LINE)
    for target, predicted in zip((velocity, z), model(x, jnp.asarray(t)), strict=True):
        rest = target - predicted
        for test in (jnp.ones_like(x), x, x**2):
            product = rest * test
            assert abs(float(product.mean())) < 5 * float(product.std()) / np.sqrt(n) + 1e-12


def test_one_sided_interpolants_are_processes(x64):
    """From ``N(0, I)`` with the same levels, the velocity and the denoiser are those of the process."""
    process = js.processes.trigonometric()
    bent = lambda t: (jnp.cos(jnp.pi / 2 * t), jnp.sin(jnp.pi / 2 * t), 0 * t)
    base = [1.0], [np.zeros(2)], [np.eye(2)]
    exact = Mixtures(bent, base, LAST)
    denoise = js.analytic.gaussian_mixture(process, LAST[1], np.array(LAST[2]), LAST[0])
    x, t = jax.random.normal(jax.random.key(0), (6, 2)), jnp.asarray(0.35)
    np.testing.assert_allclose(-js.predict(denoise, process, "velocity")(x, t), exact(x, 1 - t)[0], rtol=1e-9)
    times = jnp.linspace(0.0, 1.0, 9)
    ours = replay(js.solvers.euler(process, 1 - times), jax.jit(lambda x, t: denoise(x, t)), x)
    np.testing.assert_allclose(replay(js.interpolants.euler(bent, times), drifted(exact, bent), x), ours, rtol=1e-9)


def drifted(exact, interpolant):
    return jax.jit(js.interpolants.drift(exact, interpolant))


THEIRS = {
    "linear": js.interpolants.linear(1.0),
    "trig": js.interpolants.trigonometric(1.0),
    "encoding-decoding": js.interpolants.encoding_decoding(),
}


@pytest.mark.parametrize("name", THEIRS)
def test_the_authors_code(name, x64):
    """Levels, the flow by Euler and Heun, and Euler and Maruyama's method both ways with a constant diffusion."""
    theirs, interpolant = problem.load("interpolants"), THEIRS[name]
    np.testing.assert_allclose(interpolant(jnp.linspace(0.0, 1.0, 21)), theirs[f"{name}_levels"], atol=1e-12)

    def around(t):  # a a', b' and gamma gamma'
        levels, slopes = jax.jvp(interpolant, (t,), (jnp.ones_like(t),))
        return levels, (levels[0] * slopes[0], slopes[1], levels[2] * slopes[2])

    around = jax.jit(around)

    def model(x, t, diffusion):
        levels, slopes = jax.tree.map(float, around(t))
        velocity, noise = problem.bridge(x, levels, slopes)
        return velocity - diffusion / levels[2] * noise

    build = jax.jit(
        lambda method, times, epsilon: METHODS[method][0](interpolant, times, diffusion=epsilon), static_argnums=0
    )
    for calls in (5, 8, 10, 20):
        times = np.linspace(0.02, 0.98, calls + 1)
        runs = {"euler": build("euler", times, 0.0), "forward": build("euler", times, 0.3)}
        runs["backward"] = build("euler", times[::-1].copy(), 0.3)
        if calls % 2 == 0:
            runs["heun2"] = build("heun", np.linspace(0.02, 0.98, calls // 2 + 1), 0.0)
        for run, sampler in runs.items():
            ours = replay(sampler, model, problem.STARTS, problem.NOISE)
            np.testing.assert_allclose(ours, theirs[f"{name}_{run}_{calls}"], rtol=1e-6, err_msg=f"{run} {calls}")


LAWS = np.array([0.0, 1.5, -1.0]), np.array([1.0, 0.3, 2.0])  # means and variances; the first is N(0, 1)


def conditional_means(x, point):
    """``E[x_k | x]`` of independent Gaussians on a line."""
    means, variances = LAWS
    away = (x - point @ means) / (point**2 @ variances)
    return tuple(means[k] + point[k] * variances[k] * away for k in range(3))


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_walks_in_the_simplex_meet_every_law(method, scale, x64):
    """From the first law by way of a mixture of three to the last, along a curve: exact moments."""
    build, order = {"euler": (js.multimarginal.euler, 1), "heun": (js.multimarginal.heun, 2)}[method]
    model = js.multimarginal.drift(conditional_means)
    errors = []
    for steps in (100, 200):
        t = np.linspace(0.0, 1.0, steps + 1)[:, None]
        points = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
        sampler = build(points, diffusion=scale * points[:, 0])
        errors.append(np.abs(np.subtract(moments(sampler, model, 0.0, 1.0), (-1.0, 2.0))).max())
    assert errors[0] < (0.1 if order == 1 else 0.01), errors
    assert np.log2(errors[0] / errors[1]) > order - 0.2, errors


def test_diffusion_can_be_learned(x64):
    """The gradient with respect to ``epsilon`` is that of finite differences, through tables and noise."""
    interpolant = PATHS["linear"]
    model = js.interpolants.drift(Mixtures(interpolant, *LINE), interpolant)
    times = jnp.linspace(0.0, 1.0, 5)
    x = jnp.linspace(-1.0, 1.0, 7)[:, None]

    @jax.jit
    def loss(scale):
        sampler = js.interpolants.heun(interpolant, times, diffusion=scale * interpolant(times)[2])
        return jnp.sum(jnp.sin(js.sample(sampler, model, x, jax.random.key(0))))

    slope = (loss(0.7 + 1e-5) - loss(0.7 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(0.7), slope, rtol=1e-6)


PATH = PATHS["linear"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: js.interpolants.euler(PATH, np.array([0.0, 0.5, 0.5])), "strictly increasing or strictly decreasing"),
        (lambda: js.interpolants.euler(PATH, np.array([0.0, 1.5])), "times must be at least 0 and at most 1"),
        (lambda: js.interpolants.euler(PATH, np.array([0.0])), "steps . 1 >= 2 times"),
        (lambda: js.interpolants.heun(PATH, np.array([0.0, 1.0]), diffusion=0.1), "diffusion must be 0 where gamma is"),
        (lambda: js.interpolants.heun(PATH, np.array([0.1, 0.9]), diffusion=-0.1), "diffusion must be at least 0"),
        (lambda: js.interpolants.heun(PATH, np.array([0.1, 0.9]), diffusion=np.ones(3)), r"one per time, \(2,\)"),
        (lambda: js.multimarginal.euler(np.array([[1.0, 0.0], [0.5, 0.6]])), "coordinates of sum 1"),
        (lambda: js.multimarginal.euler(np.array([1.0, 0.0])), r"points must have shape \[steps . 1, laws\]"),
        (
            lambda: js.multimarginal.heun(np.eye(2), diffusion=0.1),
            "diffusion must be 0 where the first coordinate is",
        ),
        (lambda: js.interpolants.trigonometric(5.0), "noise must be at least 0 and at most 4, got 5.0"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
