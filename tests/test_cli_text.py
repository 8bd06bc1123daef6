"""Tokens on the command line, and the numbers they are judged by."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsamplers as js
from experiments import token_study
from jaxsamplers import token_comparison, token_quality
from jaxsamplers.cli import main
from jaxsamplers.discrete.chain import chain_posterior, markov_chain

VOCAB, LENGTH = 3, 4
CONFIG = str(Path(__file__).parent.parent / "configs" / "token_study.py")
EVERY = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))


def order_two():
    random = np.random.default_rng(0)
    table, start = random.random((3, 3, 3)), random.random((3, 3))
    return markov_chain(table / table.sum(-1, keepdims=True), start / start.sum())


@pytest.fixture
def laws(x64):
    """Chains of order 1 (countdown) and 2, each with the probability of all sequences by their definition."""
    count, two = token_study.countdown(VOCAB, 0.1), order_two()
    table, start = np.asarray(count.transition)[:, 0], np.asarray(count.start)[:, 0]
    first = [np.prod([start @ table[:, s[0]], *(table[a, b] for a, b in itertools.pairwise(s))]) for s in EVERY]
    table, start = np.asarray(two.transition), np.asarray(two.start)
    second = [
        sum(
            start[a, b] * np.prod([table[x, y, z] for x, y, z in zip((a, b, *s), (b, *s), s, strict=False)])
            for a, b in itertools.product(range(VOCAB), repeat=2)
        )
        for s in EVERY
    ]
    return [(count, np.array(first)), (two, np.array(second))]


def test_numbers_of_a_chain_are_those_of_its_enumeration(laws):
    for chain, law in laws:
        np.testing.assert_allclose(law.sum(), 1)
        np.testing.assert_allclose(token_quality.log_likelihood(chain, EVERY), np.log(law), rtol=1e-10)
        own = token_quality.expected(chain, LENGTH)
        np.testing.assert_allclose(own["log_likelihood"], law @ np.log(law) / LENGTH, rtol=1e-10)
        pairs = np.zeros((VOCAB, VOCAB))
        for sequence, p in zip(EVERY, law, strict=True):
            for a, b in itertools.pairwise(sequence):
                pairs[a, b] += p / (LENGTH - 1)
        np.testing.assert_allclose(token_quality.pair_law(chain, LENGTH), pairs, rtol=1e-10)
        entropy = -np.sum(pairs * np.log(pairs / pairs.sum(1, keepdims=True)))
        np.testing.assert_allclose(own["entropy"], entropy, rtol=1e-10)


def test_exact_samples_have_the_law(laws):
    for chain, law in laws:
        drawn = token_quality.draw(chain, 1, 20_000, LENGTH) @ VOCAB ** np.arange(LENGTH - 1, -1, -1)
        seen = np.bincount(drawn, minlength=len(EVERY))
        expected = law * 20_000
        assert np.sum((seen - expected) ** 2 / expected) < len(EVERY) + 6 * np.sqrt(2 * len(EVERY))


def test_quality_of_given_tokens(laws):
    chain, _ = laws[0]
    x = np.array([[2, 1, 0], [2, 1, 2]])
    law = token_quality.pair_law(chain, 3)
    found = token_quality.quality(chain, x)
    share = np.zeros((3, 3))
    share[2, 1], share[1, 0], share[1, 2] = 0.5, 0.25, 0.25
    np.testing.assert_allclose(found["total_variation"], np.abs(share - law).sum() / 2)
    np.testing.assert_allclose(found["entropy"], 0.5 * np.log(2))
    np.testing.assert_allclose(found["kl"], sum(p * np.log(p / q) for p, q in zip(share.flat, law.flat) if p))  # noqa: B905


def test_the_posterior_of_countdown_is_bayes_rule(laws):
    (chain, law), process = laws[0], js.discrete.masked(VOCAB)
    tokens = jnp.array([[3, 3, 1, 3], [2, 3, 3, 3], [3, 2, 2, 3]])  # 3 is the mask; the last contradicts the rule
    found = jax.nn.softmax(chain_posterior(chain, process)(tokens, jnp.array(0.5)), axis=-1)
    for x, posterior in zip(np.asarray(tokens), np.asarray(found), strict=True):
        fits = law * ((x == 3) | (x == EVERY)).all(1)
        for i, p in enumerate(posterior):
            np.testing.assert_allclose(p, [fits[EVERY[:, i] == v].sum() / fits.sum() for v in range(3)], atol=1e-9)


def test_violations_and_the_published_count():
    x = np.array([[3, 2, 1, 0, 7, 6], [3, 3, 3, 3, 3, 3]])
    found = token_study.violations(x)
    assert found["violations"] == 5 / 10
    assert found["check_err"] == 3 / 10  # 0-1, 2-3 and 4-5 of the second


def test_padded_rows_are_never_run():
    process, length = js.discrete.uniform(VOCAB), 5
    model = chain_posterior(token_study.countdown(VOCAB, 0.1), process)
    x, key = process.prior(jax.random.key(0), (8, length)), jax.random.key(1)
    sampler = token_comparison.within("ancestral", process, 2, length)
    padded = token_comparison.run_first(token_comparison.padded(sampler, 4), 2, model, x, key)
    assert (padded != x).any()
    np.testing.assert_array_equal(padded, jax.jit(js.sample)(sampler, model, x, key))


def test_numbers_of_calls():
    masked, uniform = js.discrete.masked(VOCAB), js.discrete.uniform(VOCAB)
    made = lambda *given: token_comparison.within(*given)
    assert js.network_calls(made("theta_trapezoidal", uniform, 8, 5)) == 7
    assert js.network_calls(made("first_hitting", masked, 8, 5)) == 5
    assert js.network_calls(made("glauber_generative", masked, 11, 5)) == 10
    assert "needs 5 steps or more, got 4" in made("first_hitting", masked, 4, 5)
    assert "needs a masked process" in made("ordered", uniform, 4, 5)


def test_the_study_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    names = "samplers=('ancestral', 'glauber', 'ancestral, then glauber', 'ancestral, four blocks')"
    chosen = ["problems=('countdown',)", "lengths=(4,)", names, "calls=(4,)", "count=8"]
    command = ["--config", CONFIG, "--set", *chosen, "--out", str(tmp_path)]
    assert token_study.main(command) == 0
    exact, sampled, refused, repaired, in_blocks = json.loads((tmp_path / "tokens.json").read_text())["results"]
    assert (exact["violations"], exact["check_err"]) == (0, 0)
    assert sampled["calls"] == repaired["calls"] == in_blocks["calls"] == 4
    assert 0 < sampled["violations"] < 1
    assert repaired["violations"] < 1
    assert in_blocks["violations"] < 0.1  # one token a call
    assert "glauber repairs" in refused["refused"]
    assert (tmp_path / "tokens-countdown.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "tokens.json").read_text()
    monkeypatch.setattr(token_study, "measure", None)
    assert token_study.main(command) == 0
    assert (tmp_path / "tokens.json").read_text() == before
    assert "ancestral" in (tmp_path / "tokens.md").read_text()
    assert token_study.main(["--config", CONFIG, "--set", "samplers=('ancestrl',)", "--out", str(tmp_path)]) == 1
    assert "unknown samplers 'ancestrl': did you mean ancestral" in capsys.readouterr().err


def test_digits_are_judged_by_others():
    """Images are nearer to images than the same pixels in any order, which have the same entropy."""
    settings = token_study.Settings(problems=("trained digits",), lengths=(64,))
    problem = token_study.PROBLEMS["trained digits"](settings)
    images = np.asarray(problem.exact(0, 64, 64))
    assert images.shape == (64, 64)
    assert (images < problem.vocab).all()
    mixed = problem.judge(np.random.default_rng(0).permuted(images, axis=1))
    real = problem.judge(images)
    assert mixed["distance"] > 5 * real["distance"] > 0
    assert mixed["entropy"] == pytest.approx(real["entropy"])
    with pytest.raises(ValueError, match="process must be masked"):
        token_study.PROBLEMS["trained digits"](token_study.Settings(process="uniform"))


def test_sample_writes_lines_and_their_numbers(tmp_path, capsys):
    out, lines = tmp_path / "lines.txt", []
    command = ["sample", "--data", "text", "--count", "4", "--length", "12", "--order", "1", "--steps", "3"]
    for seed in ("3", "3", "4"):
        assert main([*command, "--seed", seed, "--out", str(out)]) == 0
        lines.append(out.read_text().splitlines())
    assert lines[0] == lines[1] != lines[2]
    assert [len(line) for line in lines[0]] == [12] * 4
    assert not set("".join(lines[0])) - set(js.discrete.text.ALPHABET)
    printed = capsys.readouterr().out
    own = token_quality.expected(js.discrete.text.characters(1), 12)
    for words in ("network calls            3", "to compile", f"the true model: {own['log_likelihood']:.3f}"):
        assert words in printed


def test_digits_are_drawn_as_tokens(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["sample", "--data", "digits-tokens", "--count", "4", "--steps", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "network calls            2" in printed
    assert "distance to held-out" in printed


def test_compare_draws_all_numbers_side_by_side(tmp_path, capsys):
    out = tmp_path / "compare.png"
    command = ["compare", "--data", "text", "--calls", "1", "8", "--count", "64", "--length", "8", "--out", str(out)]
    assert main([*command, "--solver", "ancestral", "--solver", "glauber"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert set(numbers["samplers"]) == {"ancestral"}
    one, eight = numbers["samplers"]["ancestral"]
    assert (one["calls"], eight["calls"]) == (1, 8)
    assert one["kl"] > 3 * eight["kl"] > 0
    assert "glauber repairs what another sampler returned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["sample", "--data", "text", "--solver", "unipc"], "unipc solves for pixels; of tokens there are ancestral"),
        (["sample", "--data", "text", "--solver", "ancestrl"], "unknown solver 'ancestrl': did you mean ancestral"),
        (["sample", "--data", "text", "--process", "edm"], "known: masked, uniform, marginal"),
        (["sample", "--data", "text", "--trajectory"], "--trajectory draws the path of an image's noise"),
        (["sample", "--data", "text", "--solver", "glauber"], "glauber repairs what another sampler returned"),
        (["sample", "--data", "text", "--solver", "d3pm"], "d3pm needs matrices"),
        (["sample", "--data", "text", "--solver", "ddpd"], "ddpd needs a uniform or marginal process"),
        (["sample", "--data", "text", "--solver", "first_hitting"], "it needs 64 steps or more, got 20"),
        (["sample", "--data", "text", "--solver", "remdm_loop"], "remdm_loop needs the options at and loops"),
        (
            ["sample", "--data", "text", "--solver", "remdm_loop", "--option", "at=soon"],
            "option at must be an integer, got 'soon'",
        ),
        (["sample", "--data", "text", "--schedule", "karras"], "schedule karras is made of noise levels"),
        (["sample", "--data", "text", "--option", "final=best"], "unknown final 'best'"),
        (["sample", "--data", "text", "--count", "0"], "--count must be at least 1, got 0"),
        (["sample", "--data", "text", "--length", "2"], "--length must be at least 3, got 2"),
        (["sample", "--data", "text", "--out", "nowhere/lines.txt"], "there is no folder nowhere"),
        (["sample", "--data", "txt"], "unknown data 'txt': did you mean text"),
        (["sample", "--length", "9"], "--length is for --data text"),
        (["sample", "--data", "digits-tokens", "--process", "uniform"], "was trained on masks: --process masked"),
        (["compare", "--data", "digits"], "unknown data 'digits': known: text"),
        (["compare", "--data", "text", "--solver", "heun"], "heun solves for pixels"),
        (["compare", "--data", "text", "--schedule", "all"], "--schedule is not for --data text"),
        (["compare", "--data", "text", "--calls", "0"], "--calls must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
