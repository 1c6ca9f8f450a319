"""Tokenizing in the workers of a DataLoader: the same tokens, forked or spawned."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from vqaudio import Tokens, load_model


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Four files of noise."""
    files = [tmp_path / f"{i}.wav" for i in range(4)]
    for i, path in enumerate(files):
        soundfile.write(path, np.random.default_rng(i).uniform(-0.5, 0.5, 400 + i), 16000)
    return files


@pytest.mark.parametrize(("method", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_a_data_loader_give_the_same_tokens(paths, tiny_model_dir, method, num_workers) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as in a program that does not say how many
    try:
        model = load_model(tiny_model_dir)
        expected = [model.tokenize(path) for path in paths]
        loader = DataLoader(
            paths,  # pyright: ignore[reportArgumentType]  # any sequence is a dataset
            batch_size=None,
            collate_fn=cast(Any, model.tokenize),
            num_workers=num_workers,
            multiprocessing_context=method,
            timeout=100,
        )
        found = list(loader)
    finally:
        torch.set_num_threads(threads)
    assert all(isinstance(tokens, Tokens) for tokens in found)
    for one, other in zip(found, expected, strict=True):
        assert one.codes.equal(other.codes)
        assert (one.num_samples, one.model) == (other.num_samples, other.model)


def test_an_unusable_file_is_named_in_the_loading_process(paths, tiny_model_dir) -> None:
    paths[2].write_text("hello")
    model = load_model(tiny_model_dir)
    loader = DataLoader(paths, batch_size=None, collate_fn=model.tokenize, num_workers=1, timeout=100)  # pyright: ignore
    with pytest.raises(ValueError, match=r"2\.wav is not audio that can be read"):
        list(loader)
