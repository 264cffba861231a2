from __future__ import annotations

import itertools
import threading
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import checkpoints
from pyneurons import ops
from pyneurons.errors import DTypeError, NonFiniteError, ShapeError
from pyneurons.model import opt
from pyneurons.model.checkpoint import Checkpoint, read_config
from pyneurons.panels import Panels, SplitPanels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyneurons.model.config import OptConfig

MODES = (torch.float32, torch.bfloat16)
VOCABULARY = checkpoints.BASE["vocab_size"]

# Float32 sums of at most 96 terms of order one, in another order.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sequences(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, VOCABULARY, n).tolist() for n in lengths]


def positions(lengths: list[int]) -> np.ndarray:
    return np.concatenate([np.arange(n) for n in lengths])


def unpack(mask: np.ndarray, neurons: int) -> np.ndarray:
    """Bits of [strips, m, words] as bool [m, F]."""
    rows = mask.transpose(1, 0, 2).reshape(mask.shape[1], -1)
    bits = rows[:, :, None] >> np.arange(32, dtype=np.uint32) & 1
    return bits.reshape(len(rows), -1)[:, :neurons].astype(bool)


class Trace:
    """What one forward pass of our layers leaves behind."""

    def __init__(self) -> None:
        self.hidden: list[torch.Tensor] = []
        self.masks: list[np.ndarray] = []
        self.z_max: list[torch.Tensor] = []


def forward(
    checkpoint: Checkpoint,
    ids: list[list[int]],
    dtype: torch.dtype,
    weights: list[opt.LayerWeights] | None = None,
) -> Trace:
    config = checkpoint.config
    weights = weights or load(checkpoint, dtype)
    lengths = [len(sequence) for sequence in ids]
    hidden = opt.embed(
        np.concatenate(ids), positions(lengths), checkpoint.read_embeddings(), config
    )
    strips, words = ops.strip_shape(config.ffn_dim)
    trace = Trace()
    for layer in weights:
        # Poisoned: every word has to be overwritten.
        mask = np.full((strips, len(hidden), words), 0xDEADBEEF, dtype=np.uint32)
        z_max = torch.full((config.ffn_dim,), -torch.inf)
        opt.decoder_layer(hidden, lengths, layer, mask, z_max)
        trace.hidden.append(hidden.clone())
        trace.masks.append(mask)
        trace.z_max.append(z_max)
    return trace


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> list[opt.LayerWeights]:
    return [
        opt.convert_layer(checkpoint.read_layer(i), checkpoint.config, dtype)
        for i in range(checkpoint.config.num_hidden_layers)
    ]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Pre-activations of each call of `ops.ffn`, from its own operands."""
    found: list[torch.Tensor] = []
    ffn = ops.ffn

    def spy(x: torch.Tensor, weight: Any, bias: Any, *rest: Any, **options: Any) -> None:
        matrix = weight.weight() if isinstance(weight, Panels) else weight
        z = x.double() @ matrix.double().T
        found.append((z if bias is None else z + bias.double()).float())
        ffn(x, weight, bias, *rest, **options)

    monkeypatch.setattr(ops, "ffn", spy)
    return found


# --- against transformers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "stored"),
    [
        *((variant, torch.float32) for variant in checkpoints.VARIANTS),
        ("pre", torch.float16),
        ("350m", torch.float16),
        ("odd", torch.bfloat16),
    ],
    ids=str,
)
def test_pre_activations_are_those_of_transformers(
    tmp_path: Path, variant: str, stored: torch.dtype, seen: list[torch.Tensor]
) -> None:
    model = checkpoints.make(tmp_path, variant, dtype=stored, num_hidden_layers=3)
    checkpoint = Checkpoint(tmp_path)
    ids = sequences([64, 1, 33, 5, 64, 32, 31])
    trace = forward(checkpoint, ids, torch.float32)
    expected = checkpoints.pre_activations(model, ids)
    assert len(seen) == len(expected) == 3
    for layer, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        assert float((ours - theirs).abs().max()) < TOLERANCE
        clear = theirs.abs() > TOLERANCE
        fires = torch.from_numpy(unpack(trace.masks[layer], theirs.shape[1]))
        assert clear.float().mean() > 0.999
        assert torch.equal(fires[clear], theirs[clear] > 0)
        assert torch.allclose(trace.z_max[layer], theirs.amax(0), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", ["pre", "350m", "no_bias"])
def test_output_of_the_last_layer_is_that_of_transformers(tmp_path: Path, variant: str) -> None:
    model = checkpoints.make(tmp_path, variant)
    ids = sequences([40, 7])
    ours = forward(Checkpoint(tmp_path), ids, torch.float32).hidden[-1]
    layers = model.model.decoder.layers
    outputs: list[torch.Tensor] = []
    hook = layers[-1].register_forward_hook(lambda _m, _a, out: outputs.append(out[0]))
    with torch.inference_mode():
        for sequence in ids:
            model.model(input_ids=torch.tensor([sequence]), use_cache=False)
    hook.remove()
    theirs = torch.cat([out.reshape(-1, out.shape[-1]) for out in outputs])
    assert torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", ["pre", "350m", "odd"])
def test_bfloat16_errs_no_more_than_transformers_in_bfloat16(
    tmp_path: Path, variant: str, seen: list[torch.Tensor]
) -> None:
    model = checkpoints.make(tmp_path, variant, num_hidden_layers=3)
    ids = sequences([64, 33, 50])
    truth = checkpoints.pre_activations(model, ids)
    theirs = checkpoints.pre_activations(model.bfloat16(), ids)
    forward(Checkpoint(tmp_path), ids, torch.bfloat16)
    for exact, ours, other in zip(truth, seen, theirs, strict=True):
        error, allowed = (ours - exact).square().mean(), (other.float() - exact).square().mean()
        assert 0 < error < allowed


def test_a_model_without_its_position_offset_would_differ(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path)
    embeddings = Checkpoint(tmp_path).read_embeddings()
    decoder = model.model.decoder
    hidden = opt.embed(
        torch.tensor([5, 9]), torch.tensor([0, 63]), embeddings, Checkpoint(tmp_path).config
    )
    expected = decoder.embed_tokens.weight[[5, 9]] + decoder.embed_positions.weight[[2, 65]]
    assert torch.equal(hidden, expected)


# --- a sequence's bits depend on the sequence alone -----------------------------------------------


LENGTHS = [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 150, 256]


@pytest.fixture(
    scope="module", params=[("pre", 39), ("350m", 48), ("odd", 39), ("no_bias", 64)], ids=str
)
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Hidden sizes that are and are not multiples of 16."""
    variant, hidden = request.param
    directory = tmp_path_factory.mktemp("deep")
    checkpoints.make(
        directory,
        variant,
        hidden_size=hidden,
        word_embed_proj_dim=20 if variant == "350m" else hidden,
        num_attention_heads=3 if hidden % 3 == 0 else 4,
        ffn_dim=197,
        max_position_embeddings=256,
    )
    return Checkpoint(directory)


def parts(trace: Trace, lengths: list[int]) -> list[list[Any]]:
    """What each sequence got: its rows of every layer's output and bits."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return [
        [hidden[a:b] for hidden in trace.hidden] + [mask[:, a:b] for mask in trace.masks]
        for a, b in itertools.pairwise(bounds)
    ]


def assert_same_bits(ours: list[Any], alone: list[Any], what: str) -> None:
    for one, other in zip(ours, alone, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other)), what


@pytest.mark.parametrize("dtype", MODES, ids=str)
def test_company_changes_no_bit(deep: Checkpoint, dtype: torch.dtype) -> None:
    weights = load(deep, dtype)
    ids = sequences(LENGTHS)
    alone = [
        parts(forward(deep, [sequence], dtype, weights), [len(sequence)])[0] for sequence in ids
    ]
    generator = np.random.default_rng(3)
    for trial in range(4):
        order = generator.permutation(len(ids))
        strangers = sequences(generator.integers(1, 256, len(ids)).tolist(), seed=trial)
        company, places = [], {}
        for stranger, member in zip(strangers, order.tolist(), strict=True):
            if generator.random() < 0.5:
                company.append(stranger)
            places[member] = len(company)
            company.append(ids[member])
        got = parts(forward(deep, company, dtype, weights), [len(s) for s in company])
        for member, place in places.items():
            assert_same_bits(got[place], alone[member], f"{LENGTHS[member]} tokens, {trial=}")


@pytest.mark.parametrize("dtype", MODES, ids=str)
def test_threads_side_by_side_change_no_bit(deep: Checkpoint, dtype: torch.dtype) -> None:
    weights = load(deep, dtype)
    batches = [sequences(LENGTHS[i:] + LENGTHS[:i], seed=i) for i in range(6)]
    expected = [forward(deep, batch, dtype, weights) for batch in batches]
    found: dict[int, Trace] = {}
    failed: list[BaseException] = []
    start = threading.Barrier(2)

    def work(first: int) -> None:
        try:
            start.wait()
            with torch.inference_mode():
                for i in range(first, len(batches), 2):
                    found[i] = forward(deep, batches[i], dtype, weights)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for i, trace in enumerate(expected):
        for name in ("hidden", "masks", "z_max"):
            assert_same_bits(getattr(found[i], name), getattr(trace, name), f"{name} of batch {i}")


@pytest.mark.parametrize("rows", [32, 100, 10**6])
def test_how_many_attend_at_once_changes_no_bit(
    deep: Checkpoint, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sequences([64, 64, 20, 64, 20, 100, 64, 128])
    expected = forward(deep, ids, torch.float32)
    monkeypatch.setattr(opt, "ATTENTION_ROWS", rows)
    found = forward(deep, ids, torch.float32)
    assert_same_bits(found.hidden, expected.hidden, "hidden")


@pytest.mark.parametrize("dtype", MODES, ids=str)
@pytest.mark.parametrize(
    ("inner", "outer"), [(768, 2304), (768, 768), (39, 117), (67, 39), (20, 39), (17, 16), (16, 17)]
)
def test_a_row_has_the_same_product_in_every_place_of_a_block(
    dtype: torch.dtype, inner: int, outer: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(opt.ROWS, inner, generator=generator).to(dtype)
    weight = torch.randn(outer, inner, generator=generator).to(dtype)
    bias = torch.randn(outer, generator=generator).to(dtype)
    out, moved = torch.empty(2, opt.ROWS, outer, dtype=dtype)
    for given in (bias, None):
        opt._linear(x, weight, given, out)
        for shift in (1, 7, 100, 256):
            opt._linear(x.roll(shift, 0), weight, given, moved)
            assert torch.equal(moved.roll(-shift, 0), out)


def test_pad_rows_are_nothing_to_real_ones(deep: Checkpoint) -> None:
    """Whatever the buffers held before: the call before fills them with other, larger rows."""
    weights = load(deep, torch.float32)
    ids = sequences([5, 70])
    expected = forward(deep, ids, torch.float32, weights)
    hidden = torch.full((2000, deep.config.hidden_size), torch.nan)
    opt.attention(hidden, [1000, 1000], weights[0])
    assert hidden.isnan().all()
    assert_same_bits(
        forward(deep, ids, torch.float32, weights).hidden, expected.hidden, "after NaN"
    )


@pytest.mark.parametrize("lengths", [[1], [64], [32, 32], [31, 64, 1, 200, 64], [1] * 100])
def test_groups_hold_every_row_once(lengths: list[int]) -> None:
    total = sum(lengths)
    groups = list(opt._attention_groups(np.array(lengths), total))
    rows = np.concatenate([group.reshape(-1) for group in groups])
    assert np.array_equal(np.sort(rows[rows < total]), np.arange(total))
    for group in groups:
        assert group.shape[1] == opt.bucket(int((group[0] < total).sum()))
        assert len(group) == 1 or group.size <= opt.ATTENTION_ROWS


def test_bucket() -> None:
    assert [opt.bucket(n) for n in (1, 32, 33, 64, 65, 2047, 2048)] == [
        32,
        32,
        64,
        64,
        128,
        2048,
        2048,
    ]


# --- one layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["pre", "post"])
def test_the_last_layer_gives_the_same_bits_without_fc2(tmp_path: Path, variant: str) -> None:
    checkpoints.make(tmp_path, variant)
    checkpoint = Checkpoint(tmp_path)
    (weights, _) = load(checkpoint, torch.float32)
    start = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    got = []
    for last in (False, True):
        hidden, mask = start.clone(), np.zeros((1, 50, 3), dtype=np.uint32)
        z_max = torch.full((96,), -torch.inf)
        opt.decoder_layer(hidden, [20, 30], weights, mask, z_max, last=last)
        got.append((mask, z_max, hidden))
    assert np.array_equal(got[0][0], got[1][0])
    assert torch.equal(got[0][1], got[1][1])
    assert not torch.equal(got[0][2], got[1][2])


def test_backend_is_handed_on_and_z_max_is_kept(tmp_path: Path) -> None:
    checkpoints.make(tmp_path)
    (weights, _) = load(Checkpoint(tmp_path), torch.float32)
    start = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    masks = []
    for backend in ("reference", None):
        mask, z_max = np.zeros((1, 9, 3), dtype=np.uint32), torch.full((96,), 1e6)
        opt.decoder_layer(start.clone(), [9], weights, mask, z_max, backend=backend)
        assert (z_max == 1e6).all()
        masks.append(mask)
    assert np.array_equal(*masks)
    with pytest.raises(Exception, match="no-such-backend"):
        opt.decoder_layer(start, [9], weights, mask, z_max, backend="no-such-backend")


def test_stages_are_timed(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, "post")
    (weights, _) = load(Checkpoint(tmp_path), torch.float32)
    stages: list[str] = []

    class Stage:
        def __init__(self, name: str) -> None:
            stages.append(name)

        def __enter__(self) -> None:
            stages.append("(")

        def __exit__(self, *_: object) -> None:
            stages.append(")")

    mask, z_max = np.zeros((1, 9, 3), dtype=np.uint32), torch.zeros(96)
    opt.decoder_layer(torch.zeros(9, 32), [9], weights, mask, z_max, clock=Stage)
    assert " ".join(stages) == "attention ( ) norm ( ) ffn ( ) norm ( )"


def test_no_rows(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, "350m")
    checkpoint = Checkpoint(tmp_path)
    empty = np.zeros(0, dtype=np.uint16)
    hidden = opt.embed(empty, empty, checkpoint.read_embeddings(), checkpoint.config)
    assert hidden.shape == (0, 32)
    mask, z_max = np.zeros((1, 0, 3), dtype=np.uint32), torch.zeros(96)
    opt.decoder_layer(hidden, [], load(checkpoint, torch.float32)[0], mask, z_max)
    assert not z_max.any()


def test_values_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    checkpoints.make(tmp_path)
    (weights, _) = load(Checkpoint(tmp_path), torch.float32)
    hidden, mask = torch.zeros(9, 32), np.zeros((1, 9, 3), dtype=np.uint32)
    hidden[4, 7] = torch.inf
    with pytest.raises(NonFiniteError, match="row 4"):
        opt.decoder_layer(hidden, [4, 5], weights, mask, torch.zeros(96))


@pytest.mark.parametrize("lengths", [[4], [10], [5, 5], [9, 0], [-1, 10], [[9]], []])
def test_lengths_must_fit_the_rows(tmp_path: Path, lengths: list[Any]) -> None:
    checkpoints.make(tmp_path)
    (weights, _) = load(Checkpoint(tmp_path), torch.float32)
    hidden = torch.ones(9, 32)
    with pytest.raises(ShapeError, match="lengths must be from 1 on and sum to the 9 rows"):
        opt.attention(hidden, lengths, weights)
    assert (hidden == 1).all()


def test_hidden_must_be_contiguous_float32(tmp_path: Path) -> None:
    checkpoints.make(tmp_path)
    (weights, _) = load(Checkpoint(tmp_path), torch.float32)
    with pytest.raises(DTypeError, match=r"hidden is torch\.float64"):
        opt.attention(torch.zeros(9, 32).double(), [9], weights)
    with pytest.raises(ShapeError, match="contiguous"):
        opt.attention(torch.zeros(32, 9).T, [9], weights)


@pytest.mark.parametrize(
    ("ids", "places", "message"),
    [
        ([0, 101], [0, 1], "ids has values from 0 to 101, expected 0 to 100"),
        ([-1, 5], [0, 1], "ids has values from -1 to 5"),
        ([0, 1], [0, 64], "positions has values from 0 to 64, expected 0 to 63"),
        ([0, 1], [-1, 0], "positions has values from -1"),
        ([0, 1], [0], r"positions has shape \[1\], expected \[2\]"),
        ([[0]], [0], "ids has shape"),
    ],
)
def test_embed_checks_ranges(tmp_path: Path, ids: Any, places: Any, message: str) -> None:
    checkpoints.make(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(ShapeError, match=message):
        opt.embed(np.array(ids), np.array(places), checkpoint.read_embeddings(), checkpoint.config)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int64])
def test_embed_takes_the_ids_of_a_corpus(tmp_path: Path, kind: type) -> None:
    checkpoints.make(tmp_path, "350m")
    checkpoint = Checkpoint(tmp_path)
    embeddings = checkpoint.read_embeddings()
    ids, places = np.arange(100, dtype=kind), np.arange(100) % 64
    expected = opt.embed(
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(places),
        embeddings,
        checkpoint.config,
    )
    assert torch.equal(opt.embed(ids, places, embeddings, checkpoint.config), expected)


# --- weights --------------------------------------------------------------------------------------


def tensors_of(weights: opt.LayerWeights) -> dict[str, torch.Tensor]:
    values = ((entry.name, getattr(weights, entry.name)) for entry in fields(weights))
    tensors = ((name, value.data if isinstance(value, Panels) else value) for name, value in values)
    return {name: value for name, value in tensors if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("variant", ["pre", "no_bias", "no_affine"])
@pytest.mark.parametrize("dtype", MODES, ids=str)
def test_converted_layer(tmp_path: Path, variant: str, dtype: torch.dtype) -> None:
    checkpoints.make(tmp_path, variant, dtype=torch.float16)
    checkpoint = Checkpoint(tmp_path)
    config = checkpoint.config
    raw = checkpoint.read_layer(0)
    before = {name: values.clone() for name, values in raw.items()}
    weights = opt.convert_layer(raw, config, dtype)
    assert all(torch.equal(raw[name], values) for name, values in before.items())
    held = tensors_of(weights)
    for name, values in held.items():
        assert values.dtype == (torch.float32 if "norm" in name else dtype)
    qkv = weights.qkv_weight
    qkv = qkv.weight() if isinstance(qkv, Panels) else qkv
    assert torch.equal(qkv[32:64], raw["self_attn.k_proj.weight"].to(dtype))
    assert (weights.qkv_bias is None) == (variant == "no_bias")
    assert (weights.ffn_norm_weight is None) == (variant == "no_affine")
    assert sum(v.numel() for v in held.values()) == opt.layer_parameter_count(config)
    assert sum(v.nbytes for v in held.values()) == opt.converted_layer_bytes(config, dtype)
    assert 2 * opt.layer_parameter_count(config) == checkpoint.layer_bytes(0)


def test_weights_in_the_compute_dtype_are_not_copied(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, dtype=torch.float32)
    checkpoint = Checkpoint(tmp_path)
    raw = checkpoint.read_layer(0)
    weights = opt.convert_layer(raw, checkpoint.config, torch.float32)
    assert weights.fc1_weight is raw["fc1.weight"]
    assert weights.fc2_weight is raw["fc2.weight"]


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_weights_in_parts(tmp_path: Path, stored: torch.dtype) -> None:
    checkpoints.make(tmp_path, dtype=stored)
    checkpoint = Checkpoint(tmp_path)
    raw = checkpoint.read_layer(0)
    weights = opt.convert_layer(raw, checkpoint.config, torch.float32, split=True)
    held = 0
    for name in ("qkv", "out", "fc1", "fc2"):
        split = getattr(weights, f"{name}_weight")
        assert isinstance(split, SplitPanels)
        assert len(split.parts) == opt.SPLIT_PARTS.get(stored, 3)
        held += sum(part.data.nbytes for part in split.parts)
    assert torch.equal(weights.fc1_weight.weight(), raw["fc1.weight"].float())
    assert torch.equal(weights.qkv_weight.weight()[32:64], raw["self_attn.k_proj.weight"].float())
    held += sum(values.nbytes for values in tensors_of(weights).values())
    assert held <= opt.converted_layer_bytes(checkpoint.config, torch.float32, stored)
    assert held > opt.converted_layer_bytes(checkpoint.config, torch.float32) * 0.45
    raw["fc2.weight"][3, 5] = torch.inf
    with pytest.raises(NonFiniteError, match=r"fc2.weight\[3, 5\] is inf"):
        opt.convert_layer(raw, checkpoint.config, torch.float32, split=True)
    other = opt.convert_layer(
        checkpoint.read_layer(0), checkpoint.config, torch.bfloat16, split=True
    )
    assert isinstance(other.fc1_weight, Panels)
    assert isinstance(other.out_weight, Panels)


def test_layers_in_parts_are_as_near_to_float64_as_torch(tmp_path: Path) -> None:
    """Whole layers, errors of the residual stream against transformers in float64."""
    model = checkpoints.make(tmp_path, "pre", dtype=torch.float16).double()
    checkpoint = Checkpoint(tmp_path)
    ids = sequences([31, 64, 7], seed=5)
    outputs: list[torch.Tensor] = []
    model.model.decoder.layers[-1].register_forward_hook(
        lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.inference_mode():
        for sequence in ids:
            model.model(input_ids=torch.tensor([sequence]), use_cache=False)
    exact = torch.cat([out.reshape(-1, out.shape[-1]) for out in outputs])
    split = [
        opt.convert_layer(checkpoint.read_layer(i), checkpoint.config, torch.float32, split=True)
        for i in range(checkpoint.config.num_hidden_layers)
    ]
    ours, torchs = (
        (forward(checkpoint, ids, torch.float32, weights).hidden[-1].double() - exact)
        .square()
        .mean()
        .sqrt()
        for weights in (split, None)
    )
    assert 0 < ours <= 1.1 * torchs


def test_rows_in_parts_depend_on_their_own_sequence_alone(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, dtype=torch.float16)
    checkpoint = Checkpoint(tmp_path)
    weights = [
        opt.convert_layer(checkpoint.read_layer(0), checkpoint.config, torch.float32, split=True)
    ]
    ids = sequences([40, 3, 63])
    together = forward(checkpoint, ids, torch.float32, weights)
    start = 0
    for sequence in ids:
        alone = forward(checkpoint, [sequence], torch.float32, weights)
        assert torch.equal(together.hidden[0][start : start + len(sequence)], alone.hidden[0])
        start += len(sequence)


def test_weights_of_the_ffn_are_laid_out_once(tmp_path: Path) -> None:
    checkpoints.make(tmp_path, dtype=torch.float16)
    checkpoint = Checkpoint(tmp_path)
    raw = checkpoint.read_layer(0)
    weights = opt.convert_layer(raw, checkpoint.config, torch.bfloat16)
    for name in ("fc1", "fc2"):
        panels = getattr(weights, f"{name}_weight")
        assert isinstance(panels, Panels)
        assert torch.equal(panels.weight(), raw[f"{name}.weight"].bfloat16())
    raw["fc2.weight"][3, 5] = torch.inf
    with pytest.raises(NonFiniteError, match=r"fc2.weight\[3, 5\] is inf"):
        opt.convert_layer(raw, checkpoint.config, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8])
def test_other_compute_dtypes_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.make(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(DTypeError, match=r"expected torch\.float32 or torch\.bfloat16"):
        opt.convert_layer(checkpoint.read_layer(0), checkpoint.config, dtype)


@pytest.mark.parametrize("variant", ["pre", "post", "no_affine", "no_bias"])
def test_norm_that_fc1_reads(tmp_path: Path, variant: str) -> None:
    checkpoints.make(tmp_path, variant)
    checkpoint = Checkpoint(tmp_path)
    raw = checkpoint.read_layer(0)
    weight, bias, gain, shift = opt.fc1_and_its_norm(raw, checkpoint.config)
    norm = "self_attn_layer_norm" if variant == "post" else "final_layer_norm"
    assert weight is raw["fc1.weight"]
    assert bias is raw.get("fc1.bias")
    assert gain is raw.get(f"{norm}.weight")
    assert shift is raw.get(f"{norm}.bias")


def allocated(config: OptConfig, lengths: list[int], dtype: torch.dtype, tmp_path: Path) -> int:
    """Most bytes that torch holds at once in a layer beyond what it held before, and the scratch."""
    checkpoints.make(
        tmp_path,
        hidden_size=config.hidden_size,
        ffn_dim=config.ffn_dim,
        num_hidden_layers=1,
        max_position_embeddings=config.max_position_embeddings,
    )
    checkpoint = Checkpoint(tmp_path)
    (weights,) = load(checkpoint, dtype)
    strips, words = ops.strip_shape(config.ffn_dim)
    mask = np.zeros((strips, sum(lengths), words), dtype=np.uint32)
    z_max = torch.zeros(config.ffn_dim)
    ids, places = np.ones(sum(lengths), dtype=np.int64), positions(lengths)
    embeddings = checkpoint.read_embeddings()

    def work() -> None:
        hidden = opt.embed(ids, places, embeddings, checkpoint.config)
        opt.decoder_layer(hidden, lengths, weights, mask, z_max)

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most + sum(len(buffer) for buffer in opt._scratch._buffers.values())


@pytest.mark.parametrize("dtype", MODES, ids=str)
@pytest.mark.parametrize("lengths", [[512] * 4, [500, 3, 90, 400, 512, 40, 503], [1] * 300])
def test_workspace_is_an_upper_bound(
    tmp_path: Path, dtype: torch.dtype, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Buffers that other tests left behind would not be seen.
    monkeypatch.setattr(opt, "_scratch", opt._Scratch())
    checkpoints.config(hidden_size=64, ffn_dim=256, max_position_embeddings=512).save_pretrained(
        tmp_path
    )
    config = read_config(tmp_path / "config.json")
    # What is not torch's memory does not show in the profile.
    bound = opt.workspace_bytes(config, 512, dtype) - opt._PRODUCT_BUFFER_BYTES
    used = allocated(config, lengths, dtype, tmp_path)
    assert used <= bound
    if lengths[0] > 1:
        assert used >= 0.4 * bound
