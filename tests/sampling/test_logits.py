import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.sampling.logits import check_controls, draw, uniforms

LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 1.5])


def _many(logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, count: int = 20_000):
    """How often each class is drawn, (Q,) float64."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    classes = draw(logits.expand(count, -1), uniform, temperature, top_k)
    return torch.bincount(classes, minlength=len(logits)).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 4])
def test_frequencies_follow_the_softmax(temperature, top_k) -> None:
    counts = _many(LOGITS, temperature, top_k)
    weights = torch.exp(LOGITS.double() / temperature)
    if top_k is not None:
        weights[LOGITS.argsort(descending=True)[top_k:]] = 0
    expected = counts.sum() * weights / weights.sum()
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected).square() / expected)[possible].sum()
    assert chi_square < 22.5  # 99.9 % of the chi-square distribution with 6 degrees of freedom


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True, width=32),
    temperature=st.floats(0.05, 10),
    top_k=st.integers(1, 15),
)
def test_top_k_never_draws_outside(logits, uniform, temperature, top_k) -> None:
    row = torch.tensor([logits])
    chosen = draw(row, torch.tensor([uniform]), temperature, top_k).item()
    assert row[0, int(chosen)] >= row[0].sort(descending=True).values[min(top_k, len(logits)) - 1]


def test_classes_of_probability_0_are_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for uniform in (0.0, 0.25, 0.5, 0.75, 1 - 2**-24):
        assert draw(logits, torch.tensor([uniform]), 1.0, None).item() in (1, 3)


@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (1.0, 1), (0.0, 3)])
def test_greedy_takes_the_first_of_the_most_likely(temperature, top_k) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    assert draw(logits, torch.tensor([0.99, 0.99]), temperature, top_k).tolist() == [1, 0]


def test_low_temperatures_approach_greedy() -> None:
    for temperature in (1e-2, 1e-6, 1e-20):
        assert _many(LOGITS, temperature, count=100).argmax() == 0
        assert _many(LOGITS, temperature, count=100)[0] == 100


def test_top_k_of_all_classes_is_no_limit() -> None:
    for top_k in (len(LOGITS), len(LOGITS) + 5):
        assert torch.equal(_many(LOGITS, 1.0, top_k), _many(LOGITS))


def test_larger_uniforms_never_take_earlier_classes() -> None:
    uniform = torch.linspace(0, 1 - 2**-24, 500)
    classes = draw(LOGITS.expand(500, -1), uniform, 1.0, None)
    assert (classes.diff() >= 0).all()
    assert classes.unique().tolist() == list(range(7))


def test_a_generator_of_its_own_makes_a_stream_independent_of_the_others() -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    three = uniforms(3, 50, generators(5, 6, 7))
    assert three.shape == (3, 50)
    assert torch.equal(uniforms(1, 50, generators(6))[0], three[1])
    assert torch.equal(uniforms(2, 20, generators(7, 5)), three[[2, 0], :20])  # nor of the number of steps
    assert not torch.equal(three[0], three[1])
    assert 0 <= three.min() <= three.max() < 1
    with pytest.raises(ValueError, match=r"3 streams need as many generators.*2"):
        uniforms(3, 4, generators(1, 2))


def test_one_generator_for_all_streams_is_reproducible() -> None:
    first, second = (uniforms(3, 9, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("steps", "temperature", "top_k", "message"),
    [
        (-1, 1.0, None, "steps must be 0 or more, got -1"),
        (1, -0.1, None, "temperature must be .*-0.1"),
        (1, float("nan"), None, "temperature"),
        (1, float("inf"), None, "temperature"),
        (1, 1.0, 0, "top_k must be at least 1.*got 0"),
    ],
)
def test_controls_that_mean_nothing_are_refused(steps, temperature, top_k, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_controls(steps, temperature, top_k)
