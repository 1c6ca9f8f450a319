"""What every backend guarantees (`tested` in conftest.py lists them), and which one `choose` takes."""

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import vqaudio.sampling
from vqaudio.kernels import library
from vqaudio.nn.wavenet import WaveNet, WaveNetConfig
from vqaudio.sampling import backends, choose, generate, reference
from vqaudio.sampling.backends import block_steps, cuda_graph, fused, ring_buffers
from vqaudio.sampling.config import SamplingConfig

BOTH = {"cond_dim": 3, "num_speakers": 2}


def _row(inputs: dict[str, Tensor], b: int, frames: int | None = None) -> dict[str, Tensor]:
    """The inputs of one stream, of its first frames."""
    row = {name: value[b : b + 1] for name, value in inputs.items()}
    return {name: value[:, :, :frames] if name == "cond" else value for name, value in row.items()}


def test_each_stream_is_independent_of_its_neighbours(tested, make_net, inputs_of, seeded) -> None:
    net = make_net(tested.dtype, **BOTH)
    inputs = inputs_of(net, 3, 30)
    together = tested.generate(net, **inputs, steps=30, generator=seeded(3, 4, 5))
    for b, seed in enumerate((3, 4, 5)):
        assert torch.equal(tested.generate(net, **_row(inputs, b), steps=30, generator=seeded(seed))[0], together[b])
    assert not torch.equal(together[0], together[1])


def test_streams_of_different_lengths_are_those_alone(tested, make_net, inputs_of, seeded) -> None:
    net = make_net(tested.dtype, **BOTH)
    lengths, seeds = [13, 0, 29, 21, 29], (3, 4, 5, 6, 7)
    inputs = inputs_of(net, len(lengths), max(lengths))
    together = tested.generate(net, **inputs, steps=lengths, generator=seeded(*seeds))
    assert together.shape == (5, 29)
    assert together[[0, 2]].any(1).all()
    for b, (length, seed) in enumerate(zip(lengths, seeds, strict=True)):
        row = _row(inputs, b, -(-length // net.cfg.hop))
        alone = tested.generate(net, **row, steps=length, generator=seeded(seed))
        assert torch.equal(together[b, :length], alone[0])
        assert not together[b, length:].any()


@pytest.mark.parametrize("options", [{"num_speakers": 2}, BOTH])
def test_pieces_are_the_whole(tested, make_net, inputs_of, seeded, monkeypatch, options) -> None:
    net = make_net(tested.dtype, **options)
    lengths = [38, 11, 25]
    given = {**inputs_of(net, 3, 38), "steps": lengths}
    whole = tested.generate(net, **given, generator=seeded(0, 1, 2))
    for frames in (1, 3):
        monkeypatch.setattr(backends, "block_steps", lambda net, streams, frames=frames: frames * net.cfg.hop)
        assert torch.equal(tested.generate(net, **given, generator=seeded(0, 1, 2)), whole)


def test_a_longer_generation_starts_with_the_shorter_one(tested, make_net, seeded) -> None:
    net = make_net(tested.dtype, num_speakers=2)
    short, long = (tested.generate(net, speaker=torch.tensor([1]), steps=n, generator=seeded(0)) for n in (13, 29))
    assert torch.equal(long[:, :13], short)


def test_seeds_make_it_reproducible_and_different(tested, make_net) -> None:
    net = make_net(tested.dtype)
    one, again, other = (tested.generate(net, steps=40, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.dtype == torch.int64
    assert 0 <= one.min() <= one.max() < net.cfg.num_classes
    assert len(one.unique()) > 2


def test_it_draws_each_step_given_the_ones_before(tested, make_net, inputs_of) -> None:
    """Greedy generation is a fixed point: each class is the most likely one after those before it."""
    net = make_net(tested.dtype, **BOTH)
    inputs = inputs_of(net, 2, 24)
    chosen = tested.generate(net, **inputs, steps=24, sampling=SamplingConfig(temperature=0))
    logits, _ = net(net.shift(chosen), inputs["cond"], inputs["speaker"])
    assert torch.equal(logits.argmax(1), chosen)
    for greedy in (SamplingConfig(top_k=1), SamplingConfig(top_p=1e-9)):
        assert torch.equal(tested.generate(net, **inputs, steps=24, sampling=greedy), chosen)


def test_empty_generations_are_empty(tested, make_net) -> None:
    net = make_net(tested.dtype, cond_dim=3)
    assert tested.generate(net, torch.zeros(2, 3, 0, dtype=tested.dtype), steps=0).shape == (2, 0)
    assert tested.generate(net, torch.zeros(0, 3, 0, dtype=tested.dtype), steps=0).shape == (0, 0)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_conditioning_of_another_length_is_refused(tested, make_net, frames) -> None:
    net = make_net(tested.dtype, cond_dim=3)
    with pytest.raises(ValueError, match=f"10 steps .* 3 frames, but cond has {frames}"):
        tested.generate(net, torch.zeros(1, 3, frames, dtype=tested.dtype), steps=10)


def test_inputs_that_do_not_fit_are_refused(tested, make_net, seeded) -> None:
    net, without = make_net(tested.dtype, **BOTH), make_net(tested.dtype)
    cond, speaker = torch.zeros(2, 3, 3, dtype=tested.dtype), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"one row for each stream, got \[2, 3\]"):
        tested.generate(net, cond, torch.zeros(3, dtype=torch.long), steps=12)
    with pytest.raises(ValueError, match="takes a speaker"):
        tested.generate(net, cond, steps=12)
    with pytest.raises(ValueError, match="takes a local conditioning"):
        tested.generate(net, None, speaker, steps=12)
    with pytest.raises(ValueError, match="takes no speaker"):
        tested.generate(without, None, speaker, steps=12)
    with pytest.raises(ValueError, match="takes no local conditioning"):
        tested.generate(without, cond, steps=12)
    with pytest.raises(ValueError, match="2 streams need as many generators"):
        tested.generate(net, cond, speaker, steps=12, generator=seeded(1))
    with pytest.raises(ValueError, match="steps must be 0 or more, got -1"):
        tested.generate(net, cond, speaker, steps=[12, -1])
    with pytest.raises(ValueError, match=r"one for each of 2 streams, got \[12, 3, 1\]"):
        tested.generate(net, cond, speaker, steps=[12, 3, 1])


def test_concurrent_generations_equal_sequential_ones(tested, make_net, inputs_of, seeded) -> None:
    nets = [make_net(tested.dtype, seed=seed, **BOTH) for seed in (0, 1)]

    def run(number: int) -> Tensor:
        net = nets[number]
        return tested.generate(net, **inputs_of(net, 2, 60), steps=60, generator=seeded(number, number + 2))

    expected = [run(0), run(1)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            both = list(pool.map(run, (0, 1)))
            assert torch.equal(both[0], expected[0])
            assert torch.equal(both[1], expected[1])
    assert not torch.equal(*expected)


# ------------------------------------------------------------------------------------------------- choose

needs_kernels = pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())


@needs_kernels
@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_float32_on_a_cpu_is_compiled(make_net, seeded, threads, words) -> None:
    net, best = make_net(), library.kernels()
    assert best is not None
    assert choose(net, SamplingConfig(threads=threads)).name == f"compiled ({best.variant}), float32, up to {words}"
    assert (
        choose(net, SamplingConfig(precision="int8", threads=threads)).name
        == f"compiled ({best.variant}), int8, up to {words}"
    )
    assert choose(net).name == choose(net, SamplingConfig(threads=torch.get_num_threads())).name
    chosen = generate(net, steps=50, generator=seeded(0))
    assert torch.equal(chosen, generate(net, steps=50, generator=seeded(0), sampling=SamplingConfig(threads=1)))


def test_other_types_take_ring_buffers(make_net) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        net = make_net(dtype)
        assert choose(net).name == "PyTorch, ring buffers, on cpu"
        with pytest.raises(ValueError, match=r"precision bf16 .* this model is in torch\.\w+; use float32"):
            choose(net, SamplingConfig(precision="bf16"))


def test_a_gpu_takes_a_cuda_graph_and_other_backends_on_request() -> None:
    with FakeTensorMode(), torch.device("cuda"):  # pretends that there is one
        net = WaveNet(WaveNetConfig(layers=2))
        assert choose(net).name == cuda_graph(net).name == "CUDA graph, ring buffers, on cuda"
        assert ring_buffers(net).name == "PyTorch, ring buffers, on cuda"
        assert fused(net).name == "Triton, float32, on cuda"
        with pytest.raises(ValueError, match=r"precision int8 .* this model is on cuda:0; use float32"):
            choose(net, SamplingConfig(precision="int8"))


def test_without_kernels_it_warns_once_and_takes_ring_buffers(make_net, monkeypatch, caplog, seeded) -> None:
    monkeypatch.setattr(backends, "kernels", lambda: None)
    backends._warn_once.cache_clear()
    net = make_net()
    with caplog.at_level(logging.WARNING, "vqaudio"):
        assert choose(net).name == "PyTorch, ring buffers, on cpu"
        chosen = generate(net, steps=20, generator=seeded(0))
        choose(net.double())
    backends._warn_once.cache_clear()
    assert [record.name for record in caplog.records] == ["vqaudio"]
    assert library.why_missing() in caplog.text
    assert torch.equal(chosen, reference.generate(make_net(), steps=20, generator=seeded(0)))
    with pytest.raises(ValueError, match=r"precision bf16 .*; use float32"):
        choose(make_net(), SamplingConfig(precision="bf16"))


@needs_kernels
def test_more_classes_than_the_kernels_support_are_drawn_in_pytorch(make_net, caplog, seeded) -> None:
    net = make_net(num_classes=library.MAX_SIZE + 1)
    with caplog.at_level(logging.WARNING, "vqaudio"):
        assert choose(net).name == "PyTorch, ring buffers, on cpu"
    assert "classes must lie in 1..65536" in caplog.text
    with pytest.raises(ValueError, match=r"precision int8 .* classes must lie in 1..65536 .*; use float32"):
        choose(net, SamplingConfig(precision="int8"))
    expected = reference.generate(net, steps=4, generator=seeded(0))
    assert torch.equal(generate(net, steps=4, generator=seeded(0)), expected)


@pytest.mark.parametrize("kind", [ring_buffers, cuda_graph])
def test_broken_weights_are_refused_in_pytorch_too(make_net, kind) -> None:
    net = make_net()
    net.skip.weight[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"skip\.weight has values that are not finite"):
        generate(net, steps=4, backend=kind)


def test_an_extension_is_some_work_and_whole_frames(make_net) -> None:
    small, large = make_net(), make_net(layers=30, residual_channels=64, skip_channels=64, layers_per_stack=2)
    for net in (small, large):
        for streams in (1, 32):
            steps, work = block_steps(net, streams), net.cfg.multiply_adds * streams
            assert steps % net.cfg.hop == 0
            assert backends.BLOCK / 2 < steps * work <= backends.BLOCK
    assert block_steps(large, 10**9) == large.cfg.hop


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())
@pytest.mark.parametrize("streams", [1, 5])
def test_no_more_threads_run_than_requested(make_net, inputs_of, streams) -> None:
    net = make_net(**BOTH, layers=20, residual_channels=32, skip_channels=64)
    steps = 3000

    def most(threads: int) -> int:
        """Threads that the process had at most while it generated, beyond those before."""
        given = {**inputs_of(net, streams, steps), "steps": steps, "sampling": SamplingConfig(threads=threads)}
        generate(net, **given)  # PyTorch's own threads are there now
        before, seen, done = len(list(Path("/proc/self/task").iterdir())), [], threading.Event()

        def watch() -> None:
            while not done.is_set():
                seen.append(len(list(Path("/proc/self/task").iterdir())))

        watcher = threading.Thread(target=watch)
        watcher.start()
        generate(net, **given)
        done.set()
        watcher.join()
        return max(seen) - before - 1  # the watcher

    assert most(1) == 0
    assert most(2) == 1


def test_the_environment_bounds_the_threads() -> None:
    imports = "from vqaudio.nn.wavenet import WaveNet, WaveNetConfig; from vqaudio.sampling import choose"
    code = f"{imports}; print(choose(WaveNet(WaveNetConfig())).name)"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "up to 1 thread\n" in done.stdout or "PyTorch" in done.stdout


def test_the_public_sampler_is_the_fast_one() -> None:
    assert vqaudio.sampling.generate is backends.generate
