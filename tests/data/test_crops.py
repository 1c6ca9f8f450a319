from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqaudio.data.crops import Batch, CropConfig, SpeechCrops, preload_device, validation_batches
from vqaudio.data.mulaw import mulaw_encode
from vqaudio.data.packed import PackedSpeech

CFG = CropConfig(samples=1000, batch_size=8, seed=3)


def _assert_equal(left: Batch, right: Batch) -> None:
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], rtol=0, atol=0)


def _joined(batches: list[Batch]) -> Batch:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_batch_has_the_shapes_and_types_of_the_contract(packed) -> None:
    batch = SpeechCrops(packed, CFG).batch(0)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "wav": ((8, 1, 1000), torch.float32),
        "target": ((8, 1000), torch.int64),
        "audio": ((8, 1000), torch.float32),
        "speaker": ((8,), torch.int64),
        "lengths": ((8,), torch.int64),
    }


@settings(max_examples=25, deadline=None)
@given(step=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1), parts=st.sampled_from([2, 3, 4, 5, 8]))
def test_parts_joined_equal_the_whole(packed, step, seed, parts) -> None:
    crops = SpeechCrops(packed, replace(CFG, seed=seed))
    slices = [crops.batch(step, part, parts) for part in range(parts)]
    _assert_equal(_joined(slices), crops.batch(step))


def test_batch_is_a_pure_function_of_seed_and_step(packed) -> None:
    crops = SpeechCrops(packed, CFG)
    forwards = [crops.batch(step) for step in range(5)]
    other = SpeechCrops(packed, CFG)
    backwards = [other.batch(step) for step in reversed(range(5))][::-1]
    for left, right in zip(forwards, backwards, strict=True):
        _assert_equal(left, right)
    wavs = [batch["wav"] for batch in forwards]
    wavs.append(SpeechCrops(packed, replace(CFG, seed=4)).batch(0)["wav"])
    for i, left in enumerate(wavs):
        for right in wavs[i + 1 :]:
            assert not torch.equal(left, right)


def test_example_does_not_depend_on_the_batch_size(packed) -> None:
    large = SpeechCrops(packed, replace(CFG, batch_size=32)).batch(7)
    small = SpeechCrops(packed, replace(CFG, batch_size=4)).batch(7)
    _assert_equal({key: value[:4] for key, value in large.items()}, small)


@pytest.mark.parametrize("samples", [1, 500, 1000, 16000, 20000])
def test_every_crop_is_a_piece_of_its_speaker(packed, samples) -> None:
    crops = SpeechCrops(packed, CropConfig(samples=samples, batch_size=16))
    audio = {
        s: b"|".join(packed.audio(i).tobytes() for i in range(len(packed)) if packed.speaker_ids[i] == s)
        for s in range(len(packed.speakers))
    }
    for step in range(4):
        batch = crops.batch(step)
        for wav, speaker, length in zip(batch["wav"], batch["speaker"], batch["lengths"], strict=True):
            pcm = (wav[0, :length] * 32768).to(torch.int16).numpy()
            assert pcm.tobytes() in audio[int(speaker)]


@pytest.mark.parametrize("classes", [256, 1024])
def test_target_is_the_mulaw_class_of_the_wav(packed, classes) -> None:
    batch = SpeechCrops(packed, CFG, num_classes=classes).batch(0)
    torch.testing.assert_close(batch["target"], mulaw_encode(batch["wav"][:, 0], classes))


def test_short_utterances_are_padded_with_silence_at_the_right(packed) -> None:
    batch = SpeechCrops(packed, CropConfig(samples=1000, batch_size=64, speaker_balance=1)).batch(0)
    short = batch["speaker"] == packed.speakers.index("c")  # its only utterance has 800 samples
    assert 0 < short.sum() < 64
    assert torch.all(batch["lengths"][short] == 800)
    assert torch.all(batch["lengths"][~short] == 1000)
    assert torch.all(batch["wav"][short, :, 800:] == 0)
    assert torch.all(batch["target"][short, 800:] == 128)
    expected = torch.from_numpy(packed.audio(packed.utterance_ids.index("c_0")) / 32768).float()
    assert torch.all(batch["wav"][short, 0, :800] == expected)


def test_target_shift_offsets_the_encoder_input(packed) -> None:
    plain, shifted = (SpeechCrops(packed, replace(CFG, batch_size=64, target_shift=s)).batch(3) for s in (0, 128))
    for name in ("target", "speaker", "lengths"):
        assert torch.equal(plain[name], shifted[name])
    found = []
    for target, source, length in zip(plain["wav"][:, 0], shifted["wav"][:, 0], plain["lengths"], strict=True):
        middle = target[200 : length - 200]
        places = source[: int(length)].unfold(0, len(middle), 1)  # offset of the target in the encoder input
        (at,) = (places == middle).all(1).nonzero().flatten().tolist()
        found.append(at - 200)
    assert min(found) < -64 and max(found) > 64 and min(found) >= -128 and max(found) <= 128


def test_gain_scales_the_encoder_input(packed) -> None:
    plain, louder = (SpeechCrops(packed, replace(CFG, batch_size=64, gain_db=g)) for g in (0.0, 12.0))
    unscaled, scaled = plain.batch(3), louder.batch(3)
    for name in ("target", "speaker", "lengths"):
        assert torch.equal(unscaled[name], scaled[name])
    loud = unscaled["wav"].abs().amax((1, 2))
    gains = 20 * torch.log10(scaled["wav"].abs().amax((1, 2)) / loud)
    torch.testing.assert_close(scaled["wav"], unscaled["wav"] * 10 ** (gains / 20)[:, None, None])
    assert -12 <= gains.min() < -8 and 8 < gains.max() <= 12
    _assert_equal(_joined([louder.batch(3, part, 3) for part in range(3)]), scaled)


def test_a_shift_beyond_an_utterance_is_silence(packed) -> None:
    crops = SpeechCrops(packed, replace(CFG, samples=20000, batch_size=64, target_shift=20000, speaker_balance=1))
    batch = crops.batch(0)
    assert batch["wav"].shape == (64, 1, 20000)
    short = batch["wav"][batch["speaker"] == packed.speakers.index("c"), 0]  # its utterance has 800 samples
    assert (short == 0).all(1).any() and (short != 0).any(1).any()
    assert (short[:, 800:] == 0).all()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_speaker_frequencies_follow_the_balance(packed, balance) -> None:
    cfg = CropConfig(samples=1, batch_size=4000, speaker_balance=balance)
    counts = torch.bincount(SpeechCrops(packed, cfg).batch(0)["speaker"], minlength=3)
    seconds = np.bincount(packed.speaker_ids, weights=packed.lengths)
    expected = seconds ** (1 - balance) / (seconds ** (1 - balance)).sum()
    # five standard deviations of a binomial
    tolerance = 5 * np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(counts.numpy() / 4000 - expected) < tolerance)


def test_all_positions_of_a_speaker_are_equally_likely() -> None:
    """Lengths 3, 5 and 2 with crops of 2: 2 + 4 + 1 positions, and every one is reached."""
    lengths = np.array([3, 5, 2])
    packed = PackedSpeech(
        sample_rate=16000,
        speakers=("a",),
        utterance_ids=("x", "y", "z"),
        offsets=np.array([0, 3, 8]),
        lengths=lengths,
        speaker_ids=np.zeros(3, np.int64),
        samples=np.arange(10, dtype=np.int16),
        source_hash="",
    )
    batch = SpeechCrops(packed, CropConfig(samples=2, batch_size=7000)).batch(0)
    starts = Counter((batch["wav"][:, 0, 0] * 32768).int().tolist())
    assert set(starts) == {0, 1, 3, 4, 5, 6, 8}
    assert all(abs(count - 1000) < 160 for count in starts.values())


def test_every_part_has_a_crop(packed) -> None:
    crops = SpeechCrops(packed, CFG)
    with pytest.raises(ValueError, match=r"batch_size 8 cannot be divided into 9 slices .* choose at least 9"):
        crops.batch(0, 0, 9)
    with pytest.raises(ValueError, match="part must lie in 0 to 1, got 2"):
        crops.batch(0, 2, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("speaker_balance", 1.1),
        ("speaker_balance", float("nan")),
        ("target_shift", -1),
        ("target_shift", 5121),
    ],
)
def test_config_checks_itself(field, value) -> None:
    with pytest.raises(ValueError, match=rf"{field} must .* got {value}"):
        CropConfig(**{field: value})


def test_validation_batches_are_fixed_and_even(packed) -> None:
    batches = validation_batches(packed, 1000, batch_size=5, num_batches=4)
    assert [len(batch["speaker"]) for batch in batches] == [5, 5, 5, 5]
    counts = torch.bincount(_joined(batches)["speaker"])
    assert sorted(counts.tolist()) == [6, 7, 7]
    _assert_equal(_joined(validation_batches(packed, 1000, 5, 4)), _joined(batches))
    other = _joined(validation_batches(packed, 1000, 5, 4, seed=1))
    assert not torch.equal(other["wav"], _joined(batches)["wav"])
    torch.testing.assert_close(other["target"], mulaw_encode(other["wav"][:, 0]))


def test_validation_uses_every_utterance_before_repeating_one(packed) -> None:
    """18 crops of whole utterances: a's 6 once each, b's 3 twice, c's 1 six times."""
    batch = _joined(validation_batches(packed, 16005, batch_size=6, num_batches=3))
    found = Counter(
        (int(speaker), int(length)) for speaker, length in zip(batch["speaker"], batch["lengths"], strict=True)
    )
    assert found == Counter(
        {(0, 16000 + i): 1 for i in range(6)} | {(1, 8000 + i): 2 for i in range(3)} | {(2, 800): 6}
    )


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_validation_checks_its_sizes(packed, sizes) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        validation_batches(packed, *sizes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"samples": 20_000},  # longer than every utterance
        {"target_shift": 900, "gain_db": 6.0},
        {"past": 640, "future": 100, "target_shift": 50},
    ],
)
def test_speech_that_is_preloaded_to_a_device_has_the_same_crops_to_the_bit(packed, options) -> None:
    cfg = replace(CFG, **options)
    mapped, held = SpeechCrops(packed, cfg), SpeechCrops(packed, cfg, preload_to=torch.device("cpu"))
    for step in range(20):
        for part in range(3):
            left, right = mapped.batch(step, part, 3), held.batch(step, part, 3)
            _assert_equal(left, right)
            assert all(left[name].dtype == right[name].dtype for name in left)


def test_speech_is_preloaded_to_a_gpu_alone_and_where_it_fits(packed) -> None:
    assert preload_device("auto", packed, torch.device("cpu")) is None
    assert preload_device("cpu", packed, torch.device("cuda")) is None
    with pytest.raises(ValueError, match="device must be 'auto' or 'cpu', got 'cuda'"):
        CropConfig(device="cuda")  # pyright: ignore[reportArgumentType]


def test_crops_of_a_gpu_wait_for_nothing(packed) -> None:
    """On fake tensors, which have no values; what is copied to the device is not waited for."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    crops = SpeechCrops(packed, replace(CFG, past=64, future=10, target_shift=5))
    with FakeTensorMode(allow_non_fake_inputs=True):
        source = crops._source
        source._preloaded = torch.empty(len(packed.samples), dtype=torch.int16, device="cuda")
        source.classes = torch.empty(65536, dtype=torch.int64, device="cuda")
        batch = crops.batch(0)
    assert {name for name, value in batch.items() if value.device.type == "cuda"} == {
        *("wav", "target", "audio", "past", "future")
    }
