import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vqaudio.nn.quantizer import perplexity
from vqaudio.nn.vector_quantizer import (
    VectorQuantizer,
    VectorQuantizerConfig,
    kmeans,
    nearest,
    nearest_in_pytorch,
)

K, D = 8, 4
STEADY = 10_000  # updates after which the moving averages have their full memory


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _quantizer(vectors: Tensor | None = None, **options) -> VectorQuantizer:
    """In training mode, with these vectors (K, D) as its codebook, at a late update."""
    vectors = _noise(K, D, seed=9) if vectors is None else vectors
    codes, width = vectors.shape
    options = {"codebook_size": codes, "dim": width, "restart_threshold": 0.0, "kmeans_iterations": 0, **options}
    quantizer = VectorQuantizer(VectorQuantizerConfig(**options))
    quantizer.initialise([vectors])  # as many vectors as codes: each becomes one
    with torch.no_grad():
        quantizer.codebook.copy_(vectors)
        quantizer.ema_sum.copy_(vectors * quantizer.ema_count[:, None])
        quantizer.updates.fill_(STEADY)
    return quantizer


def _columns(rows: Tensor) -> Tensor:
    """Vectors (M, D) -> a batch of one (1, D, M)."""
    return rows.T[None]


def _buffers(quantizer: VectorQuantizer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in quantizer.state_dict().items()}


def _assert_same(left: dict[str, Tensor], right: dict[str, Tensor], atol: float = 0.0) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


# --- the nearest code ---


def _brute_force(rows: Tensor, codebook: Tensor) -> Tensor:
    """Squared distances (M, K) in float64."""
    return (rows.double()[:, None] - codebook.double()[None]).square().sum(2)


@pytest.mark.parametrize("search", [nearest, nearest_in_pytorch])
@settings(max_examples=100, deadline=None)
@given(
    num_rows=st.integers(0, 40),
    num_codes=st.integers(2, 70),
    width=st.integers(1, 20),
    span=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_nearest_is_brute_force_and_the_first_of_equals(search, num_rows, num_codes, width, span, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    # small whole numbers: float32 is exact on them, and many distances are equal
    rows = torch.randint(-span, span + 1, (num_rows, width), generator=generator).float()
    codebook = torch.randint(-span, span + 1, (num_codes, width), generator=generator).float()
    expected = [min(range(num_codes), key=distances.__getitem__) for distances in _brute_force(rows, codebook).tolist()]
    codes = search(rows, codebook)
    assert codes.dtype == torch.int64
    assert codes.tolist() == expected


@pytest.mark.parametrize("search", [nearest, nearest_in_pytorch])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_nearest_is_as_close_as_in_float64(search, scale) -> None:
    rows, codebook = _noise(9000, 6) * scale, _noise(30, 6, seed=1) * scale  # more vectors than are compared at once
    distances = _brute_force(rows, codebook)
    chosen = distances.gather(1, search(rows, codebook)[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(1).values, rtol=0, atol=1e-5 * scale**2)


# --- what a forward pass gives ---


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
@pytest.mark.parametrize("shape", [(6,), (6, 10), (3, 2, 10), (2, 3, 2, 5)])
def test_any_spatial_shape_is_the_same_vectors(codebook, shape) -> None:
    batch, *spatial = shape
    flat, shaped = _quantizer(codebook_update=codebook), _quantizer(codebook_update=codebook)
    z = _noise(batch, D, *spatial)
    rows = z.movedim(1, -1).reshape(-1, D)
    q, expected = shaped(z), flat(_columns(rows))
    assert q.z_q.shape == z.shape
    assert q.codes.shape == (batch, *spatial)
    assert q.codes.dtype == torch.int64
    assert torch.equal(q.codes.flatten(), expected.codes.flatten())
    assert torch.equal(q.z_q.movedim(1, -1).reshape(-1, D), expected.z_q[0].T)
    torch.testing.assert_close(q.loss, expected.loss)
    torch.testing.assert_close(q.perplexity, expected.perplexity)
    _assert_same(_buffers(shaped), _buffers(flat), atol=1e-6)


def test_decoded_codes_are_the_quantized_vectors() -> None:
    quantizer, z = _quantizer().eval(), _noise(3, D, 7)
    q = quantizer(z)
    assert torch.equal(quantizer.encode(z), q.codes)
    torch.testing.assert_close(quantizer.decode(q.codes), q.z_q, rtol=0, atol=1e-6)
    assert torch.equal(quantizer.decode(q.codes)[1, :, 2], quantizer.codebook[q.codes[1, 2]])


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_unit_norm_compares_directions(codebook) -> None:
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=8, dim=D, codebook_update=codebook, unit_norm=True))
    for step in range(3):
        z = _noise(2, D, 30, seed=step).requires_grad_()
        q = quantizer(z)
        (q.loss + q.z_q.pow(3).sum()).backward()
        assert z.grad is not None and z.grad.any()
    z = _noise(2, D, 30)
    quantizer.eval()
    torch.testing.assert_close(quantizer.vectors.norm(dim=1), torch.full((8,), D**0.5))
    rows = z.movedim(1, -1).flatten(0, 1)
    nearest = torch.cosine_similarity(rows[:, None], quantizer.codebook[None], dim=2).argmax(1)
    assert torch.equal(quantizer.encode(z).flatten(), nearest)
    assert torch.equal(quantizer.encode(7 * z), quantizer.encode(z))
    q = quantizer(z)
    torch.testing.assert_close(q.z_q, quantizer.decode(q.codes))


def test_gradient_goes_straight_through() -> None:
    quantizer, weight = _quantizer(), _noise(3, D, 7, seed=1)

    def reconstruction(z_q: Tensor) -> Tensor:
        return (weight * z_q).sum() + z_q.sin().sum() + z_q.pow(2).mean()

    z = _noise(3, D, 7).requires_grad_()
    z_q = quantizer(z).z_q
    reconstruction(z_q).backward()
    leaf = z_q.detach().requires_grad_()
    reconstruction(leaf).backward()
    assert z.grad is not None and leaf.grad is not None
    assert torch.equal(z.grad, leaf.grad)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_losses_and_their_gradients_by_hand(codebook) -> None:
    quantizer = _quantizer(codebook_update=codebook, commitment_weight=0.3)
    z = _noise(2, D, 5).requires_grad_()
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    with torch.no_grad():
        codes = quantizer.encode(z)
        error = (z - quantizer.decode(codes)) * mask[:, None]  # (B, D, S)
    count = 8 * D  # numbers in the valid vectors
    by_gradient = codebook == "gradient"
    q = quantizer(z, mask)
    expected = (0.3 + by_gradient) * error.square().sum() / count
    torch.testing.assert_close(q.loss, expected)
    (q.loss + 5 * q.z_q.sum()).backward()
    torch.testing.assert_close(z.grad, 2 * 0.3 * error / count + 5)
    if by_gradient:  # equation 3 and nothing else: the reconstruction sends nothing to the codebook
        rows = error.movedim(1, -1).reshape(-1, D)
        onto = torch.zeros(K, D).index_add_(0, codes.flatten(), -2 * rows / count)
        torch.testing.assert_close(quantizer.codebook.grad, onto)
    else:
        assert not list(quantizer.parameters())


def test_perplexity_by_hand() -> None:
    codebook = torch.eye(4) * 3
    quantizer = _quantizer(codebook).eval()
    for codes, expected in (([2] * 6, 1.0), ([0, 0, 3, 3], 2.0), ([0, 1, 2, 3] * 2, 4.0)):
        assert quantizer(_columns(codebook[codes])).perplexity.item() == pytest.approx(expected)
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert perplexity(torch.tensor([4.0, 2.0, 2.0])).item() == pytest.approx((shares**-shares).prod().item())
    assert perplexity(torch.zeros(5)).item() == 1


def test_wrong_widths_are_refused() -> None:
    quantizer = _quantizer()
    for wrong in (torch.zeros(2, D + 1, 5), torch.zeros(2, 5, D), torch.zeros(D)):
        with pytest.raises(ValueError, match=rf"\(B, {D}, \*S\), got"):
            quantizer(wrong)
        with pytest.raises(ValueError, match=rf"\(B, {D}, \*S\), got"):
            quantizer.encode(wrong)


@pytest.mark.parametrize("shape", [(0, D, 5), (2, D, 0), (0, D), (2, D, 3, 0)])
@pytest.mark.parametrize("training", [False, True])
def test_an_empty_batch_gives_an_empty_result(shape, training) -> None:
    quantizer = _quantizer().train(training)
    before = quantizer.codebook.clone()
    q = quantizer(torch.zeros(shape))
    assert q.z_q.shape == shape
    assert q.codes.shape == (shape[0], *shape[2:])
    assert (q.loss.item(), q.perplexity.item()) == (0, 1)
    assert quantizer.encode(torch.zeros(shape)).shape == q.codes.shape
    torch.testing.assert_close(quantizer.codebook, before)


def test_a_codebook_cannot_be_initialised_from_padding() -> None:
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D))
    with pytest.raises(ValueError, match="consist of padding only"):
        quantizer(_noise(2, D, 3), torch.zeros(2, 3, dtype=torch.bool))


# --- training of the codebook ---


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_evaluation_changes_nothing(codebook) -> None:
    fresh = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update=codebook))
    for quantizer in (fresh, _quantizer(codebook_update=codebook, restart_threshold=0.5)):
        quantizer.eval()
        before = _buffers(quantizer)
        for seed in range(3):
            z = _noise(2, D, 6, seed=seed).requires_grad_()
            quantizer(z, torch.ones(2, 6, dtype=torch.bool)).z_q.sum().backward()
            quantizer.encode(z)
        _assert_same(_buffers(quantizer), before)


@pytest.mark.parametrize("updates", [0, STEADY])
def test_moving_averages_follow_their_formula(updates) -> None:
    quantizer = _quantizer(ema_decay=0.9)
    quantizer.updates.fill_(updates)
    before = _buffers(quantizer)
    count, total = before["ema_count"].double(), before["ema_sum"].double()
    for seed in range(5):
        number = updates + seed + 1
        decay = min(0.9, (1 + number) / (10 + number))  # a short memory at first
        rows = _noise(12, D, seed=seed) * 2
        codes = quantizer.encode(_columns(rows))[0]
        quantizer(_columns(rows))
        for k in range(K):
            chosen = rows[codes == k].double()
            count[k] = decay * count[k] + (1 - decay) * len(chosen)
            total[k] = decay * total[k] + (1 - decay) * chosen.sum(0)
        torch.testing.assert_close(quantizer.ema_count.double(), count, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quantizer.ema_sum.double(), total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(quantizer.codebook.double(), total / count[:, None], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(quantizer.codebook, before["codebook"], atol=0.1)


def test_a_code_that_is_never_chosen_does_not_move() -> None:
    quantizer = _quantizer(ema_decay=0.0)
    before = quantizer.codebook.clone()
    rows = before[[1, 1, 5]] + 0.01
    quantizer(_columns(rows))
    quantizer(_columns(rows))
    expected = before.clone()
    expected[[1, 5]] += 0.01
    torch.testing.assert_close(quantizer.codebook, expected)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_codes_are_looked_up_before_the_codebook_moves(codebook) -> None:
    quantizer, moved = _quantizer(codebook_update=codebook, ema_decay=0.1, restart_threshold=0.5), False
    for seed in range(4):
        z, old = _noise(2, D, 20, seed=seed), quantizer.codebook.detach().clone()
        expected = nearest(z.movedim(1, -1).reshape(-1, D), old).view(2, 20)
        q = quantizer(z)
        assert torch.equal(q.codes, expected)
        torch.testing.assert_close(q.z_q, old[expected].movedim(-1, 1), rtol=0, atol=1e-6)
        moved = moved or not torch.equal(quantizer.codebook, old)
    assert moved


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_restarted_codes_are_vectors_of_the_batch_and_stay_there(codebook) -> None:
    start = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    quantizer = _quantizer(start, codebook_update=codebook, ema_decay=0.9, restart_threshold=0.5)
    rows = _noise(400, 2)  # all of them nearest to code 0
    quantizer(_columns(rows))
    restarted = quantizer.codebook.detach()[1:].clone()
    for code in restarted:
        assert (rows == code).all(1).any()
    assert len(restarted.unique(dim=0)) == 3
    mean_count = quantizer.ema_count.mean()
    assert (quantizer.ema_count[1:] >= 0.5 * mean_count).all()  # no longer dead
    torch.testing.assert_close(quantizer.ema_sum[1:], restarted * quantizer.ema_count[1:, None])
    # the next batch chooses none of them: their old moving averages must have no effect
    quantizer(_columns(quantizer.codebook.detach()[:1].clone()))
    torch.testing.assert_close(quantizer.codebook.detach()[1:], restarted)


def test_restarts_at_different_updates_draw_different_vectors() -> None:
    rows, restarted = _noise(400, 2), []
    for updates in (STEADY, STEADY + 1, STEADY):
        quantizer = _quantizer(
            torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]]), ema_decay=0.9, restart_threshold=0.5
        )
        quantizer.updates.fill_(updates)
        quantizer(_columns(rows))
        restarted.append(quantizer.codebook[1:])
    assert not torch.equal(restarted[0], restarted[1])
    assert torch.equal(restarted[0], restarted[2])


def test_codes_in_use_are_not_restarted() -> None:
    codebook = torch.eye(4) * 10
    quantizer = _quantizer(codebook, ema_decay=0.0, restart_threshold=0.5)
    rows = codebook[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]] + 0.1  # all at more than half of the mean frequency
    quantizer(_columns(rows))
    torch.testing.assert_close(quantizer.codebook, codebook + 0.1)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_padded_frames_count_nowhere(codebook) -> None:
    options = {"codebook_size": K, "dim": D, "codebook_update": codebook, "ema_decay": 0.5, "restart_threshold": 0.5}
    cfg = VectorQuantizerConfig(**options, commitment_warmup_steps=0)
    padded, short = VectorQuantizer(cfg), VectorQuantizer(cfg)
    short.load_state_dict(padded.state_dict())
    for step in range(4):
        mask = torch.rand(3, 9, generator=torch.Generator().manual_seed(step)) < 0.7
        z = _noise(3, D, 9, seed=step)
        z.movedim(1, -1)[~mask] = 1e4
        z.requires_grad_()
        q = padded(z, mask)
        expected = short(_columns(z.detach().movedim(1, -1)[mask]))
        assert torch.equal(q.codes[mask], expected.codes[0])
        torch.testing.assert_close(q.loss, expected.loss)
        torch.testing.assert_close(q.perplexity, expected.perplexity)
        q.loss.backward()
        assert z.grad is not None
        assert (z.grad.movedim(1, -1)[~mask] == 0).all()
        assert (z.grad.movedim(1, -1)[mask] != 0).any()
        _assert_same(_buffers(padded), _buffers(short), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_half_precision_never_enters_the_quantizer(codebook, dtype) -> None:
    layer = torch.nn.Linear(D, D)
    cfg = VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update=codebook, ema_decay=0.9)
    quantizer = VectorQuantizer(cfg)
    exact = VectorQuantizer(cfg)
    exact.load_state_dict(quantizer.state_dict())
    for step in range(60):
        scale = 1e-6 if step % 3 else 300.0  # squares of both lie outside of float16
        with torch.autocast("cpu", dtype=dtype):
            z = (layer(_noise(2, 10, D, seed=step)) * scale).transpose(1, 2)
            assert z.dtype == dtype
            q = quantizer(z)
        expected = exact(z.float())
        for got, wanted in zip(q, expected, strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)
        q.loss.backward()
        assert q.loss.isfinite()
    assert q.z_q.dtype == q.loss.dtype == torch.float32
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_two_passes_of_half_a_batch_equal_one_of_the_whole(codebook) -> None:
    options = {
        "codebook_update": codebook,
        "ema_decay": 0.5,
        "restart_threshold": 0.5,
        "commitment_weight": 0.2,
        "commitment_warmup_steps": 3,
    }
    whole, halves = _quantizer(**options), _quantizer(**options)
    for quantizer in (whole, halves):
        quantizer.updates.fill_(0)
    halves.forwards_per_step = 2
    for step in range(5):
        z = _noise(4, D, 6, seed=step)
        expected, before = whole(z), _buffers(halves)
        first = halves(z[:2])
        _assert_same(_buffers(halves), before)
        second = halves(z[2:])
        assert torch.equal(torch.cat([first.codes, second.codes]), expected.codes)
        torch.testing.assert_close((first.loss + second.loss) / 2, expected.loss)
        _assert_same(_buffers(halves), _buffers(whole), atol=1e-5)


def test_usage_counts_codes_chosen_within_the_window() -> None:
    codebook = torch.eye(4) * 3
    quantizer = _quantizer(codebook, ema_decay=0.0)
    quantizer.updates.fill_(0)
    assert quantizer.usage().item() == 0
    for codes, last, last_two, ever in (([0, 1], 0.5, 0.5, 0.5), ([1], 0.25, 0.5, 0.5), ([2, 2], 0.25, 0.5, 0.75)):
        quantizer(_columns(codebook[codes]))
        assert [quantizer.usage(window).item() for window in (1, 2, 100)] == [last, last_two, ever]


def test_commitment_warms_up_linearly() -> None:
    quantizer = _quantizer(commitment_weight=0.25, commitment_start=0.05, commitment_warmup_steps=4)
    quantizer.updates.fill_(0)
    z = _noise(1, D, 6)
    for expected in (0.05, 0.10, 0.15, 0.20, 0.25, 0.25):
        error = (z - quantizer.decode(quantizer.encode(z))).square().mean()
        assert quantizer.commitment_weight.item() == pytest.approx(expected)
        assert quantizer(z).loss.item() == pytest.approx(expected * error.item(), rel=1e-4)
    at_once = VectorQuantizer(
        VectorQuantizerConfig(commitment_weight=0.25, commitment_start=0.05, commitment_warmup_steps=0)
    )
    assert at_once.commitment_weight.item() == 0.25


# --- the first codebook, and what all of it depends on ---


def test_kmeans_finds_separated_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    rows = (centres[:, None] + _noise(2, 50, 2) * 0.1).view(-1, 2)
    means = rows.view(2, 50, 2).mean(1)
    for seed in range(10):
        found = kmeans(rows, 2, 20, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(found[found[:, 0].argsort()], means[means[:, 0].argsort()])


def test_kmeans_gives_every_cluster_its_codes_and_ends_at_means() -> None:
    centres = torch.cartesian_prod(torch.tensor([0.0, 10.0]), torch.tensor([0.0, 10.0]))
    rows = (centres[:, None] + _noise(4, 40, 2) * 0.2).view(-1, 2)
    first, found = (kmeans(rows, 16, i, torch.Generator().manual_seed(0)) for i in (0, 50))
    assert (torch.cdist(centres, found).min(1).values < 1).all()
    codes = nearest(rows, found)
    torch.testing.assert_close(found[codes.unique()], torch.stack([rows[codes == k].mean(0) for k in codes.unique()]))
    assert (rows - found[codes]).square().sum() < (rows - first[nearest(rows, first)]).square().sum()


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_first_training_batch_initialises(codebook) -> None:
    quantizer = VectorQuantizer(
        VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update=codebook, restart_threshold=0.0)
    )
    assert not quantizer.initialised
    rows = _noise(K, D, seed=4) + 100  # as many vectors as codes: all errors are 0
    q = quantizer(_columns(rows))
    assert quantizer.initialised
    assert sorted(q.codes[0].tolist()) == list(range(K))
    assert q.loss.item() == pytest.approx(0, abs=1e-6)


def test_fewer_vectors_than_codes_can_initialise() -> None:
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=K, dim=D))
    rows = _noise(3, D)
    quantizer.initialise([rows])
    torch.testing.assert_close(quantizer.decode(quantizer.encode(_columns(rows))), _columns(rows))
    assert quantizer.codebook.isfinite().all()


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_all_follows_from_the_inputs_and_the_state(codebook) -> None:
    cfg = VectorQuantizerConfig(codebook_size=K, dim=D, codebook_update=codebook, ema_decay=0.5, restart_threshold=0.5)

    def trained(quantizer: VectorQuantizer, steps: range) -> VectorQuantizer:
        for step in steps:
            torch.manual_seed(len(steps) + step)  # independent of the global generator
            quantizer(_noise(2, D, 30, seed=step) * (step + 1))
        return quantizer

    torch.manual_seed(0)
    once = trained(VectorQuantizer(cfg), range(6))
    torch.manual_seed(1)
    halfway = trained(VectorQuantizer(cfg), range(3))
    resumed = VectorQuantizer(cfg)
    resumed.load_state_dict(halfway.state_dict())
    _assert_same(_buffers(trained(resumed, range(3, 6))), _buffers(once))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 1}, "codebook_size must lie in 2 to .*, got 1"),
        ({"dim": 0}, "dim in 1 to"),
        ({"codebook_update": "kmeans"}, "'ema', 'gradient' or 'simvq', got 'kmeans'"),
        ({"ema_decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"ema_decay": float("nan")}, "decay"),
        ({"commitment_weight": -0.1}, "commitment"),
        ({"kmeans_iterations": -1}, "kmeans_iterations"),
        ({"restart_threshold": 1.0}, r"restart_threshold must lie in \[0, 1\), got 1.0"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizerConfig(**options)


def test_a_training_batch_of_padding_moves_nothing() -> None:
    quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=4, dim=3)).train()
    quantizer(torch.randn(2, 3, 8))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 3, 8), torch.zeros(2, 8, dtype=torch.bool))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_encoding_can_be_exported_and_compiled() -> None:
    """The compiled search is no operation of PyTorch's: where a graph is made, PyTorch's form is in it."""

    class Encode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizer = VectorQuantizer(VectorQuantizerConfig(codebook_size=20, dim=5)).eval()

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.quantizer.encode(z)

    module, z = Encode(), torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(module, (z,)).module()
    assert torch.equal(exported(z), module(z))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(z), module(z))
