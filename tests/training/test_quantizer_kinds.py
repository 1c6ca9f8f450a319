"""Each kind of quantizer end to end: training, saving, loading, tokenizing, decoding."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from vqaudio import load_model
from vqaudio.cli.main import main
from vqaudio.data.audio import read_audio
from vqaudio.training.metrics_file import read_metrics

STEPS = 40
FIT = ("--fit.steps", STEPS, "--fit.lr", 5e-3, "--fit.lr_warmup_steps", 5, "--fit.evaluate_every", STEPS)
PASSES = ("--fit.gradient_accumulation_steps", 2)
KINDS = {
    "fsq": (["--model.quantizer.kind", "fsq", "--model.quantizer.levels", "5", "3", "3"], 45),
    "rotation": (["--model.quantizer.rotation-trick"], 16),
    "simvq": (["--model.quantizer.codebook-update", "simvq", "--model.quantizer.restart-threshold", "0"], 16),
}
WAV = Path(__file__).parents[2] / "egs/mini/wav16"


@pytest.fixture(scope="module", params=KINDS)
def trained(request, host, runs: Path, tiny: Path, recipe: Path) -> tuple[Path, int]:
    """A folder with a model of each kind, trained by the recipe; its number of codes."""
    flags, size = KINDS[request.param]
    out = runs / request.param
    host.start(recipe, tiny, "--out", out, *FIT, *PASSES, *flags).finish()
    return out, size


def test_it_is_trained_and_logged(trained) -> None:
    out, size = trained
    rows = [row for row in read_metrics(out / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[-1]["step"] == STEPS
    assert rows[-1]["bits_per_sample"] < rows[0]["bits_per_sample"] - 0.2
    assert all(1 <= row["perplexity"] <= size and 0 < row["usage"] <= 1 for row in rows)
    assert all(row["gradient_norm/encoder"] > 0 for row in rows)
    updates = load_model(out).get_submodule("quantizer").get_buffer("updates")
    assert updates.item() == STEPS  # one for each optimizer step, whatever its forward passes


def test_it_tokenizes_equally_alone_batched_and_streamed_and_decodes(trained) -> None:
    out, size = trained
    model = load_model(out)
    assert model.codebook_size == size
    wavs = [torch.from_numpy(read_audio(path, 16000)) for path in sorted(WAV.rglob("*.flac"))[:3]]
    tokens = [model.tokenize(wav, 16000) for wav in wavs]
    assert len(torch.cat([t.codes for t in tokens]).unique()) > 1
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)[:, None]
    codes, numbers = model.encode(batch, torch.tensor([len(wav) for wav in wavs]))
    for own, row, number, wav in zip(tokens, codes, numbers.tolist(), wavs, strict=True):
        assert torch.equal(own.codes, row[:number])
        cuts = [0, 1, 500, 501, 9000, len(wav)]
        streamed = torch.cat(list(model.encode_stream(wav[a:b] for a, b in pairwise(cuts))))
        assert torch.equal(own.codes, streamed)
    short = model.tokenize(wavs[0][:2000], 16000)
    speaker = model.speakers[0]
    whole = model.decode(short, speaker)
    assert whole.shape == (2000,) and whole.isfinite().all()
    assert torch.equal(whole, torch.cat(list(model.decode_stream(short, speaker))))
    z, _ = model.encoder(wavs[0][None, None])
    q = model.quantizer(model.normalizer(z))
    torch.testing.assert_close(model.quantizer.decode(q.codes), q.z_q, rtol=0, atol=1e-6)


def test_its_fingerprint_is_unique_and_printed_by_vqaudio_info(trained, capsys) -> None:
    out, size = trained
    model = load_model(out)
    assert main(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    assert model.fingerprint in printed and f"{size} codes of dimension 8" in printed
    weights = model.quantizer.code_weights()
    for weight in weights.values():
        before = model.fingerprint
        weight.data.mul_(1.5)
        assert model.fingerprint != before
