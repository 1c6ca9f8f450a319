"""Tiny models that many tests share. Their weights are random and not zero, so that every path has an effect."""

import importlib.util
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for GPUs run on the CPU; read when Triton is imported

import pytest
import torch
from torch import nn

from vqaudio import SpeechVQVAE, SpeechVQVAEConfig, save_model
from vqaudio.data.manifest import Utterance, manifest_row
from vqaudio.nn.acoustic import AcousticConfig
from vqaudio.nn.context import ContextConfig
from vqaudio.nn.encoder import EncoderConfig
from vqaudio.nn.frontend import LogMelConfig
from vqaudio.nn.pitch import PitchConfig
from vqaudio.nn.source_filter import IstftConfig
from vqaudio.nn.vector_quantizer import VectorQuantizerConfig
from vqaudio.nn.wavenet import WaveNetConfig


def _randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Makes all parameters random, also those initialised to zero, at a scale that preserves signal levels."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(noise * scale)
    return module


def pytest_configure() -> None:
    """A shell in the background ignores SIGINT, and nohup SIGHUP, which programs under test would inherit."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped without one, and files with slow tests come first.

    Workers take whole files, and a slow one at the end would leave the others idle.
    """
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: not slow[item.path])  # stable: the tests of a file stay together


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Tests that draw from PyTorch's global generator draw the same in every run and order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Resets Accelerate's global state, because other tests in this process train with another precision."""
    _reset_accelerator()
    yield
    _reset_accelerator()


def _reset_accelerator() -> None:
    if (state := sys.modules.get("accelerate.state")) is not None:  # importing it takes time that most tests need not
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def peak_memory() -> str:
    """Python source of a function peak_memory(), for a process of its own: its highest resident memory so far, in kB.

    Skips where there is no such /proc. ru_maxrss would be that of the test process, if this is larger: exec keeps it.
    """
    status = Path("/proc/self/status")
    if not status.exists() or "VmHWM:" not in status.read_text():
        pytest.skip("the peak memory of a process is read from VmHWM in /proc/self/status, which only Linux has")
    return (
        "def peak_memory():\n"
        "    with open('/proc/self/status') as status:\n"
        "        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM:'))\n"
    )


@pytest.fixture(scope="session")
def randomise() -> Callable[..., nn.Module]:
    """A function (module, seed) -> the module with all its parameters random."""
    return _randomise


def _write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    path.write_text("".join(f"{manifest_row(each, path.parent)}\n" for each in utterances), encoding="utf-8")


@pytest.fixture(scope="session")
def write_manifest() -> Callable[[Path, Iterable[Utterance]], None]:
    """A function (path, utterances) that writes a manifest."""
    return _write_manifest


@pytest.fixture(scope="session")
def tiny_config() -> SpeechVQVAEConfig:
    """Hop 8, 16 codes, three speakers, 16 classes: milliseconds per pass."""
    return SpeechVQVAEConfig(
        speakers=("anna", "bert", "carl"),
        encoder=EncoderConfig(strides=(2, 4), channels=(6, 8), dilations=(1, 2), dim=4, lookahead=11),
        quantizer=VectorQuantizerConfig(codebook_size=16, dim=4),
        decoder=WaveNetConfig(
            num_classes=16, layers=4, layers_per_stack=3, residual_channels=6, skip_channels=8, cond_hidden_channels=8
        ),
    )


def _initialised(cfg: SpeechVQVAEConfig, samples: int = 512, peak: float = 1.0) -> SpeechVQVAE:
    """With random weights, and a codebook made from four utterances of noise; in evaluation mode."""
    model = SpeechVQVAE(cfg)
    _randomise(model.encoder, seed=1)
    _randomise(model.decoder, seed=2)
    generator = torch.Generator().manual_seed(3)
    wav = (torch.rand(4, 1, samples, generator=generator) * 2 - 1) * peak
    target = torch.randint(cfg.decoder.num_classes, (4, samples), generator=generator)
    model(wav, target, torch.zeros(4, dtype=torch.long), torch.full((4,), samples))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def initialised() -> Callable[..., SpeechVQVAE]:
    """A function (configuration, samples and peak of the noise) -> a model that is ready to use."""
    return _initialised


@pytest.fixture(scope="session")
def tiny_model(tiny_config: SpeechVQVAEConfig) -> SpeechVQVAE:
    """Initialised and in evaluation mode. All tests share it: do not change it (copy.deepcopy makes another)."""
    return _initialised(tiny_config)


@pytest.fixture(scope="session")
def spectrum_config(tiny_config: SpeechVQVAEConfig) -> SpeechVQVAEConfig:
    """`tiny_config` with a context network and a spectrum head: hop 80, two spectra per code."""
    return replace(
        tiny_config,
        encoder=EncoderConfig(strides=(8, 10), channels=(6, 8), dilations=(1,), dim=4, lookahead=70),
        context=ContextConfig(dilations=(1, 2), channels=6),
        spectrum=LogMelConfig(n_mels=10, hop_length=40, win_length=100),
    )


@pytest.fixture(scope="session")
def spectrum_model(spectrum_config: SpeechVQVAEConfig) -> SpeechVQVAE:
    """Initialised and in evaluation mode; the WaveNet is its default vocoder. All tests share it: do not change it."""
    model = _initialised(spectrum_config, samples=4000)
    assert model.context is not None and model.spectrum is not None
    _randomise(model.context, seed=5)
    _randomise(model.spectrum, seed=6)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def acoustic_model(spectrum_config: SpeechVQVAEConfig) -> SpeechVQVAE:
    """With a pitch head, and the vocoder istft (the default) and a WaveNet that read the pitch.

    The pitch of its third speaker is not known. All tests share it: do not change it.
    """
    istft = IstftConfig(dilations=(1,), channels=6, lookahead=2, points=9)
    acoustic = AcousticConfig(dilations=(1,), channels=5, lookahead=1)
    parts = {"pitch": PitchConfig(win_length=640), "acoustic": acoustic, "istft": istft, "vocoder": "istft"}
    model = _initialised(replace(spectrum_config, **parts), samples=3200)
    for part in (model.context, model.spectrum, model.pitch, model.acoustic, model.istft):
        assert part is not None
        _randomise(part)
    assert model.pitch is not None
    model.pitch.centre.copy_(torch.tensor([6.9, 7.6, 7.3]))
    model.pitch.spread.copy_(torch.tensor([0.2, 0.3, 0.0]))
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_model: SpeechVQVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model` on disk. All tests share it: do not write to it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright, to open the page in Chromium")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium on this machine (apt-get install chromium) to open the page in")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function (name, *arguments) that runs a recipe in this process."""

    def run(name: str, *arguments: str | Path) -> None:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"recipes/{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        module.main()

    return run
