import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsamplers import metrics

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 3)).astype(np.float32), RNG.normal(size=(25, 3)).astype(np.float32) + 1


def test_sliced_wasserstein_in_one_dimension_is_wasserstein():
    """Equal sizes: sorted points pair up. Unequal sizes: repeating points changes nothing."""
    x, y = A[:25, :1], B[:, :1]
    expected = np.sqrt(np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2))
    np.testing.assert_allclose(metrics.sliced_wasserstein(KEY, x, y), expected, rtol=1e-5)
    twice = metrics.sliced_wasserstein(KEY, np.repeat(A[:10], 2, axis=0), A[10:20])
    np.testing.assert_allclose(twice, metrics.sliced_wasserstein(KEY, A[:10], A[10:20]), rtol=1e-4)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 7), (1, 3), (8, 8)])
def test_sliced_wasserstein_of_unequal_sizes(n, m):
    """With every point repeated until the sizes agree, sorted points pair up."""
    x, y = A[:n, :1], B[:m, :1]
    pairs = zip(np.sort(np.repeat(x, m, axis=0), axis=0), np.sort(np.repeat(y, n, axis=0), axis=0), strict=True)
    expected = np.sqrt(np.mean([(a - b) ** 2 for a, b in pairs]))
    np.testing.assert_allclose(metrics.sliced_wasserstein(KEY, x, y), expected, rtol=1e-5)


def test_sliced_wasserstein_of_a_shift():
    """A shift by v costs |v| / sqrt(D) on average over directions (in root mean square)."""
    v = np.array([1.0, -2.0, 2.0], np.float32)
    out = metrics.sliced_wasserstein(KEY, A, A + v, projections=20_000)
    np.testing.assert_allclose(out, 3 / np.sqrt(3), rtol=0.02)
    assert metrics.sliced_wasserstein(KEY, A, A) == 0


def test_energy_distance_by_hand():
    mean = lambda p, q: np.mean([[np.linalg.norm(a - b) for b in q] for a in p])
    expected = 2 * mean(A, B) - mean(A, A) - mean(B, B)
    np.testing.assert_allclose(metrics.energy_distance(A, B), expected, rtol=1e-4)
    np.testing.assert_allclose(metrics.energy_distance(A, A), 0.0, atol=1e-5)


def test_mmd_by_hand_and_unbiased():
    kernel = lambda a, b: sum(np.exp(-np.sum((a - b) ** 2) / (2 * s**2)) for s in (0.7, 2.0))
    within = lambda p: np.mean([kernel(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j])
    expected = within(A) + within(B) - 2 * np.mean([[kernel(a, b) for b in B] for a in A])
    np.testing.assert_allclose(metrics.mmd(A, B, bandwidths=(0.7, 2.0)), expected, rtol=1e-4)
    halves = RNG.normal(size=(50, 2, 30, 2)).astype(np.float32)
    values = np.array(jax.vmap(metrics.mmd)(halves[:, 0], halves[:, 1]))
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_nearest_distance_by_hand(chunk):
    expected = np.linalg.norm(A[:, None] - B[None], axis=-1).min(1)
    np.testing.assert_allclose(metrics.nearest_distance(A, B, chunk=chunk), expected, rtol=1e-5)


def test_frechet_distance_of_known_gaussians(x64):
    """Points with exactly these moments: commuting covariances have the closed form sum (sqrt c - sqrt d)^2."""
    unit = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(3 / 4)  # covariance I
    c, d, shift = np.array([4.0, 0.25]), np.array([1.0, 9.0]), np.array([0.5, -2.0])
    x, y = unit * np.sqrt(c), unit * np.sqrt(d) + shift
    expected = np.sum(shift**2) + np.sum((np.sqrt(c) - np.sqrt(d)) ** 2)
    np.testing.assert_allclose(metrics.frechet_distance(x, y), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [100, 12], ids=["constant features", "fewer samples than features"])
def test_frechet_distance_with_singular_covariances(n):
    """In float32, against the formula in float64."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(n, 20)) + 5, rng.normal(size=(80, 20)) * 1.5 + 5.2
    x[:, :6], y[:, :6] = 5.0, 5.0
    c, d = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(c)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ d @ root), 0)).sum()
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c) + np.trace(d) - 2 * cross
    np.testing.assert_allclose(
        metrics.frechet_distance(x.astype(np.float32), y.astype(np.float32)), expected, rtol=1e-4
    )


DISTANCES = {
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(KEY, x, y),
    "energy_distance": metrics.energy_distance,
    "mmd": metrics.mmd,
    "nearest_distance": lambda x, y: jnp.sum(metrics.nearest_distance(x, y, chunk=7)),
    "frechet_distance": metrics.frechet_distance,
}


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_gradients(distance, x64):
    """Against central differences in both sets; finite, and 0 at the minimum, where the sets are equal."""
    x, y = jnp.asarray(A, jnp.float64), jnp.asarray(B, jnp.float64)
    value, slope = jax.jit(distance), jax.jit(jax.grad(distance, argnums=(0, 1)))
    v, w = jnp.asarray(RNG.normal(size=x.shape)), jnp.asarray(RNG.normal(size=y.shape))
    numeric = (value(x + 1e-6 * v, y + 1e-6 * w) - value(x - 1e-6 * v, y - 1e-6 * w)) / 2e-6
    by_x, by_y = slope(x, y)
    np.testing.assert_allclose(jnp.vdot(by_x, v) + jnp.vdot(by_y, w), numeric, rtol=1e-6)
    if distance is not metrics.mmd:  # unbiased, hence not smallest there
        np.testing.assert_allclose(slope(y, y)[0], 0.0, atol=1e-7)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_images_of_bytes_do_not_wrap_around(distance):
    x, y = (RNG.integers(0, 256, size=(20, 2, 2, 1), dtype=np.uint8) for _ in range(2))
    distance = jax.jit(distance)
    np.testing.assert_allclose(distance(x, y), distance(x.astype(np.float32), y.astype(np.float32)), rtol=1e-5)


def test_a_copy_is_at_distance_zero():
    """Exactly, far from the origin too, where a difference of squares would lose it."""
    reference = jnp.asarray(1000 + A)
    np.testing.assert_array_equal(metrics.nearest_distance(reference[5:9], reference, chunk=3), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.energy_distance(A, B[:, :2]), r"got \(40, 3\) and \(25, 2\)"),
        (lambda: metrics.energy_distance(A[:0], B), r"two non-empty sets .* got \(0, 3\)"),
        (lambda: metrics.sliced_wasserstein(KEY, A, B, projections=0), "projections must be at least 1"),
        (lambda: metrics.mmd(A, B, bandwidths=(0.0,)), "bandwidths must be above 0"),
        (lambda: metrics.mmd(A, B, bandwidths=()), "one number or more"),
        (lambda: metrics.mmd(A[:1], B), "two points or more in each set, got 1 and 25"),
        (lambda: metrics.frechet_distance(A[:1], B), "two points or more, got 1 and 25"),
        (lambda: metrics.nearest_distance(A, B, chunk=0), "chunk must be at least 1"),
    ],
)
def test_bad_sets_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
