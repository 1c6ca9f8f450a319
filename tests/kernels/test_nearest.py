"""All compiled variants that this machine runs, against float64 and against the form in PyTorch."""

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vqaudio.nn.vector_quantizer as quantizer_module
from vqaudio.kernels import library
from vqaudio.kernels.library import MAX_SIZE, VARIANTS, Kernels
from vqaudio.kernels.nearest import THREAD_WORK, nearest_code
from vqaudio.nn.vector_quantizer import VectorQuantizer, VectorQuantizerConfig, nearest, nearest_in_pytorch

K, D = 512, 64
INF, NAN = float("inf"), float("nan")


@pytest.fixture(scope="module", params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> Kernels:
    """One variant after the other."""
    if request.param not in library.runnable():
        pytest.skip(f"the variant {request.param} was not compiled, or this machine does not run it")
    return library.load(request.param)


needs_kernels = pytest.mark.skipif(library.kernels() is None, reason=library.why_missing())


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _distances(rows: Tensor, codebook: Tensor) -> Tensor:
    """Squared (M, K) in float64."""
    return torch.cdist(rows.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def _rounding(rows: Tensor, codebook: Tensor) -> Tensor:
    """(M,): by how much squared distances of two choices may differ where sums of D + 1 terms are float32."""
    terms = codebook.double().square().sum(1) / 2 + rows.double().abs() @ codebook.double().abs().T  # (M, K)
    return 8 * (rows.shape[1] + 2) * 2.0**-24 * terms.max(1).values


def _assert_same_or_tied(left: Tensor, right: Tensor, rows: Tensor, codebook: Tensor) -> None:
    distances = _distances(rows, codebook)
    gap = (distances.gather(1, left[:, None]) - distances.gather(1, right[:, None])).abs()[:, 0]
    assert ((left == right) | (gap <= _rounding(rows, codebook))).all()


def _nearly_tied(count: int) -> tuple[Tensor, Tensor]:
    """Rows (count, D), and codes (K, D) whose nearest code depends on rounding, that is on the order of summation."""
    centres = _noise(4, D, seed=1)
    codebook = centres.repeat(K // 4, 1) * (1 + 1e-7 * _noise(K, D, seed=2))
    return centres[torch.arange(count) % 4] + 0.3 * _noise(count, D, seed=3), codebook


# --- the right code ---


@settings(max_examples=150, deadline=None)
@given(
    num_rows=st.integers(0, 50),
    num_codes=st.integers(1, 70),
    width=st.integers(1, 40),
    span=st.integers(1, 3),
    distinct=st.integers(1, 70),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
@example(num_rows=9, num_codes=70, width=3, span=1, distinct=1, threads=1, seed=0)  # all codes are equal
def test_brute_force_and_the_first_of_equals(
    compiled, num_rows, num_codes, width, span, distinct, threads, seed
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # small whole numbers: float32 is exact on them, and many distances are equal, those of duplicates too
    rows = torch.randint(-span, span + 1, (num_rows, width), generator=generator).float()
    vectors = torch.randint(-span, span + 1, (distinct, width), generator=generator).float()
    codebook = vectors[torch.randint(distinct, (num_codes,), generator=generator)]
    exact = (rows.double()[:, None] - codebook.double()).square().sum(2).tolist()
    codes = nearest_code(compiled, rows, codebook, threads)
    assert codes.dtype == torch.int64
    assert codes.tolist() == [row.index(min(row)) for row in exact]


@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(1, 50),
    num_codes=st.integers(1, 70),
    width=st.integers(1, 40),
    exponent=st.integers(-12, 12),
    offset=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_any_numbers_to_within_rounding(compiled, num_rows, num_codes, width, exponent, offset, seed) -> None:
    scale = 10.0**exponent
    rows, codebook = (_noise(n, width, seed=seed + n) * scale + offset * scale for n in (num_rows, num_codes))
    codes = nearest_code(compiled, rows, codebook, 1)
    _assert_same_or_tied(codes, _distances(rows, codebook).argmin(1), rows, codebook)
    _assert_same_or_tied(codes, nearest_in_pytorch(rows, codebook), rows, codebook)


def test_a_duplicate_of_a_code_is_never_chosen(compiled) -> None:
    half = _noise(K // 2, D)
    codebook = torch.cat([half, half])
    codes = nearest_code(compiled, torch.cat([_noise(1000, D, seed=1), codebook]), codebook, 2)
    assert codes.max() < K // 2
    assert codes[1000:].tolist() == [*range(K // 2)] * 2


# --- the code of a row does not depend on the other rows ---


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_neighbours_nor_threads_change_a_code(compiled, threads) -> None:
    rows, codebook = _nearly_tied(1600)
    assert rows.shape[0] * K * D // THREAD_WORK >= 3  # so that three threads are started
    codes = nearest_code(compiled, rows, codebook, threads)
    assert len(codes.unique()) > 100
    assert torch.equal(codes, nearest_code(compiled, rows, codebook, 1))
    assert torch.equal(codes.flip(0), nearest_code(compiled, rows.flip(0), codebook, threads))
    for size in (1, 3, 8, 500):
        pieces = [nearest_code(compiled, piece, codebook, threads) for piece in rows[:501].split(size)]
        assert torch.equal(codes[:501], torch.cat(pieces))


def test_a_code_does_not_depend_on_the_codes_behind_it(compiled) -> None:
    rows, codebook = _nearly_tied(40)
    expected = nearest_code(compiled, rows, codebook, 1)
    for k in range(1, 70):
        codes = nearest_code(compiled, rows, codebook[:k], 1)
        assert codes.max() < k
        assert torch.equal(codes[expected < k], expected[expected < k])


# --- what is not finite ---


def test_rows_that_are_not_finite_have_the_code_that_pytorch_gives_them(compiled) -> None:
    codebook = _noise(40, 6)
    codebook[7, 2] = codebook[11, 4] = 0.0  # times inf: not a number
    codebook[:7, 2] = codebook[:7, 2].abs()
    rows = _noise(400, 6, seed=1)
    specials = torch.tensor([NAN, INF, -INF])
    places = torch.rand(rows.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    kinds = torch.randint(3, rows.shape, generator=torch.Generator().manual_seed(3))
    broken = torch.where(places, specials[kinds], rows)
    whole = broken.isfinite().all(1)
    codes = nearest_code(compiled, broken, codebook, 2)
    assert torch.equal(codes[whole], nearest_code(compiled, rows, codebook, 1)[whole])
    assert (codes[broken.isnan().any(1)] == 0).all()
    assert torch.equal(codes[~whole], nearest_in_pytorch(broken, codebook)[~whole])
    assert len(codes[~whole].unique()) > 3  # inf chooses, for it has a sign


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_all_rows_may_be_broken(compiled, value) -> None:
    rows, codebook = torch.full((300, D), value), _noise(K, D)
    assert torch.equal(nearest_code(compiled, rows, codebook, 1), nearest_in_pytorch(rows, codebook))


def test_sums_that_overflow_still_give_a_code(compiled) -> None:
    rows, codebook = _noise(50, 5) * 1e38, _noise(33, 5, seed=1) * 1e30
    codes = nearest_code(compiled, rows, codebook, 1)
    assert 0 <= codes.min() <= codes.max() < 33


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(("num_codes", "code"), [(1, 0), (37, 0), (37, 36), (K, 300)])
def test_codes_that_are_not_finite_are_refused(compiled, value, num_codes, code) -> None:
    codebook = _noise(num_codes, 5)
    codebook[code, 4] = value
    with pytest.raises(ValueError, match=rf"codebook \({num_codes}, 5\) has values that are not finite"):
        nearest_code(compiled, _noise(4, 5), codebook, 1)


# --- what goes in ---


def test_any_layout_is_taken_and_left_alone(compiled) -> None:
    rows, codebook = _noise(100, 12), _noise(20, 12, seed=1)
    expected = nearest_code(compiled, rows, codebook, 1)
    wide = _noise(200, 24, seed=2)
    wide[::2, ::2] = rows
    for same_rows in (rows.T.contiguous().T, wide[::2, ::2], rows.clone().requires_grad_()):
        for same_codes in (codebook.T.contiguous().T, torch.nn.Parameter(codebook.clone())):
            assert torch.equal(nearest_code(compiled, same_rows, same_codes, 1), expected)
    assert torch.equal(wide[::2, ::2], rows)


@pytest.mark.parametrize(
    ("rows", "codebook", "threads", "message"),
    [
        (torch.zeros(4), torch.zeros(3, 4), 1, r"rows must have two axes.*got \(4,\)"),
        (torch.zeros(2, 4, 3), torch.zeros(3, 4), 1, r"rows must have two axes.*got \(2, 4, 3\)"),
        (torch.zeros(2, 4), torch.zeros(4), 1, r"codebook must have two axes.*got \(4,\)"),
        (torch.zeros(2, 4).double(), torch.zeros(3, 4), 1, "rows.*torch.float32.*got.*float64"),
        (torch.zeros(2, 4), torch.zeros(3, 4).bfloat16(), 1, "codebook.*got.*bfloat16"),
        (torch.zeros(2, 4, device="meta"), torch.zeros(3, 4), 1, "rows.*on the CPU.*on meta"),
        (torch.zeros(2, 5), torch.zeros(3, 4), 1, "the same width, got 5 and 4"),
        (torch.zeros(2, 4), torch.zeros(0, 4), 1, "number of codes must lie in 1..65536, got 0"),
        (torch.zeros(2, 0), torch.zeros(3, 0), 1, "width of a code must lie in 1..65536, got 0"),
        (torch.zeros(2, 4), torch.zeros(1, 4).expand(MAX_SIZE + 1, 4), 1, "number of codes.*got 65537"),
        (torch.zeros(2, 1).expand(2, MAX_SIZE + 1), torch.zeros(1, 1).expand(3, MAX_SIZE + 1), 1, "width.*got 65537"),
        (torch.zeros(2, 4), torch.zeros(3, 4), 0, "threads must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(compiled, rows, codebook, threads, message) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_code(compiled, rows, codebook, threads)


def _imitation(failure: int = 0) -> tuple[Kernels, list[int]]:
    """Kernels that find nothing and note the threads of each call."""
    thread_counts: list[int] = []

    def vq_nearest(*arguments: int) -> int:
        thread_counts.append(arguments[5])
        return failure

    functions: Any = SimpleNamespace(vq_nearest=vq_nearest)
    return Kernels("imitation", functions), thread_counts


def test_threads_are_limited_by_the_work_and_by_the_argument() -> None:
    kernels, thread_counts = _imitation()
    codebook, rows_per_thread = torch.zeros(K, D), THREAD_WORK // (K * D)  # enough rows for one thread
    for count, threads in (
        (0, 8),
        (1, 8),
        (2 * rows_per_thread - 1, 8),
        (2 * rows_per_thread, 8),
        (2 * rows_per_thread, 1),
        (20 * rows_per_thread, 3),
    ):
        nearest_code(kernels, torch.zeros(count, D), codebook, threads)
    assert thread_counts == [1, 1, 1, 2, 1, 3]


def test_a_lack_of_memory_is_reported() -> None:
    kernels, _ = _imitation(failure=2)
    with pytest.raises(MemoryError, match="512 codes of width 64"):
        nearest_code(kernels, torch.zeros(2, D), torch.zeros(K, D), 1)


def test_an_absurd_number_of_threads_is_survived(compiled) -> None:
    rows, codebook = _noise(300, 4), _noise(9, 4)
    found = torch.empty(300, dtype=torch.int64)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, codebook, found)]
    assert compiled.functions.vq_nearest(pointers[0], 300, pointers[1], 9, 4, 64, pointers[2]) == 0
    assert torch.equal(found, nearest_code(compiled, rows, codebook, 1))


# --- in the quantizer ---


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of each search that the quantizer leaves to the kernels."""
    threads: list[int] = []

    def noted(*arguments) -> Tensor:
        threads.append(arguments[3])
        return nearest_code(*arguments)

    monkeypatch.setattr(quantizer_module, "nearest_code", noted)
    return threads


@needs_kernels
def test_the_quantizer_uses_the_kernels_and_gives_the_codes_of_pytorch(calls) -> None:
    centres = _noise(600, D) * torch.linspace(2, 0.05, D)  # lengths of axes differ, as those of an encoder do
    rows = centres[torch.randint(600, (16_384,), generator=torch.Generator().manual_seed(1))]
    rows = rows + 0.3 * _noise(16_384, D, seed=2)
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D, kmeans_iterations=2))
    quantizer.initialise([rows])
    calls.clear()
    codes = quantizer.eval().encode(rows.T[None])[0]
    quantizer(rows.T[None])
    assert calls == [torch.get_num_threads()] * 2
    expected = nearest_in_pytorch(rows, quantizer.codebook)
    _assert_same_or_tied(codes, expected, rows, quantizer.codebook)
    assert (codes == expected).float().mean() > 0.999
    assert len(codes.unique()) > K // 2


@needs_kernels
def test_a_quantizer_gives_a_vector_the_same_code_alone_and_in_a_batch() -> None:
    rows, codebook = _nearly_tied(600)
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D)).eval()
    quantizer.codebook.copy_(codebook)
    codes = quantizer.encode(rows.T[None])
    assert torch.equal(codes[0], torch.cat([quantizer.encode(row[None]) for row in rows]))
    assert torch.equal(codes.view(3, 200), quantizer.encode(rows.view(3, 200, D).transpose(1, 2)))


def test_what_the_kernels_do_not_take_goes_to_pytorch(calls, monkeypatch) -> None:
    rows, codebook = _noise(20, 4), _noise(9, 4, seed=1)
    expected = nearest_in_pytorch(rows, codebook)
    assert torch.equal(nearest(rows.double(), codebook.double()), expected)
    assert nearest(rows[:, :1], torch.arange(MAX_SIZE + 1.0)[:, None]).max() < 10
    monkeypatch.setattr(quantizer_module, "kernels", lambda: None)
    assert torch.equal(nearest(rows, codebook), expected)
    assert calls == []


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_broken_codebooks_do_not_stop_a_run_before_its_check(codebook) -> None:
    """Training looks at its loss now and then: until it does, broken vectors and codes must not stop it."""
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=9, dim=4, codebook_update=codebook))
    quantizer(_noise(2, 4, 20))
    for value in (INF, NAN, 0.0):
        q = quantizer(_noise(2, 4, 20) + value)
        assert 0 <= q.codes.min() <= q.codes.max() < 9
    assert not q.loss.isfinite()
