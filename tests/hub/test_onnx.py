"""An exported encoder, run by onnxruntime, gives the codes of the model, whole and streamed."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vqaudio
from vqaudio import SpeechVQVAE, SpeechVQVAEConfig
from vqaudio.cli.main import main
from vqaudio.data.audio import read_audio
from vqaudio.hub.onnx_tokenizer import OnnxTokenizer
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.fsq import FSQConfig
from vqaudio.nn.log_mel import LogMelConfig
from vqaudio.nn.log_mel_cmn import LogMelCMNConfig
from vqaudio.nn.pcen import PCENConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

VCTK_MINI = Path(os.environ.get("VQAUDIO_DATA", Path(__file__).parents[2] / "../shared/data")) / "vctk_mini"
MEL = {"n_mels": 10, "hop_length": 8, "win_length": 40, "f_min": 300.0}
FRONTENDS = {"log_mel": LogMelConfig(**MEL), "log_mel_cmn": LogMelCMNConfig(**MEL), "pcen": PCENConfig(**MEL)}
QUANTIZERS = {
    "plain": VectorQuantizerConfig(codebook_size=16, dim=4),
    "unit_norm": VectorQuantizerConfig(codebook_size=16, dim=4, unit_norm=True),
    "simvq": VectorQuantizerConfig(codebook_size=16, dim=4, codebook_update="simvq", restart_threshold=0.0),
    "fsq": FSQConfig(levels=(5, 3), dim=4),
}
# front-end (None: waveform), quantizer, normaliser: each kind once
KINDS = [
    (None, "plain", "frame"),
    ("log_mel", "unit_norm", "unit"),
    ("log_mel_cmn", "simvq", "batch"),
    ("pcen", "fsq", "affine"),
]


def _export(model: SpeechVQVAE, folder: Path, chunk_frames: int) -> OnnxTokenizer:
    from vqaudio.hub.onnx import export_onnx

    return OnnxTokenizer(export_onnx(model, folder, chunk_frames=chunk_frames))


def _wav(samples: int) -> np.ndarray:
    """Noise, as the codebooks of the tiny models were made from, of changing level."""
    noise = np.random.default_rng(samples).uniform(-1, 1, samples)
    return (noise * np.sin(np.arange(samples) / 300)).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize(("frontend", "quantizer", "normalizer"), KINDS)
def test_codes_are_those_of_the_model(
    tmp_path: Path,
    tiny_config: SpeechVQVAEConfig,
    initialised: Callable[..., SpeechVQVAE],
    frontend: str | None,
    quantizer: str,
    normalizer: str,
) -> None:
    encoder = tiny_config.encoder
    if frontend:
        encoder = EncoderConfig(
            strides=(2,), channels=(6,), dilations=(1, 2), dim=4, lookahead=35, frontend=FRONTENDS[frontend]
        )
    cfg = replace(tiny_config, encoder=encoder, quantizer=QUANTIZERS[quantizer], normalizer=normalizer)
    model = initialised(cfg)
    exported = _export(model, tmp_path, 70)  # more than one block of a recursive average
    for samples in (1, 36, 70 * model.hop, 4321):
        wav = _wav(samples)
        expected = model.tokenize(wav).codes.numpy()
        assert len(np.unique(expected)) > 2 or samples < 100
        found = exported.encode(wav)
        assert found.shape == expected.shape and found.dtype == np.int64
        assert (found == expected).mean() >= 0.999 and (samples > 1000 or (found == expected).all())


@pytest.fixture(scope="module")
def exported(tiny_model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the exported tiny model."""
    folder = tmp_path_factory.mktemp("onnx")
    vqaudio.save_model(tiny_model, folder / "model")
    assert main(["export", "onnx", str(folder / "model"), "--out", str(folder), "--chunk-frames", "5"]) == 0
    return folder


def test_streamed_is_whole(exported: Path, tiny_model: SpeechVQVAE) -> None:
    tokenizer, wav = OnnxTokenizer(exported), _wav(2000)
    whole = tokenizer.encode(wav)
    assert np.array_equal(whole, tiny_model.tokenize(wav).codes.numpy())
    sizes = [0, 1, 3, 0, 500, 41, 8, 1000, 447]
    pieces = np.split(wav, np.cumsum(sizes)[:-1])
    assert np.array_equal(np.concatenate(list(tokenizer.encode_stream(pieces))), whole)
    first = next(iter(tokenizer.encode_stream([wav[: 11 + 40]])))  # a chunk and the look-ahead
    assert np.array_equal(first, whole[:5])


def test_the_file_says_how_it_is_called(exported: Path, tiny_model: SpeechVQVAE) -> None:
    tokenizer = OnnxTokenizer(exported / "encoder.onnx")
    assert (tokenizer.fingerprint, tokenizer.chunk_frames) == (tiny_model.fingerprint, 5)
    assert (tokenizer.sample_rate, tokenizer.hop, tokenizer.codebook_size) == (16000, 8, 16)
    file = onnx.load(exported / "encoder.onnx")
    assert {each.domain: each.version for each in file.opset_import} == {"": tokenizer.opset}
    assert str(Path(vqaudio.__file__).parent).encode() not in (exported / "encoder.onnx").read_bytes()
    shapes = [[axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in file.graph.input]
    assert shapes[0] == [1, 1, 40] and all(size > 0 for shape in shapes for size in shape)


def test_it_runs_without_pytorch(exported: Path, tiny_model: SpeechVQVAE) -> None:
    program = """
import sys, json, numpy as np
from vqaudio.hub.onnx_tokenizer import OnnxTokenizer
codes = OnnxTokenizer(sys.argv[1]).encode(np.linspace(-0.3, 0.3, 100, dtype=np.float32))
print(json.dumps([codes.tolist(), "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program, exported], capture_output=True, text=True, check=True)
    codes, torch_imported = json.loads(done.stdout)
    assert codes == tiny_model.tokenize(torch.linspace(-0.3, 0.3, 100)).codes.tolist()
    assert not torch_imported


def test_verify_compares_the_codes(
    exported: Path, tiny_model: SpeechVQVAE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(exported / "model")
    assert main(["verify", model, "--onnx", str(exported)]) == 0
    assert "ONNX = PyTorch" in capsys.readouterr().out.splitlines()[-1]
    file = onnx.load(exported / "encoder.onnx")
    bias = next(each for each in file.graph.initializer if each.name.endswith("out.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.3, bias.name))
    onnx.save(file, tmp_path / "encoder.onnx")
    assert main(["verify", model, "--onnx", str(tmp_path)]) == 1
    assert "codes of" in (err := capsys.readouterr().err) and err.startswith("error: ONNX = PyTorch: ")
    other = copy.deepcopy(tiny_model)
    other.encoder.out.bias.add_(0.1)
    vqaudio.save_model(other, tmp_path / "other")
    assert main(["verify", str(tmp_path / "other"), "--onnx", str(exported)]) == 1
    assert "was exported from model" in capsys.readouterr().err


def test_errors(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="vqaudio export onnx MODEL --out DIR creates it"):
        OnnxTokenizer(tmp_path)
    for content in (b"", (exported / "encoder.onnx").read_bytes()[:1000]):
        (tmp_path / "encoder.onnx").write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            OnnxTokenizer(tmp_path)
    file = onnx.load(exported / "encoder.onnx")
    del file.metadata_props[:]
    onnx.save(file, tmp_path / "encoder.onnx")
    with pytest.raises(ValueError, match="format None, expected 1"):
        OnnxTokenizer(tmp_path)
    tokenizer = OnnxTokenizer(exported)
    for wav in (np.zeros((2, 100)), np.zeros(100, np.int16), np.full(100, np.nan)):
        with pytest.raises(ValueError, match="a waveform must be"):
            tokenizer.encode(wav)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="look like integers"):
        tokenizer.encode(np.full(100, 2.0**14))
    with pytest.raises(ValueError, match="at least one sample"):
        tokenizer.encode(np.zeros(0, np.float32))
    for arguments, message in [
        (["--out", str(exported)], "exists already; pass --overwrite"),
        (["--out", str(tmp_path / "encoder.onnx")], "it is a file; give the name of a folder"),
        (["--out", str(tmp_path / "new"), "--chunk-frames", "0"], "chunk_frames must lie in 1..4096"),
    ]:
        assert main(["export", "onnx", "mini", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.long
@pytest.mark.skipif(not VCTK_MINI.is_dir(), reason=f"{VCTK_MINI} is absent; set VQAUDIO_DATA")
def test_codes_of_real_speech_are_those_of_the_shipped_model(tmp_path: Path) -> None:
    model = vqaudio.load_model("mini")
    tokenizer, fingerprint = _export(model, tmp_path, 64), model.fingerprint
    different = total = 0
    for path in sorted(VCTK_MINI.rglob("*.flac")):
        wav = read_audio(path, 16000)
        expected, found = model.tokenize(wav, fingerprint=fingerprint).codes, torch.from_numpy(tokenizer.encode(wav))
        places = (found != expected).nonzero()[:, 0]
        if len(places):  # another runtime may round a vector across the border between two codes
            with torch.no_grad():
                vectors = model.normalizer(model.encoder(torch.from_numpy(wav)[None, None])[0])[0].T[places]
                own, other = (
                    (vectors - model.quantizer.decode(codes[None, places])[0].T).norm(dim=1)
                    for codes in (expected, found)
                )
            torch.testing.assert_close(own, other, rtol=1e-4, atol=0.0)
        different, total = different + len(places), total + len(expected)
    assert total > 100_000
    assert different <= total * 1e-4
