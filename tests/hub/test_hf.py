"""A model in a Hugging Face folder: transformers gives the codes and audio of the model, in batches to the bit."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import vqaudio
from vqaudio import SpeechVQVAE
from vqaudio.checkpoint import shipped_models
from vqaudio.cli.main import main
from vqaudio.hub.hf import CODE, export_hf, hf_model

pytest.importorskip("transformers")

from vqaudio.hub.modeling_vqaudio import VQAudioConfig, VQAudioFeatureExtractor, VQAudioModel

ROOT = Path(__file__).parents[2]
NAMES = {"README.md", "config.json", "model.safetensors", CODE, "preprocessor_config.json"}
REPORT = {
    "model": {"fingerprint": ""},
    "metrics": [
        {"task": "wer", "set": "vctk", "system": "reconstruction (WaveNet)", "metric": "wer", "value": 0.25},
        {"task": "wer", "set": "vctk", "system": "original", "metric": "wer", "value": 0.05},
        {"task": "phones", "set": "timit8", "system": "tokens", "metric": "accuracy", "value": 0.31},
    ],
}


def _wavs() -> list[np.ndarray]:
    return [np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32) for n in (2500, 1, 801, 2048)]


@pytest.fixture(scope="module")
def exported(tiny_model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the exported tiny model. All tests share it: do not write to it."""
    folder = tmp_path_factory.mktemp("hf") / "tiny"
    assert set(export_hf(tiny_model, folder)) == NAMES
    return folder


@pytest.fixture
def inputs(exported: Path) -> dict[str, Tensor]:
    """A padded batch of the waveforms."""
    return dict(VQAudioFeatureExtractor.from_pretrained(exported)(_wavs(), sampling_rate=16000, return_tensors="pt"))


def test_codes_and_audio_are_those_of_the_model(
    exported: Path, inputs: dict[str, Tensor], tiny_model: SpeechVQVAE
) -> None:
    model = VQAudioModel.from_pretrained(exported)
    assert not model.training and model.dtype == torch.float32
    encoded = model.encode(**inputs)
    assert encoded.audio_codes.shape == encoded.audio_codes_mask.shape == (4, 1, 313)
    decoded = model.decode(encoded.audio_codes, encoded.audio_codes_mask, speaker_id=[0, 1, "carl", 2], seed=3)
    assert decoded.audio_values.shape == (4, 1, 2504)
    for i, (wav, speaker) in enumerate(zip(_wavs(), ("anna", "bert", "carl", "carl"), strict=True)):
        tokens = tiny_model.tokenize(wav)
        valid = encoded.audio_codes_mask[i, 0].bool()
        assert encoded.audio_codes[i, 0, valid].equal(tokens.codes) and int(valid.sum()) == len(tokens.codes)
        alone = model.encode(torch.from_numpy(wav)[None, None]).audio_codes
        assert alone[0, 0].equal(tokens.codes)  # alone = in a batch
        audio = decoded.audio_values[i, 0]
        assert audio[: len(wav)].equal(tiny_model.decode(tokens, speaker, seed=3))
        assert not audio[len(tokens.codes) * 8 :].any()
    again = model(**inputs, speaker_id=torch.tensor([0, 1, 2, 2]))
    assert again.audio_codes.equal(encoded.audio_codes) and again.audio_values.shape == (4, 1, 2500)


def test_codes_are_those_of_float32_with_any_dtype(exported: Path, inputs: dict[str, Tensor]) -> None:
    expected = VQAudioModel.from_pretrained(exported).encode(**inputs).audio_codes
    model = VQAudioModel.from_pretrained(exported, dtype=torch.bfloat16)
    codes, mask = model.encode(**inputs, return_dict=False)  # pyright: ignore[reportCallIssue]
    assert codes.equal(expected) and mask.shape == codes.shape


def test_all_front_ends_are_restored(spectrum_model: SpeechVQVAE, tmp_path: Path) -> None:
    """Filters and kernels that are not saved, which transformers leaves undefined."""
    from dataclasses import replace

    from vqaudio.nn.encoder import EncoderConfig
    from vqaudio.nn.log_mel_cmn import LogMelCMNConfig

    frontend = LogMelCMNConfig(n_mels=10, hop_length=40, win_length=100)
    encoder = EncoderConfig(strides=(2,), channels=(6,), dilations=(1,), dim=4, lookahead=70, frontend=frontend)
    model = SpeechVQVAE(replace(spectrum_model.cfg, encoder=encoder)).eval()
    export_hf(model, tmp_path / "hf")
    loaded = VQAudioModel.from_pretrained(tmp_path / "hf").vqvae
    buffers = dict(loaded.named_buffers())
    assert len(buffers) > len([name for name in loaded.state_dict() if name in buffers])
    for name, buffer in model.named_buffers():
        assert buffers[name].equal(buffer), name
    assert loaded.fingerprint == model.fingerprint


def test_the_folder_is_a_model_of_vqaudio_too(exported: Path, tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    loaded = vqaudio.load_model(exported)
    assert loaded.fingerprint == tiny_model.fingerprint
    for name, weight in tiny_model.state_dict().items():
        assert loaded.state_dict()[name].equal(weight)
    hf_model(loaded).save_pretrained(tmp_path / "again")
    assert vqaudio.load_model(tmp_path / "again").fingerprint == tiny_model.fingerprint


def test_the_feature_extractor_checks_its_input(exported: Path) -> None:
    extractor = VQAudioFeatureExtractor.from_pretrained(exported)
    wav = _wavs()[0]
    with pytest.raises(ValueError, match="expects waveforms at 16000 Hz, got 24000 Hz; resample them first"):
        extractor(wav, sampling_rate=24000)
    with pytest.warns(UserWarning, match="pass sampling_rate"):
        one = extractor(wav, return_tensors="pt")
    assert one["input_values"].shape == (1, 1, 2500) and one["padding_mask"].shape == (1, 2500)
    for wrong in (np.zeros((2, 100)), np.zeros(0), np.full(9, np.nan), np.zeros(9, np.int16)):
        with pytest.raises(ValueError):
            extractor(wrong, sampling_rate=16000)
    padded = extractor(_wavs(), sampling_rate=16000, return_tensors="np", pad_to_multiple_of=1000)
    assert padded["input_values"].shape == (4, 1, 3000)
    assert padded["padding_mask"].sum(1).tolist() == [2500, 1, 801, 2048]


def test_wrong_arguments(exported: Path, inputs: dict[str, Tensor]) -> None:
    model = VQAudioModel.from_pretrained(exported)
    with pytest.raises(ValueError, match="padding must follow the values"):
        model.encode(inputs["input_values"], inputs["padding_mask"].flip(1))
    with pytest.raises(ValueError, match=r"must be \(B, L\)"):
        model.encode(inputs["input_values"], inputs["padding_mask"][:, 1:])
    codes = torch.zeros(1, 1, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"speaker_id must lie in 0\.\.2, got 3"):
        model.decode(codes, speaker_id=3)
    with pytest.raises(ValueError, match="audio_codes must be"):
        model.decode(codes[0], speaker_id=0)
    with pytest.raises(ValueError, match=r"integers, got \(1, 1, 3\) torch.float32"):
        model.decode(codes.float(), speaker_id=0)
    with pytest.raises(ValueError, match="look like integers"):
        model.encode(torch.full((1, 1, 9), 2.0**15))
    facts = json.loads((exported / "config.json").read_text())
    with pytest.raises(ValueError, match="use the version of vqaudio that exported the model"):
        VQAudioModel(VQAudioConfig(**{**facts, "format": 99}))


# --- the command line ---


def test_export_and_verify(tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    report.write_text(json.dumps({**REPORT, "model": {"fingerprint": vqaudio.load_model(tiny_model_dir).fingerprint}}))
    arguments = ["export", "hf", str(tiny_model_dir), "--out", str(out)]
    assert main([*arguments, "--report", str(report), "--license", "mit"]) == 0
    assert capsys.readouterr().err == ""  # no progress bars
    _, header, body = (out / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "mit" and "audio-tokenizer" in card["tags"]
    results = card["model-index"][0]["results"]
    assert [(row["dataset"]["name"], metric["value"]) for row in results for metric in row["metrics"]] == [
        ("vctk", 0.25),
        ("timit8", 0.31),
    ]
    assert 'from_pretrained("out", trust_remote_code=True)' in body and "| fingerprint |" not in header
    assert main(["verify", str(out), "--hf", str(out)]) == 0
    assert "✓ transformers = model" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "exists already; pass --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_verify_names_a_damaged_folder(
    exported: Path, tiny_model: SpeechVQVAE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verified(folder: Path) -> str:
        assert main(["verify", str(exported), "--hf", str(folder)]) == 1
        return capsys.readouterr().err

    changed_code = Path(shutil.copytree(exported, tmp_path / "code"))
    with (changed_code / CODE).open("a") as file:
        file.write("# another version\n")
    assert "is not the file of this vqaudio; export the model again" in verified(changed_code)
    other = copy.deepcopy(tiny_model)
    other.encoder.out.bias.add_(0.1)
    vqaudio.save_model(other, tmp_path / "other")
    changed_weights = Path(shutil.copytree(exported, tmp_path / "weights"))
    shutil.copyfile(tmp_path / "other" / "model.safetensors", changed_weights / "model.safetensors")
    assert f"are those of model {other.fingerprint}" in verified(changed_weights)
    weights = load_file(exported / "model.safetensors")
    weights["decoder.out.bias"][0] += 1  # not part of the fingerprint
    save_file(weights, changed_weights / "model.safetensors", {"format": "pt"})
    assert "decoder.out.bias in" in verified(changed_weights)
    (changed_weights / "model.safetensors").write_bytes((exported / "model.safetensors").read_bytes()[:-100])
    assert "model.safetensors is damaged" in verified(changed_weights)
    assert "there is no model" in verified(tmp_path / "nowhere")
    no_code = Path(shutil.copytree(exported, tmp_path / "no_code"))
    (no_code / CODE).unlink()
    assert CODE in verified(no_code)


def test_the_shipped_models_card_and_golden_tokens_come_along(tmp_path: Path, tiny_model: SpeechVQVAE) -> None:
    assert main(["export", "hf", "mini", "--out", str(tmp_path)]) == 0
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Data and attribution" in card and "](../" not in card and "](examples" not in card
    assert (tmp_path / "golden.jsonl").exists() and list((tmp_path / "examples").glob("*_original.flac"))
    export_hf(tiny_model, tmp_path, overwrite=True)
    assert not (tmp_path / "golden.jsonl").exists()  # they are not those of this model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hf", "mini", "--chunk-frames", "8"], "--chunk-frames: not an option of vqaudio export hf"),
        (["onnx", "mini", "--push", "a/b"], "--push: not an option of vqaudio export onnx"),
        (["hf", "mini", "--report", "nowhere.json"], "there is no nowhere.json; vqaudio evaluate --out DIR writes it"),
        (["hf", "mini", "--out", __file__], "it is a file; give the name of a folder"),
    ],
)
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["export", "--out", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_report_of_another_model_is_refused(tiny_model: SpeechVQVAE, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**REPORT, "model": {"fingerprint": "0" * 12}}))
    with pytest.raises(ValueError, match="is a report of model 000000000000"):
        export_hf(tiny_model, tmp_path / "out", report=tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a report of vqaudio evaluate"):
        export_hf(tiny_model, tmp_path / "out", report=tmp_path)


# --- the Hub ---


class _Hub(BaseHTTPRequestHandler):
    """The three requests of an upload; the files are kept in `received`."""

    received: dict[str, Any]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            answer: dict[str, Any] = {"url": f"http://{self.headers['Host']}/anna/tiny"}
        elif self.path.startswith("/api/models/anna/tiny/preupload/"):
            files = json.loads(content)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": file["path"], **regular} for file in files]}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        else:
            assert self.path.startswith("/api/models/anna/tiny/commit/")
            rows = [json.loads(line) for line in content.splitlines()]
            self.received.update({row["value"]["path"]: row["value"] for row in rows if row["key"] == "file"})
            answer = {"commitUrl": f"http://{self.headers['Host']}/anna/tiny/commit/1", "commitOid": "1" * 40}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A local server in the place of the Hub -> the files that it received."""
    _Hub.received = {}
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield _Hub.received
    server.shutdown()
    thread.join()
    server.server_close()


def test_push(tiny_model_dir: Path, tmp_path: Path, hub: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "private.txt").write_text("stays here")
    arguments = ["export", "hf", str(tiny_model_dir), "--out", str(tmp_path / "out"), "--push", "anna/tiny"]
    assert main(arguments) == 0
    assert set(hub) == NAMES
    assert "uploaded" in capsys.readouterr().out
    assert 'from_pretrained("anna/tiny", trust_remote_code=True)' in (tmp_path / "out" / "README.md").read_text()
    assert main([*arguments[:-1], "no name", "--overwrite"]) == 2
    assert "could not be uploaded as 'no name'" in capsys.readouterr().err


# --- other processes and libraries ---

PROGRAM = """
import sys
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioTokenization

folder = sys.argv[1]
model = AutoModelForAudioTokenization.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
wavs = [np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32) for n in (2500, 1, 801, 2048)]
inputs = extractor(wavs, sampling_rate=16000, return_tensors="pt")
codes = model.encode(**inputs).audio_codes
audio = model.decode(codes, speaker_id=1).audio_values
print(type(model).__module__.split(".")[0], model.vqvae.fingerprint, int(codes.sum()), *audio.shape)
"""


@pytest.mark.long
def test_remote_code_in_a_process_that_has_the_installed_package_alone(
    exported: Path, inputs: dict[str, Tensor], tiny_model: SpeechVQVAE, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "vqaudio", tmp_path / "site" / "vqaudio", ignore=shutil.ignore_patterns("pretrained"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, exported], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = VQAudioModel.from_pretrained(exported).encode(**inputs).audio_codes
    assert done.stdout.split() == [
        "transformers_modules",
        tiny_model.fingerprint,
        str(int(expected.sum())),
        *("4", "1", "2504"),
    ]


def test_the_example_with_datasets(
    exported: Path, tiny_model: SpeechVQVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of docs/tutorials/huggingface.md, without torchcodec."""
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    from vqaudio.data.audio import write_audio

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speech").mkdir()
    paths = [tmp_path / "speech" / f"{i:02}.flac" for i in range(20)]
    for i, path in enumerate(paths):
        write_audio(path, np.random.default_rng(i).uniform(-1, 1, 500 + 100 * i), 16000)
    page = (ROOT / "docs/tutorials/huggingface.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import Audio" in block)
    names: dict[str, Any] = {
        "model": VQAudioModel.from_pretrained(exported),
        "extractor": VQAudioFeatureExtractor.from_pretrained(exported),
    }
    exec(block, names)
    assert list(names["tokens"]["codes"]) == [tiny_model.tokenize(path).codes.tolist() for path in paths]


@pytest.mark.long
@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_in_any_dtype(name: str, tmp_path: Path) -> None:
    """Verified, with the same fingerprint; no tensor is left without values, so that datasets can hash it."""
    assert main(["export", "hf", name, "--out", str(tmp_path)]) == 0
    assert main(["verify", name, "--hf", str(tmp_path)]) == 0
    for dtype in ("auto", torch.bfloat16, torch.float16, torch.float64):
        model = VQAudioModel.from_pretrained(tmp_path, dtype=dtype)
        assert model.vqvae.fingerprint == vqaudio.load_model(name).fingerprint
    assert model.vqvae.pitch is not None
    assert not any(tensor.is_meta for tensor in vars(model.vqvae.pitch.tracker).values() if isinstance(tensor, Tensor))
    assert model.vqvae.pitch_of(torch.rand(1600) - 0.5).voicing.shape == (1, 10)
