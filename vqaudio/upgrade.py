"""Upgrades configurations and logged metrics of format 1 to the names of format 2, independently of any model.

vqaudio 0.1 wrote format 1: config.json of a model, the settings of a run in state.json of its checkpoints, and its
metrics.jsonl.
"""

from __future__ import annotations

import re
from typing import Any

# a key's path in format 1 (a regular expression for the whole of it) -> its path in format 2; the first that matches
_WAVENET = {
    "classes": "num_classes",
    "cycle": "layers_per_stack",
    "residual": "residual_channels",
    "skip": "skip_channels",
    "condition": "cond_dim",
    "speakers": "num_speakers",
    "hidden": "cond_hidden_channels",
}
_PIXELCNN = {"codes": "codebook_size", "maps": "num_maps", "head": "head_channels", "labels": "num_labels"}
_LOG_MEL = {"bands": "n_mels", "hop": "hop_length", "window": "win_length", "lowest": "f_min", "highest": "f_max"}
_QUANTIZER = {
    "codes": "codebook_size",
    "width": "dim",
    "codebook": "codebook_update",
    "decay": "ema_decay",
    "commitment": "commitment_weight",
    "commitment_warmup": "commitment_warmup_steps",
    "restart_below": "restart_threshold",
}
_FIT = {
    "average": "ema_decay",
    "decay": "lr_decay_fraction",
    "warmup": "lr_warmup_steps",
    "clip": "max_grad_norm",
    "accumulate": "gradient_accumulation_steps",
    "first_batches": "codebook_init_batches",
    "keep": "keep_checkpoints",
}
_HEALTH = {
    "young_until": "min_steps",
    "gap_codes": "min_conditioning_gap",
    "gap_speakers": "min_speaker_gap",
    "perplexity": "min_perplexity",
    "bits_above_uniform": "max_bits_above_uniform",
}
_RENAMED: list[tuple[re.Pattern[str], str]] = [
    (re.compile(old), new)
    for old, new in [
        *((rf"(.*\.)?encoder\.front\.{old}", rf"\1encoder.frontend.{new}") for old, new in _LOG_MEL.items()),
        (r"(.*\.)?encoder\.front\.(\w+)", r"\1encoder.frontend.\2"),
        (r"(.*\.)?encoder\.width", r"\1encoder.dim"),
        (r"(.*\.)?encoder\.gain", r"\1encoder.input_gain"),
        *((rf"(.*\.)?spectrum\.{old}", rf"\1spectrum.{new}") for old, new in _LOG_MEL.items()),
        *((rf"(.*\.)?quantizer\.{old}", rf"\1quantizer.{new}") for old, new in _QUANTIZER.items()),
        *((rf"(.*\.)?(decoder|net)\.{old}", rf"\1\2.{new}") for old, new in (_WAVENET | _PIXELCNN).items()),
        (r"(.*\.)?coder\.width", r"\1coder.dim"),
        (r"(.*\.)?coder\.maps", r"\1coder.num_maps"),
        (r"(.*\.)?coder\.components", r"\1coder.num_mixtures"),
        *((rf"fit\.health\.{old}", rf"fit.health.{new}") for old, new in _HEALTH.items()),
        *((rf"fit\.{old}", rf"fit.{new}") for old, new in _FIT.items()),
        (r"(model\.)?learn", r"\1stage"),
        (r"(model\.)?jitter", r"\1time_jitter"),
        (r"(model\.)?spectrum_weight", r"\1spectrum_loss_weight"),
        (r"(model\.)?samples", r"\1vimco_samples"),
        (r"(model\.)?temperature", r"\1gumbel_temperature"),
        (r"(second\.)?latents", r"\1num_latents"),
        (r"chunks\.codes", r"crops.length"),
        (r"chunks\.(.*)", r"crops.\1"),
        (r"validation\.batches", r"validation.num_batches"),
        (r"start", r"init_from"),
    ]
]
_PREFIXES = {"second.": "hierarchical."}  # of all keys of a run that are below it
_STAGES = {"all": "joint", "codes": "codes", "speech": "decoder"}
_METRICS = {  # all in the same units as before
    "gap_codes": "conditioning_gap",
    "gap_mean": "conditioning_gap_mean",
    "gap_speakers": "speaker_gap",
    "gap_labels": "label_gap",
    "bits_unknown": "bits_null_speaker",
    "waiting": "data_wait_fraction",
    "audio_seconds_per_second": "rtf",
}
_VERDICTS = {
    "young": "too early",
    "codes ignored": "posterior collapse",
    "codebook collapsed": "codebook collapse",
    "nothing learned": "no gain over unigram",
}


def upgrade_key(path: str) -> str:
    """A key of format 1 with dots between its levels, "fit.average" -> the same of format 2, "fit.ema_decay"."""
    for old, new in _RENAMED:
        if match := old.fullmatch(path):
            path = match.expand(new)
            break
    for old, new in _PREFIXES.items():
        if path.startswith(old):
            path = new + path.removeprefix(old)
    return path


def upgrade_flat(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as `config.flatten` gives them, of format 1 -> of format 2."""
    upgraded = {upgrade_key(path): value for path, value in values.items()}
    for path in upgraded:
        if path.rpartition(".")[2] == "stage":
            upgraded[path] = _STAGES.get(upgraded[path], upgraded[path])
    return upgraded


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """A nested configuration of format 1, of a model of any kind -> of format 2."""
    from vqaudio.config import flatten

    nested: dict[str, Any] = {}
    for path, value in upgrade_flat(flatten(config)).items():
        *above, key = path.split(".")
        place = nested
        for name in above:
            place = place.setdefault(name, {})
        place[key] = value
    return nested


def upgrade_metrics(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl of format 1 -> of format 2; a row of format 2 is returned unchanged."""
    upgraded = {}
    for name, value in row.items():
        new = _METRICS.get(name, name)
        upgraded[name if new in row else new] = value  # in a new row, a metric of an old name is the user's own
    if "verdict" in row:
        upgraded["verdict"] = _VERDICTS.get(row["verdict"], row["verdict"])
    return upgraded
