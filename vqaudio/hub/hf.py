"""Writes a speech model as a Hugging Face folder: for transformers, for `vqaudio.load_model`, and for the Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from vqaudio.atomic import atomic_file, check_output_folder
from vqaudio.checkpoint import GOLDEN, golden_recordings
from vqaudio.json_text import JSONError, parse_json
from vqaudio.speech.describe import model_facts
from vqaudio.speech.model import SpeechVQVAE
from vqaudio.torch_defaults import with_own_defaults

if TYPE_CHECKING:
    from vqaudio.hub.modeling_vqaudio import VQAudioModel

CARD, SOURCE_CARD, CODE = "README.md", "MODEL_CARD.md", "modeling_vqaudio.py"
WRITTEN = (CARD, CODE, GOLDEN, "config.json", "model.safetensors", "preprocessor_config.json")
TAGS = ["audio", "speech", "audio-tokenizer", "codec", "vq-vae", "voice-conversion"]
# of a report, what the card lists: (task, metric) -> name
METRICS = {
    ("wer", "wer"): "word error rate",
    ("phones", "accuracy"): "frame-level phone accuracy",
    ("abx", "abx_across"): "ABX error rate across speakers, by code identity",
    ("abx", "abx_across_vectors"): "ABX error rate across speakers, by code vectors",
    ("conditioning_gap", "conditioning_gap"): "conditioning gap, bits per sample",
}
SYSTEMS = re.compile(r"tokens|reconstruction \(.*\)|conversion \(.*\)")
USAGE = """## Use

With the package `vqaudio` and its extra `hub`:

```python
from transformers import AutoFeatureExtractor, AutoModelForAudioTokenization

model = AutoModelForAudioTokenization.from_pretrained("{name}", trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained("{name}", trust_remote_code=True)
inputs = extractor(wavs, sampling_rate={sample_rate}, return_tensors="pt")  # wavs: waveforms (T,) in [-1, 1]
encoded = model.encode(**inputs)  # audio_codes (B, 1, N) int64, audio_codes_mask (B, 1, N)
decoded = model.decode(encoded.audio_codes, encoded.audio_codes_mask, speaker_id=0)  # audio_values (B, 1, T)
```

or with `vqaudio` alone:

```python
import vqaudio

tokens = vqaudio.load_model("{name}").tokenize("speech.flac")
```
"""


def hf_model(model: SpeechVQVAE) -> VQAudioModel:
    """A copy of a model behind the interface of transformers, on the CPU.

    Raises ModuleNotFoundError without transformers.
    """
    check_transformers()
    from vqaudio.hub.modeling_vqaudio import VQAudioConfig, VQAudioModel

    wrapped = VQAudioModel(VQAudioConfig.of(model))
    wrapped.vqvae.load_state_dict(model.state_dict())
    return wrapped.eval()


def check_transformers() -> None:
    """Raises ModuleNotFoundError, with the package to install, if transformers is missing."""
    if find_spec("transformers") is None:
        raise ModuleNotFoundError("models for transformers need it: pip install 'vqaudio[hub]'")


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Without the progress bars of transformers, which it also draws where the output is no terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@with_own_defaults
def export_hf(
    model: SpeechVQVAE,
    folder: str | Path,
    *,
    name: str | None = None,
    source: Path | None = None,
    report: Path | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes configuration, weights, feature extractor, code and model card to `folder` -> the names of the files.

    name: how the card calls the model; None: as the folder. source: the folder that the model came from; its model card
    and golden tokens with their recordings are taken over. report: report.json of `vqaudio evaluate`, or its folder,
    whose metrics enter the card. Raises ModuleNotFoundError without transformers, ValueError for a report of another
    model, and OSError if a file exists or cannot be written.
    """
    check_transformers()
    from vqaudio.hub.modeling_vqaudio import VQAudioFeatureExtractor

    folder = Path(folder)
    card = model_card(model, name or folder.resolve().name, source=source, report=report, license=license)
    check_output_folder(folder, WRITTEN, overwrite)
    with tempfile.TemporaryDirectory() as made, no_progress_bar():
        hf_model(model).save_pretrained(made)
        VQAudioFeatureExtractor(sampling_rate=model.sample_rate).save_pretrained(made)
        (Path(made) / CARD).write_text(card, encoding="utf-8")
        files = {path.name: path for path in sorted(Path(made).iterdir())}
        if source is not None and (source / GOLDEN).exists():
            files |= {str(path.relative_to(source)): path for path in [source / GOLDEN, *golden_recordings(source)]}
        else:
            (folder / GOLDEN).unlink(missing_ok=True)  # of the model that is overwritten
        for file, path in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            with atomic_file(folder / file, overwrite=overwrite) as temporary:
                shutil.copyfile(path, temporary)
    return list(files)


def model_card(
    model: SpeechVQVAE,
    name: str,
    *,
    source: Path | None = None,
    report: Path | None = None,
    license: str | None = None,
) -> str:
    """The text of README.md: a YAML header with metrics, how to use the model, and its own model card or its facts."""
    data = ModelCardData(
        license=license,
        library_name="vqaudio",
        tags=TAGS,
        pipeline_tag="audio-to-audio",
        model_name=name,
        eval_results=None if report is None else _results(report, model.fingerprint),
    )
    usage = USAGE.format(name=name, sample_rate=model.sample_rate)
    if source is not None and (source / SOURCE_CARD).exists():
        text = _without_local_links((source / SOURCE_CARD).read_text(encoding="utf-8"))
        title, _, rest = text.partition("\n\n")
        body = f"{title}\n\n{usage}\n{rest}"
    else:
        rows = "\n".join(f"| {fact} | {value} |" for fact, value in model_facts(model).items())
        body = f"# {name}\n\n{usage}\n## Properties\n\n| | |\n|---|---|\n{rows}\n"
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _results(report: Path, fingerprint: str) -> list[EvalResult]:
    """The metrics of a report that a card lists.

    Raises FileNotFoundError, and ValueError for a report of another model.
    """
    path = report / "report.json" if report.is_dir() else report
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; vqaudio evaluate --out DIR writes it")
    try:
        facts = parse_json(path.read_bytes())
        measured, found = facts["model"]["fingerprint"], [_result(row) for row in facts["metrics"] if _listed(row)]
    except (JSONError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a report of vqaudio evaluate ({error!r})") from error
    if measured != fingerprint:
        raise ValueError(f"{path} is a report of model {measured}, not of {fingerprint}; evaluate this model")
    return found


def _listed(row: dict[str, Any]) -> bool:
    known = (row["task"], row["metric"]) in METRICS and SYSTEMS.fullmatch(row["system"])
    return bool(known) and isinstance(row["value"], float)


def _result(row: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="audio-to-audio",
        dataset_type=row["set"],
        dataset_name=row["set"],
        metric_type=row["metric"],
        metric_name=f"{METRICS[row['task'], row['metric']]}, {row['system']}",
        metric_value=round(row["value"], 4),
    )


def _without_local_links(text: str) -> str:
    """A Markdown page whose links and pictures within the repository are replaced by their texts."""
    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)[^)]*\)", lambda link: "" if link[1] else link[2], text)


def push_to_hub(folder: str | Path, files: list[str], repo_id: str) -> str:
    """Uploads files of an exported folder to USER/MODEL on the Hugging Face Hub -> the address of the commit.

    files: what `export_hf` returned; other files in the folder are not uploaded. The repository is created if
    necessary. Needs a token with write access (`hf auth login`, or HF_TOKEN). Raises ValueError with the reason if that
    fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    # the second is the error of the HTTP library beneath, which differs between versions of huggingface_hub
    of_requests: tuple[Any, ...] = (HfHubHTTPError, HfHubHTTPError.__mro__[1], HFValidationError, OSError)
    try:
        api.create_repo(repo_id, exist_ok=True)
        message = "vqaudio export hf"
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=files, commit_message=message))
    except of_requests as error:
        raise ValueError(
            f"{folder} could not be uploaded as {repo_id!r}: {str(error).splitlines()[0]}; check the network, the name "
            "(USER/MODEL) and the token (hf auth login)"
        ) from error
