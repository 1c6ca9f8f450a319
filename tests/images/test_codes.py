"""Code maps on disk, and their batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqaudio.images.codes import CodeMapBatchConfig, CodeMapBatches, CodeMaps, code_batches, read_codes, write_codes


@pytest.fixture
def maps() -> CodeMaps:
    codes = torch.randint(7, (11, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    return CodeMaps(codes, torch.arange(11) % 2, ("cat", "dog"), 7, "0123456789ab", "s")


def test_they_come_back_as_they_were(maps: CodeMaps, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes.safetensors", maps)
    found = read_codes(tmp_path / "codes.safetensors")
    assert torch.equal(found.codes, maps.codes)
    assert torch.equal(found.labels, maps.labels)
    assert (found.classes, found.codebook_size, found.model) == (maps.classes, 7, "0123456789ab")
    assert found.map_shape == (2, 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["codes.safetensors"]


def test_a_damaged_or_foreign_file_is_explained(maps: CodeMaps, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    write_codes(path, maps)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="is not a file of image codes"):
        read_codes(path)
    from safetensors.torch import save

    path.write_bytes(save({"codes": maps.codes}))
    with pytest.raises(ValueError, match="is not a file of image codes"):
        read_codes(path)
    for facts, message in (("[]", "has version None, expected 1"), ('{"version": 1}', r"is damaged \(KeyError")):
        path.write_bytes(save({"codes": maps.codes, "labels": maps.labels}, {"vqaudio": facts}))
        with pytest.raises(ValueError, match=message):
            read_codes(path)
    write_codes(path, replace(maps, codes=maps.codes - 1))
    with pytest.raises(ValueError, match=r"is damaged: codes must lie in 0\.\.\d+, got -1\.\."):
        read_codes(path)


def test_batches_are_a_function_of_step_and_parts_follow_each_other(maps: CodeMaps) -> None:
    batches = CodeMapBatches(maps, CodeMapBatchConfig(batch_size=7, seed=3), labelled=True)
    whole = batches.batch(5)
    parts = [batches.batch(5, part, 3) for part in range(3)]
    for name in ("codes", "label"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    again = CodeMapBatches(maps, CodeMapBatchConfig(batch_size=7, seed=3), labelled=True).batch(5)
    assert torch.equal(again["codes"], whole["codes"])
    assert not torch.equal(batches.batch(6)["codes"], whole["codes"])
    for row, label in zip(whole["codes"], whole["label"], strict=True):
        where = (maps.codes == row).flatten(1).all(1).nonzero().flatten()
        assert label in maps.labels[where]


def test_all_maps_are_drawn_in_the_end(maps: CodeMaps) -> None:
    batches = CodeMapBatches(maps, CodeMapBatchConfig(batch_size=8), labelled=False)
    seen = torch.cat([batches.batch(step)["codes"] for step in range(30)])
    assert {tuple(row.flatten().tolist()) for row in seen} == {tuple(row.flatten().tolist()) for row in maps.codes}
    assert set(batches.batch(0)) == {"codes"}


def test_in_order_all_maps_come_once(maps: CodeMaps) -> None:
    found = list(code_batches(maps, 4, labelled=True))
    assert [len(batch["codes"]) for batch in found] == [4, 4, 3]
    assert torch.equal(torch.cat([batch["codes"] for batch in found]), maps.codes)
