import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vqaudio.nn.conv import CausalConv1d
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig, gate

SMALL = {
    "num_classes": 10,
    "layers": 4,
    "layers_per_stack": 3,
    "residual_channels": 4,
    "skip_channels": 5,
    "hop": 4,
    "cond_hidden_channels": 6,
}
WITH = {"none": {}, "cond": {"cond_dim": 3}, "speaker": {"num_speakers": 2}, "both": {"cond_dim": 3, "num_speakers": 2}}


def _inputs(cfg: WaveNetConfig, steps: int, batch: int = 2, seed: int = 0):
    """x (B, T), cond (B, D, N) | None, speaker (B,) | None in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(cfg.num_classes + 1, (batch, steps), generator=generator)
    frames = -(-steps // cfg.hop)
    cond = torch.randn(batch, cfg.cond_dim, frames, generator=generator, dtype=torch.float64)
    return x, cond if cfg.cond_dim else None, torch.arange(batch) % cfg.num_speakers if cfg.num_speakers else None


def _net(randomise, **options) -> WaveNet:
    return randomise(WaveNet(WaveNetConfig(**{**SMALL, **options}))).double().requires_grad_(False)


def _chunked(net: WaveNet, x: Tensor, cond: Tensor | None, speaker: Tensor | None, chunks: list[int]) -> Tensor:
    hop, position, state, pieces = net.cfg.hop, 0, None, []
    for chunk in x.split(chunks, dim=1):
        end = position + chunk.shape[1]
        frames = None if cond is None else cond[:, :, position // hop : -(-end // hop)]
        logits, state = net(chunk, frames, speaker, state)
        pieces.append(logits)
        position = end
    return torch.cat(pieces, dim=2)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("kind", WITH)
def test_equals_the_paper_written_out(randomise, kind, kernel_size) -> None:
    net = _net(randomise, **WITH[kind], kernel_size=kernel_size)
    x, cond, speaker = _inputs(net.cfg, 33)
    r = net.cfg.residual_channels
    bias = torch.zeros(2, 33, net.cfg.layers * 2 * r).double()
    if cond is not None or speaker is not None:
        hidden = torch.zeros(2, 33, net.cfg.cond_hidden_channels).double()
        if cond is not None and net.condition is not None:
            hidden += net.condition(cond.repeat_interleave(net.cfg.hop, dim=2)[:, :, :33].transpose(1, 2))
        if speaker is not None and net.speaker is not None:
            hidden += net.speaker(speaker)[:, None]
        assert net.project is not None
        bias += net.project(F.relu(hidden))
    h, skips = net.embed(x).transpose(1, 2), []  # (B, R, T)
    for layer, dilation in enumerate([1, 2, 4, 1]):
        conv = net.dilated[layer]
        assert isinstance(conv, CausalConv1d)
        y = F.conv1d(F.pad(h, ((kernel_size - 1) * dilation, 0)), conv.weight, conv.bias, dilation=dilation)
        y = y + bias[:, :, layer * 2 * r : (layer + 1) * 2 * r].transpose(1, 2)
        z = torch.tanh(y[:, :r]) * torch.sigmoid(y[:, r:])
        skips.append(net.skip.weight[:, layer * r : (layer + 1) * r] @ z)
        if layer < 3:
            h = h + net.residual[layer](z.transpose(1, 2)).transpose(1, 2)
    s = F.relu(torch.stack(skips).sum(0).transpose(1, 2) + net.skip.bias)
    expected = net.out(F.relu(net.head(s))).transpose(1, 2)
    logits, state = net(x, cond, speaker)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    assert state.position == 33


@pytest.mark.parametrize("kind", WITH)
@pytest.mark.parametrize("frames", [1, 7, 64])
@pytest.mark.parametrize("steps", [64 * 4 * 2, 64 * 4 + 3, 30])
def test_chunked_in_frames_equals_whole(randomise, steps, frames, kind) -> None:
    net = _net(randomise, **WITH[kind])
    inputs = _inputs(net.cfg, steps)
    size = frames * net.cfg.hop
    chunks = [size] * (steps // size) + ([steps % size] if steps % size else [])
    torch.testing.assert_close(_chunked(net, *inputs, chunks), net(*inputs)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WITH)
def test_single_steps_equal_whole_in_float32(randomise, kind) -> None:
    net = _net(randomise, **WITH[kind]).float()
    x, cond, speaker = _inputs(net.cfg, 41)
    cond = None if cond is None else cond.float()
    whole = net(x, cond, speaker)[0]
    torch.testing.assert_close(_chunked(net, x, cond, speaker, [1] * 41), whole, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 13), min_size=1, max_size=8),
    kind=st.sampled_from(list(WITH)),
    hop=st.integers(1, 6),
    kernel_size=st.integers(2, 4),
    cycle=st.integers(1, 4),
)
def test_any_chunks_equal_whole(randomise, chunks, kind, hop, kernel_size, cycle) -> None:
    net = _net(randomise, **WITH[kind], hop=hop, kernel_size=kernel_size, layers_per_stack=cycle)
    inputs = _inputs(net.cfg, sum(chunks))
    torch.testing.assert_close(_chunked(net, *inputs, chunks), net(*inputs)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", WITH)
def test_the_future_never_changes_the_past(randomise, kind) -> None:
    net = _net(randomise, **WITH[kind]).float()
    x, cond, speaker = _inputs(net.cfg, 24)
    cond = None if cond is None else cond.float()
    before = net(x, cond, speaker)[0]
    for t in range(24):
        later = x.clone()
        later[:, t:] = (later[:, t:] + 1) % net.cfg.num_classes
        after = net(later, cond, speaker)[0]
        assert torch.equal(after[:, :, :t], before[:, :, :t])
        assert (after[:, :, t] != before[:, :, t]).any()


@pytest.mark.parametrize("steps", [24, 22])
def test_a_frame_of_conditioning_acts_from_its_first_step_on(randomise, steps) -> None:
    net = _net(randomise, cond_dim=3)
    x, cond, _ = _inputs(net.cfg, steps)
    assert cond is not None
    before = net(x, cond)[0]
    for n in range(6):
        other = cond.clone()
        other[:, :, n] += 1
        after = net(x, other)[0]
        changed = (after != before).any(1).all(0)  # (T,)
        assert not changed[: n * 4].any()
        assert changed[n * 4 : n * 4 + 4].all()


@pytest.mark.parametrize("frames", [slice(3, 4), slice(None)], ids=["one frame", "all frames"])
def test_conditioning_does_not_depend_on_whether_the_weights_require_gradients(randomise, frames) -> None:
    net = randomise(WaveNet(WaveNetConfig(**{**SMALL, "cond_dim": 5})))
    cond = torch.randn(1, 5, 40)[:, :, frames]
    with torch.no_grad():
        found = [net.requires_grad_(value).conditioning(cond, None) for value in (False, True)]
    assert torch.equal(*found)


def test_the_speaker_acts_on_every_step(randomise) -> None:
    net = _net(randomise, cond_dim=3, num_speakers=2, skip_channels=32)
    x, cond, _ = _inputs(net.cfg, 12)
    one, other = (net(x, cond, torch.full((2,), speaker))[0] for speaker in (0, 1))
    assert (one != other).any(1).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"layers": 1}, 2),
        ({"layers": 4, "layers_per_stack": 3}, 1 + 2 + 4 + 1 + 1),
        ({"layers": 3, "layers_per_stack": 2, "kernel_size": 3}, 2 * (1 + 2 + 1) + 1),
        ({"layers": 2, "layers_per_stack": 1, "kernel_size": 4}, 3 * 2 + 1),
    ],
)
def test_the_receptive_field_is_exactly_that_of_the_configuration(randomise, options, expected) -> None:
    net = _net(randomise, **options)
    assert net.cfg.receptive_field == expected
    steps = expected + 3
    x = _inputs(net.cfg, steps)[0]
    before = net(x)[0][:, :, -1]
    for back in range(1, steps + 1):  # the input `back - 1` steps before the last
        other = x.clone()
        other[:, -back] = (other[:, -back] + 1) % net.cfg.num_classes
        assert torch.equal(net(other)[0][:, :, -1], before) == (back > expected)


def test_streams_of_a_batch_are_independent(randomise) -> None:
    net = _net(randomise, cond_dim=3, num_speakers=3)
    x, cond, speaker = _inputs(net.cfg, 20, batch=3)
    assert cond is not None and speaker is not None
    together = net(x, cond, speaker)[0]
    for b in range(3):
        alone = net(x[b : b + 1], cond[b : b + 1], speaker[b : b + 1])[0]
        torch.testing.assert_close(alone[0], together[b], rtol=0, atol=1e-12)


def test_a_state_is_a_value(randomise) -> None:
    net = _net(randomise)
    x, _, _ = _inputs(net.cfg, 30)
    _, state = net(x[:, :10])
    first, _ = net(x[:, 10:20], state=state)
    net(x[:, 20:], state=state)
    again, _ = net(x[:, 10:20], state=state)
    assert torch.equal(again, first)


def test_shift_makes_the_input_that_predicts_a_target() -> None:
    net = WaveNet(WaveNetConfig(**SMALL))
    assert net.start == 10
    assert net.shift(torch.tensor([[3, 1, 2], [9, 0, 5]])).tolist() == [[10, 3, 1], [10, 9, 0]]


@pytest.mark.parametrize("options", [{"input_noise": 0.5}, {"input_dropout": 0.5}, {"past_noise": 2.0}])
def test_past_samples_are_corrupted_in_training_only(randomise, options) -> None:
    plain, disturbed = _net(randomise), _net(randomise, **options)
    disturbed.load_state_dict(plain.state_dict())
    x, _, _ = _inputs(plain.cfg, 40)
    assert torch.equal(disturbed.eval()(x)[0], plain(x)[0])
    disturbed.train()
    assert not torch.equal(disturbed(x)[0], plain(x)[0])
    changed = disturbed.corrupted_inputs(x)[x != disturbed.start]
    wrong = changed[changed != x[x != disturbed.start]]
    assert 0 < len(wrong) < x.numel()
    assert (wrong == disturbed.start).all() == ("input_dropout" in options)


def test_the_gate_is_tanh_times_sigmoid() -> None:
    y = torch.linspace(-30, 30, 60, dtype=torch.float64).view(2, 3, 10)
    expected = torch.tanh(y[..., :5]) * torch.sigmoid(y[..., 5:])
    torch.testing.assert_close(gate(y), expected, rtol=0, atol=1e-14)


def test_conditioning_that_does_not_fit_is_explained(randomise) -> None:
    x = torch.zeros(1, 10, dtype=torch.long)
    cond, speaker = torch.zeros(1, 3, 3).double(), torch.zeros(1, dtype=torch.long)
    both, neither = _net(randomise, cond_dim=3, num_speakers=2), _net(randomise)
    with pytest.raises(ValueError, match="takes a local conditioning"):
        both(x, None, speaker)
    with pytest.raises(ValueError, match="takes a speaker"):
        both(x, cond)
    with pytest.raises(ValueError, match="takes no local conditioning"):
        neither(x, cond)
    with pytest.raises(ValueError, match="takes no speaker"):
        neither(x, None, speaker)
    for frames in (1, 2, 4):
        with pytest.raises(ValueError, match=f"in 3 frames, but cond has {frames}"):
            both(x, torch.zeros(1, 3, frames).double(), speaker)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"layers_per_stack": 0}, "layers_per_stack"),
        ({"hop": 0}, "hop"),
        ({"num_classes": 1}, "classes"),
        ({"kernel_size": 1}, "kernel_size"),
        ({"cond_dim": -1}, "cond_dim"),
        ({"num_speakers": -2}, "speakers must be 0 or more.*-2"),
        ({"input_noise": 1.5}, r"input_noise must lie in \[0, 1\].*1.5"),
        ({"input_dropout": -0.1}, "input_dropout"),
        ({"past_noise": -1.0}, r"past_noise must be a finite number of classes, 0 or more, got -1\.0"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        WaveNetConfig(**options)
