import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import generate, reference, ring
from vqaudio.sampling.ring import RingStepper

WITH = {"none": {}, "cond": {"condition": 3}, "speaker": {"speakers": 2}, "both": {"condition": 3, "speakers": 2}}


def _net(randomise, **options) -> WaveNet:
    small = {"classes": 7, "layers": 4, "cycle": 3, "residual": 4, "skip": 5, "hop": 4, "hidden": 6}
    net = randomise(WaveNet(WaveNetConfig(**{**small, **options}))).requires_grad_(False)
    net.out.weight *= 4  # far from uniform: what was drawn before matters
    return net


def _given(cfg: WaveNetConfig, streams: int, steps: int) -> dict[str, Tensor]:
    """cond (B, D, N) and speaker (B,), as the net takes them."""
    generator = torch.Generator().manual_seed(1)
    inputs: dict[str, Tensor] = {}
    if cfg.condition:
        inputs["cond"] = torch.randn(streams, cfg.condition, -(-steps // cfg.hop), generator=generator)
    if cfg.speakers:
        inputs["speaker"] = torch.arange(streams) % cfg.speakers
    return inputs


def _seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(list(WITH)),
    layers=st.integers(1, 5),
    cycle=st.integers(1, 4),
    kernel_size=st.integers(2, 3),
    classes=st.integers(2, 9),
    hop=st.integers(1, 5),
    residual=st.integers(1, 4),
    steps=st.integers(0, 24),
    streams=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([None, 1, 2, 5, 20]),
    seed=st.integers(0, 99),
)
def test_the_ring_buffer_equals_the_obvious_loop(
    randomise, kind, layers, cycle, kernel_size, classes, hop, residual, steps, streams, temperature, top_k, seed
) -> None:
    shape = {"layers": layers, "cycle": cycle, "kernel_size": kernel_size, "residual": residual}
    net = _net(randomise, **WITH[kind], **shape, classes=classes, hop=hop).double()
    inputs = _given(net.cfg, streams, steps)
    if "cond" in inputs:
        inputs["cond"] = inputs["cond"].double()
    options = {**inputs, "steps": steps, "temperature": temperature, "top_k": top_k, "streams": streams}
    expected = reference.generate(net, **options, generator=torch.Generator().manual_seed(seed))
    chosen = ring.generate(net, **options, generator=torch.Generator().manual_seed(seed))
    assert chosen.shape == (streams, steps)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, expected)


@pytest.mark.parametrize("kind", WITH)
@pytest.mark.parametrize("kernel_size", [2, 3])
def test_its_logits_are_those_of_the_parallel_pass(randomise, kind, kernel_size) -> None:
    net = _net(randomise, **WITH[kind], kernel_size=kernel_size, layers=8, cycle=4, residual=16, skip=16)
    steps = 3 * net.cfg.receptive_field
    inputs = _given(net.cfg, 3, steps)
    target = torch.randint(net.cfg.classes, (3, steps), generator=torch.Generator().manual_seed(2))
    x = net.shift(target)
    expected, _ = net(x, inputs.get("cond"), inputs.get("speaker"))
    stepper = RingStepper(net, inputs.get("cond"), inputs.get("speaker"), streams=3)
    logits = torch.stack([stepper.step(x[:, t]) for t in range(steps)], dim=2)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
def test_each_stream_is_independent_of_its_neighbours(randomise, sampler) -> None:
    net = _net(randomise, **WITH["both"])
    inputs = _given(net.cfg, 3, 30)
    together = sampler(net, **inputs, steps=30, generator=_seeded(3, 4, 5))
    for b, seed in enumerate((3, 4, 5)):
        row = {name: value[b : b + 1] for name, value in inputs.items()}
        assert torch.equal(sampler(net, **row, steps=30, generator=_seeded(seed))[0], together[b])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
def test_a_longer_generation_begins_like_a_shorter_one(randomise, sampler) -> None:
    net = _net(randomise, speakers=2)
    short, long = (sampler(net, speaker=torch.tensor([1]), steps=n, generator=_seeded(0)) for n in (13, 29))
    assert torch.equal(long[:, :13], short)


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
def test_seeds_make_it_reproducible_and_different(randomise, sampler) -> None:
    net = _net(randomise)
    one, again, other = (sampler(net, steps=40, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert 0 <= one.min() <= one.max() < net.cfg.classes
    assert len(one.unique()) > 2


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
def test_it_draws_each_step_given_the_ones_before(randomise, sampler) -> None:
    """Greedy generation is a fixed point: each class is the most likely one after those before it."""
    net = _net(randomise, **WITH["both"])
    inputs = _given(net.cfg, 2, 24)
    chosen = sampler(net, **inputs, steps=24, temperature=0)
    logits, _ = net(net.shift(chosen), inputs["cond"], inputs["speaker"])
    assert torch.equal(logits.argmax(1), chosen)


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_conditioning_of_another_length_is_refused(randomise, sampler, frames) -> None:
    net = _net(randomise, condition=3)
    with pytest.raises(ValueError, match=f"10 steps .* 3 frames, but cond has {frames}"):
        sampler(net, torch.zeros(1, 3, frames), steps=10)


@pytest.mark.parametrize("sampler", [reference.generate, ring.generate])
def test_inputs_that_do_not_fit_are_refused(randomise, sampler) -> None:
    net = _net(randomise, **WITH["both"])
    cond, speaker = torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"one row for each stream, got \[2, 3\]"):
        sampler(net, cond, torch.zeros(3, dtype=torch.long), steps=12)
    with pytest.raises(ValueError, match="takes a speaker"):
        sampler(net, cond, steps=12)
    with pytest.raises(ValueError, match="temperature"):
        sampler(net, cond, speaker, steps=12, temperature=-1.0)
    with pytest.raises(ValueError, match="2 streams need as many generators"):
        sampler(net, cond, speaker, steps=12, generator=_seeded(1))


def test_the_public_sampler_is_the_fast_one() -> None:
    assert generate is ring.generate
