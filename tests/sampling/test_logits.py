import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.sampling.config import SamplingConfig
from vqaudio.sampling.logits import draw, nucleus, uniforms

LOGITS = torch.tensor([2.0, -1.0, 0.5, 0.0, -3.0, 1.0, 1.5])


def _many(logits: torch.Tensor, sampling: SamplingConfig = SamplingConfig(), count: int = 20_000):
    """How often each class is drawn, (Q,) float64."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    classes = draw(logits.expand(count, -1), uniform, sampling)
    return torch.bincount(classes, minlength=len(logits)).double()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("top_p", [None, 0.8])
def test_frequencies_follow_the_softmax(temperature, top_k, top_p) -> None:
    counts = _many(LOGITS, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p))
    weights = torch.exp(LOGITS.double() / temperature)
    if top_k is not None:
        weights[LOGITS.argsort(descending=True)[top_k:]] = 0
    if top_p is not None:
        order, taken = weights.argsort(descending=True).tolist(), 0.0
        for q in order:
            weights[q], taken = 0 if taken >= top_p * float(weights.sum()) else weights[q], taken + float(weights[q])
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
    chosen = draw(row, torch.tensor([uniform]), SamplingConfig(temperature=temperature, top_k=top_k)).item()
    assert row[0, int(chosen)] >= row[0].sort(descending=True).values[min(top_k, len(logits)) - 1]


def test_classes_of_probability_0_are_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for uniform in (0.0, 0.25, 0.5, 0.75, 1 - 2**-24):
        assert draw(logits, torch.tensor([uniform]), SamplingConfig()).item() in (1, 3)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"top_k": 1}, {"temperature": 0.0, "top_k": 3}, {"top_p": 0.2}, {"top_p": 1e-300}]
)
def test_greedy_takes_the_first_of_the_most_likely(options) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    assert draw(logits, torch.tensor([0.99, 0.99]), SamplingConfig(**options)).tolist() == [1, 0]


def test_low_temperatures_approach_greedy() -> None:
    for temperature in (1e-2, 1e-6, 1e-20):
        assert _many(LOGITS, SamplingConfig(temperature=temperature), count=100)[0] == 100


def test_top_k_of_all_classes_is_no_limit() -> None:
    for top_k in (len(LOGITS), len(LOGITS) + 5):
        assert torch.equal(_many(LOGITS, SamplingConfig(top_k=top_k)), _many(LOGITS))


def test_larger_uniforms_never_take_earlier_classes() -> None:
    uniform = torch.linspace(0, 1 - 2**-24, 500)
    classes = draw(LOGITS.expand(500, -1), uniform, SamplingConfig())
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


# ------------------------------------------------------------------------------------------------- top-p


def test_the_nucleus_by_hand() -> None:
    """Ordered by probability and, where that is equal, by index: 0.5, 0.125 (class 0), 0.125 (class 3), 0.125 (4)."""
    probabilities = torch.tensor([[0.125, 0.0625, 0.5, 0.125, 0.125, 0.0625]])
    for top_p, kept in [
        (0.25, [2]),
        (0.5, [2]),  # reached exactly
        (0.51, [0, 2]),
        (0.625, [0, 2]),
        (0.7, [0, 2, 3]),
        (0.875, [0, 2, 3, 4]),
        (0.9, [0, 1, 2, 3, 4]),
        (0.95, [0, 1, 2, 3, 4, 5]),
    ]:
        found = nucleus(probabilities, top_p)[0]
        assert found.nonzero().flatten().tolist() == kept
        assert torch.equal(found[kept], probabilities[0, kept])


@settings(max_examples=200, deadline=None)
@given(
    logits=st.lists(st.integers(-5, 5), min_size=1, max_size=12),  # of which many are equal
    top_p=st.floats(1e-3, 1, exclude_max=True),
)
def test_the_nucleus_is_the_smallest_set_that_reaches_p(logits, top_p) -> None:
    probabilities = torch.softmax(torch.tensor([logits]).double(), 1)
    found = nucleus(probabilities, top_p)[0]
    kept, p = found > 0, probabilities[0]
    assert found.sum() > top_p - 1e-12
    assert p[kept].sum() - p[kept].min() < top_p + 1e-12  # with one class less it would not reach p
    assert kept.all() or p[kept].min() >= p[~kept].max()
    last = [q for q in range(len(logits)) if p[q] == p[kept].min()]
    assert kept[last].tolist() == sorted(kept[last].tolist(), reverse=True)  # of equals the first


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12),
    uniforms=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=20),
    temperature=st.floats(0.05, 10),
    top_k=st.one_of(st.none(), st.integers(1, 15)),
)
def test_top_p_of_1_changes_nothing(logits, uniforms, temperature, top_k) -> None:
    rows = torch.tensor([logits] * len(uniforms))
    every, none = (
        draw(rows, torch.tensor(uniforms), SamplingConfig(temperature=temperature, top_k=top_k, top_p=p))
        for p in (1.0, None)
    )
    assert torch.equal(every, none)


def test_top_p_is_applied_after_temperature_and_top_k() -> None:
    """Of the probabilities 0.5, 0.3, 0.2, p = 0.6 keeps two; of the first two alone, renormalised, 0.625 is enough."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert (_many(logits, SamplingConfig(top_p=0.6)) > 0).tolist() == [True, True, False]
    assert (_many(logits, SamplingConfig(top_p=0.6, top_k=2)) > 0).tolist() == [True, False, False]
    assert (_many(logits, SamplingConfig(top_p=0.6, temperature=4.0)) > 0).tolist() == [True, True, False]
    assert (_many(logits, SamplingConfig(top_p=0.6, temperature=0.5)) > 0).tolist() == [True, False, False]
