"""How many tiles of fc2 are silent, and how many more with neurons in the order of their fires.

Tiles are counted exactly on the demo model's own bits, and expected on patterns with the paper's dead
shares. The same run asserts that the order changes no bit of a layer, and that leaving tiles out
changes none of the result. ``python bench/neuron_order.py`` writes ``bench/results/neuron_order.md``;
it needs no GPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import interpreted  # noqa: F401  (before all others)
import machine
import pyneurons
from live_tiles import (
    NEURONS,
    ROWS,
    expected_live_share,
    firing_blocks,
    live_tiles,
    spread_rates,
)
from opt_shapes import FIRING_SHARE, SHAPES, fc1_bias
from pyneurons import corpus, demo, ops, reference
from pyneurons.engine.mask import StripShape
from pyneurons.engine.neuron_order import bits_by_neuron, neuron_order, ordered_weights
from pyneurons.model import opt
from pyneurons.model.checkpoint import Checkpoint, load_tokenizer
from pyneurons.panels import Panels, SplitPanels

PILOT: Final = 16_384
"""Tokens after which the order is made."""
CONTEXT: Final = 2048
CHECKED: Final = 128
"""Rows of each layer of the demo model on which bits are compared."""
FLIP_SEQUENCES: Final = 16
"""Of the demo corpus, run through all layers in both orders."""

DEAD: Final = json.loads((Path(__file__).parent / "dead_shares.json").read_text())["models"]
HIDDEN: Final = {
    "125m": 768,
    "1.3b": 2048,
    "2.7b": 2560,
    "6.7b": 4096,
    "13b": 5120,
    "30b": 7168,
    "66b": 9216,
}
"""F is four times as much."""

SPREAD: Final = {
    "66b": ((0.013, 0.227), (0.137, 0.936)),
    "30b": ((0.021, 0.277), (0.129, 0.950)),
    "6.7b": ((0.039, 0.458), (0.152, 0.957)),
}
"""Lower and upper half of the layers: shares of all neurons that fire on one row and on any of 128.

Of the router sizes in Polar Sparsity's configurations, which have some slack: upper bounds.
"""
SPREAD_OF: Final = {"30b": "30b", "66b": "66b"}
UNIFORM_RATE: Final = 0.01


# --- patterns with the paper's dead shares --------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """Shares of live tiles, mean over layers."""

    own: float
    pilot: float
    oracle: float

    @classmethod
    def mean(cls, layers: list[Shares]) -> Shares:
        return cls(
            *(
                float(np.mean([getattr(one, name) for one in layers]))
                for name in ("own", "pilot", "oracle")
            )
        )


def expected(rates: np.ndarray, random: np.random.Generator) -> Shares:
    """Return the expected shares for one layer whose neurons, in this order, fire at these rates."""
    counts = torch.from_numpy(random.binomial(PILOT, rates))
    by_pilot, by_rate = neuron_order(counts), neuron_order(torch.from_numpy(rates))
    return Shares(
        expected_live_share(rates),
        expected_live_share(rates[by_pilot.numpy()]),
        expected_live_share(rates[by_rate.numpy()]),
    )


def pattern(model: str, *, spread: bool) -> list[Shares]:
    """Return the shares of every layer of a published model."""
    random = np.random.default_rng(0)
    dead = np.array(DEAD[model]) / 100
    neurons = 4 * HIDDEN[model]
    found = []
    for layer, share in enumerate(dead):
        upper = 2 * layer >= dead.size
        half = dead[dead.size // 2 :] if upper else dead[: dead.size // 2]
        living = neurons - round(share * neurons)
        rates = np.zeros(neurons)
        if spread:
            one, any_of_128 = SPREAD[SPREAD_OF.get(model, "6.7b")][upper]
            alive = 1 - half.mean()
            rates[:living] = spread_rates(living, one / alive, min(any_of_128 / alive, 0.999))
        else:
            rates[:living] = UNIFORM_RATE
        found.append(expected(random.permutation(rates), random))
    return found


def fc2_share(hidden: int, context: int = CONTEXT) -> float:
    """Return fc2's part of the operations of a layer: products and causal attention; F is 4 D."""
    return 8 * hidden**2 / (24 * hidden**2 + 2 * context * hidden)


# --- the demo model -------------------------------------------------------------------------------


def spread_rows(rows: int, starts: np.ndarray) -> np.ndarray:
    """Return the rows of whole sequences, evenly spread, about `PILOT` of them."""
    wanted = max(1, round((starts.size - 1) * PILOT / rows))
    sequences = np.unique(np.linspace(0, starts.size - 2, wanted).astype(int))
    return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in sequences])


def demo_layer(fires: np.ndarray, starts: np.ndarray) -> dict[str, float]:
    """Return the shares of live tiles of one layer, bool [N, F], by the order of its neurons."""

    blocks = firing_blocks(fires)

    def share(counted: np.ndarray) -> float:
        order = neuron_order(torch.from_numpy(counted.sum(axis=0)))
        return float(live_tiles(blocks[:, order.numpy()]).mean())

    return {
        "dead": float((~blocks.any(axis=0)).mean()),
        "fires": float(fires.mean()),
        "own": float(live_tiles(blocks).mean()),
        "first rows": share(fires[:PILOT]),
        "spread rows": share(fires[spread_rows(len(fires), starts)]),
        "oracle": share(fires),
    }


def demo_inputs(ids: np.ndarray, checkpoint: Checkpoint) -> list[torch.Tensor]:
    """Return what fc1 reads in every layer on one sequence, float32."""
    config = checkpoint.config
    hidden = opt.embed(
        torch.from_numpy(ids.astype(np.int64)),
        torch.arange(len(ids)),
        checkpoint.read_embeddings(),
        config,
    )
    seen: list[torch.Tensor] = []
    real = ops.ffn

    def keep(x: torch.Tensor, *arguments: Any, **options: Any) -> None:
        seen.append(x.clone())
        real(x, *arguments, **options)

    ops.ffn = keep
    try:
        for layer in range(config.num_hidden_layers):
            weights = opt.convert_layer(checkpoint.read_layer(layer), config, torch.float32)
            mask = np.zeros((1, len(ids), config.ffn_dim // 32), dtype=np.uint32)
            z_max = torch.zeros(config.ffn_dim)
            opt.decoder_layer(hidden, [len(ids)], weights, mask, z_max)
    finally:
        ops.ffn = real
    return seen


def check_bits(x: torch.Tensor, raw: dict[str, torch.Tensor], fires: np.ndarray) -> int:
    """Assert that the order of a layer changes no bit; return how many bits were compared.

    On the CPU in both modes: bits and maxima of the order, brought back, are those without it. In
    Triton: the residual and the bits are the same whether silent tiles are left out or not, in both
    orders, and as many tiles are left out as are counted here.
    """
    order = neuron_order(torch.from_numpy(fires.sum(axis=0)))
    plain = raw["fc1.weight"], raw["fc1.bias"], raw["fc2.weight"]
    layouts = {
        torch.bfloat16: lambda weight: Panels.of(weight.bfloat16()),
        torch.float32: lambda weight: SplitPanels.of(weight, "a weight"),
    }
    neurons, outer = len(raw["fc1.bias"]), len(raw["fc2.weight"])
    shape = StripShape.of(neurons)
    for dtype, layout in layouts.items():
        found = []
        for fc1, bias, fc2 in (plain, ordered_weights(order, *plain)):
            mask = np.zeros((shape.strips, len(x), shape.strip_words), dtype=np.uint32)
            z_max, residual = torch.full((neurons,), -torch.inf), torch.zeros(len(x), outer)
            ops.ffn(
                x.to(dtype),
                layout(fc1),
                bias.to(dtype),
                layout(fc2),
                None,
                residual,
                mask,
                z_max,
                backend="cpp",
            )
            found.append((mask, z_max))
        (mask, z_max), (other, other_max) = found
        np.testing.assert_array_equal(bits_by_neuron(other, order.numpy(), shape), mask)
        assert torch.equal(other_max, z_max[order])
    for weights in (plain, ordered_weights(order, *plain)):
        check_skipping(x, [weight.bfloat16() for weight in weights])
    return len(layouts) * len(x) * neurons


def check_skipping(x: torch.Tensor, weights: list[torch.Tensor]) -> None:
    """Assert in Triton that leaving out silent tiles changes no bit."""
    from pyneurons.backends import triton_ffn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, weights = x.to(device, torch.bfloat16), [weight.to(device) for weight in weights]
    neurons = len(weights[1])
    cut = triton_ffn.stored_tiles(x, neurons)
    shape = StripShape.of(neurons)
    found = []
    for skip in (True, False):
        residual = torch.zeros(len(x), len(weights[2]), device=device)
        mask = torch.zeros(
            shape.strips, len(x), shape.strip_words, dtype=torch.int32, device=device
        )
        z_max = torch.full((neurons,), -torch.inf, device=device)
        triton_ffn.ffn(x, *weights, None, residual, mask, z_max, skip=skip)
        found.append((residual, mask))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    words = found[0][1].cpu().numpy().view(np.uint32).transpose(1, 0, 2).reshape(len(x), -1)
    blocks = firing_blocks(reference.unpack(words, neurons), cut.block_m)
    live = live_tiles(blocks, cut.block_k)
    alive = np.bitwise_or.reduceat(
        words[:, : -(-neurons // 32)], np.arange(0, len(x), cut.block_m), axis=0
    )
    _, number = triton_ffn.live_tiles(
        torch.from_numpy(alive.view(np.int32)).to(device), live.shape[1], cut, skip=True
    )
    assert number.tolist() == live.sum(axis=1).tolist()


def flips(
    ids: np.ndarray, checkpoint: Checkpoint, orders: list[torch.Tensor], dtype: torch.dtype
) -> list[int]:
    """Return by layer how many bits differ when every layer is run in its order, on one sequence each.

    ``ids`` is [S, T]. Own bits are equal given the same input; what differs comes from the residual
    stream, in which fc2's sums are rounded in another order.
    """
    config = checkpoint.config
    sequences, length = ids.shape
    positions = torch.arange(length).repeat(sequences)
    flat = torch.from_numpy(ids.reshape(-1).astype(np.int64))
    streams = [opt.embed(flat, positions, checkpoint.read_embeddings(), config) for _ in range(2)]
    shape = StripShape.of(config.ffn_dim)
    found = []
    for layer, order in enumerate(orders):
        raw = dict(checkpoint.read_layer(layer))
        names = "fc1.weight", "fc1.bias", "fc2.weight"
        moved = zip(names, ordered_weights(order, *(raw[name] for name in names)), strict=True)
        masks = []
        for stream, some in zip(streams, (raw, raw | dict(moved)), strict=True):
            weights = opt.convert_layer(some, config, dtype, split=dtype == torch.float32)
            mask = np.zeros((shape.strips, len(stream), shape.strip_words), dtype=np.uint32)
            z_max = torch.full((config.ffn_dim,), -torch.inf)
            opt.decoder_layer(stream, [length] * sequences, weights, mask, z_max, backend="cpp")
            masks.append(mask)
        back = bits_by_neuron(masks[1], order.numpy(), shape)
        found.append(int(np.bitwise_count(back ^ masks[0]).sum()))
    assert found[0] == 0  # the input of the first layer is the same
    return found


def demo_table() -> list[str]:
    """Scan the demo model; return its table."""
    directory = demo.model_directory()
    text = demo.demo_corpus()
    checkpoint = Checkpoint(directory)
    with tempfile.TemporaryDirectory() as folder:
        run = pyneurons.scan(
            directory, text, ngrams=(1,), keep_bits=True, progress=False, out=Path(folder) / "run"
        )
        with corpus.read(
            text,
            load_tokenizer(directory),
            context=checkpoint.config.max_position_embeddings,
            packing="pack",
            vocab_size=checkpoint.config.vocab_size,
            scratch=Path(folder),
        ) as read:
            starts = np.array(read.starts)
            first = starts[:-1][read.full][:FLIP_SEQUENCES]
            ids = np.array(read.ids[first[:, None] + range(read.context)])
        inputs = demo_inputs(ids[0, :CHECKED], checkpoint)
        lines = [
            (
                f"{len(run.bits(0)):,} tokens, {checkpoint.config.ffn_dim} neurons a layer. Shares of live "
                "tiles:"
            ),
            "",
            (
                "| layer | dead | cells that fire | own order | order of the first 16,384 tokens "
                "| of 16,384 tokens spread over the corpus | of all tokens |"
            ),
            "|--:|--:|--:|--:|--:|--:|--:|",
        ]
        compared = 0
        layers = []
        orders = []
        for layer in run.layers:
            fires = run.bits(layer)
            layers.append(demo_layer(fires, starts))
            orders.append(neuron_order(torch.from_numpy(fires[:PILOT].sum(axis=0))))
            raw = {name: value.float() for name, value in checkpoint.read_layer(layer).items()}
            compared += check_bits(inputs[layer], raw, fires[:PILOT])
            lines.append(
                f"| {layer + 1} | "
                + " | ".join(f"{100 * v:.1f} %" for v in layers[-1].values())
                + " |"
            )
    mean = {name: float(np.mean([one[name] for one in layers])) for name in layers[0]}
    lines.append("| all | " + " | ".join(f"{100 * value:.1f} %" for value in mean.values()) + " |")
    flipped = {
        name: flips(ids, checkpoint, orders, dtype)
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    }
    config = checkpoint.config
    assert config.ffn_dim == 4 * config.hidden_size
    of_layer = fc2_share(config.hidden_size, config.max_position_embeddings)
    own, pilot = 1 - mean["own"], 1 - mean["first rows"]
    lines += [
        "",
        (
            f"fc2 leaves out {100 * own:.1f} % of its tiles in the model's own order, {100 * pilot:.1f} % in "
            f"that of the first tokens: {100 * own * of_layer:.1f} and {100 * pilot * of_layer:.1f} % of a "
            f"layer's operations at {config.max_position_embeddings} tokens."
        ),
        "",
        (
            f"Bits compared with and without the order, on the CPU in bfloat16 and float32: {compared:,}, "
            "all equal, as are the largest pre-activations. In Triton (bfloat16) the residual and the bits "
            "are the same with silent tiles left out and multiplied, in both orders."
        ),
        "",
        (
            "fc2 adds in another order, so that later layers read a residual stream that differs by "
            f"rounding. Bits that flip in layers 1 to {len(orders)} when all run in their order, of "
            f"{ids.size * config.ffn_dim:,} a layer ({ids.size:,} tokens, on the CPU): "
            + "; ".join(f"{name} {', '.join(map(str, some))}" for name, some in flipped.items())
            + "."
        ),
    ]
    return lines


# --- the CPU --------------------------------------------------------------------------------------


def cpu_line(rounds: int = 15) -> str:
    """Time `ffn` in bfloat16 at 125m's shape, two fifths of the neurons dead, in both orders."""
    shape = SHAPES["opt-125m"]
    torch.manual_seed(0)
    rows, dead = 2048, 0.406
    x = torch.randn(rows, shape.hidden).bfloat16()
    fc1, fc2 = (
        torch.randn(shape.neurons, shape.hidden) * 0.02,
        torch.randn(shape.hidden, shape.neurons),
    )
    bias = torch.full((shape.neurons,), fc1_bias(shape, FIRING_SHARE))
    bias[torch.randperm(shape.neurons)[: round(dead * shape.neurons)]] = -1000
    strips = StripShape.of(shape.neurons)
    mask = np.zeros((strips.strips, rows, strips.strip_words), dtype=np.uint32)
    z_max, residual = torch.full((shape.neurons,), -torch.inf), torch.zeros(rows, shape.hidden)

    def run(weights: tuple[Any, ...]) -> float:
        began = time.perf_counter()
        ops.ffn(
            x, weights[0], weights[1], weights[2], None, residual, mask, z_max,
            backend="cpp",
        )  # fmt: skip
        return time.perf_counter() - began

    def laid_out(
        fc1: torch.Tensor, bias: torch.Tensor | None, fc2: torch.Tensor
    ) -> tuple[Any, ...]:
        assert bias is not None
        return Panels.of(fc1.bfloat16()), bias.bfloat16(), Panels.of(fc2.bfloat16())

    plain = laid_out(fc1, bias, fc2)
    run(plain)
    fires = reference.unpack(mask.transpose(1, 0, 2).reshape(rows, -1), shape.neurons)
    order = neuron_order(torch.from_numpy(fires.sum(axis=0)))
    pairs = [
        float(some.reshape(rows, -1, 2).any(axis=2).sum() / rows)
        for some in (fires, fires[:, order.numpy()])
    ]
    both = plain, laid_out(*ordered_weights(order, fc1, bias, fc2))
    taken = [[run(weights) for weights in both] for _ in range(rounds)]
    ratios = [one / other for one, other in taken]
    low, middle, high = statistics.quantiles(ratios, n=4)
    seconds = statistics.median(one for one, _ in taken)
    return (
        f"`ffn` on the CPU ({machine.name()}, {machine.BEST}, one thread, 768 x 3072, {rows} rows, "
        f"{100 * dead:.1f} % dead, others firing on {100 * FIRING_SHARE:.0f} % of rows, "
        f"{1000 * seconds:.1f} ms): without the order it takes {middle:.2f} times ({low:.2f} to "
        f"{high:.2f}) as long as with it. It skips pairs of neurons on single rows, and of pairs there are "
        f"about as many: {pairs[0]:.0f} of {shape.neurons // 2} a row fire without the order, {pairs[1]:.0f} "
        "with it."
    )


# --- the page -------------------------------------------------------------------------------------


def pattern_table() -> list[str]:
    lines = [
        (
            "| model | dead | living neurons | own order | order of the pilot | of the true rates "
            "| fc2 saved | of a layer |"
        ),
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for model in DEAD:
        for spread in (False, True):
            shares = Shares.mean(pattern(model, spread=spread))
            saved = 1 - shares.pilot
            values = (
                shares.own,
                shares.pilot,
                shares.oracle,
                saved,
                saved * fc2_share(HIDDEN[model]),
            )
            lines.append(
                f"| {model} | {np.mean(DEAD[model]):.1f} % | {'spread' if spread else 'uniform'} | "
                + " | ".join(f"{100 * value:.1f} %" for value in values)
                + " |"
            )
    return lines


def page() -> str:
    lines = [
        "# Neurons in the order of their fires: silent tiles of fc2",
        "",
        (
            f"Made by `bench/neuron_order.py` at commit {machine.commit()}; no GPU took part. A tile is "
            f"{NEURONS} neurons on {ROWS} rows: fc2 leaves it out where nothing in it fires. The order is "
            f"that of the fires in a pilot of {PILOT:,} tokens, ties by id."
        ),
        "",
        "## The demo model's own bits",
        "",
        *demo_table(),
        "",
        "## Patterns with the paper's dead shares",
        "",
        (
            "Expected shares of live tiles, mean over layers. Dead neurons (Figure 1a of arXiv 2309.04827, "
            "digitised) lie anywhere and never fire; the others fire independently of each other, which "
            "real ones do not: where they fire together, more tiles are silent. *Uniform*: every living "
            f"neuron on {100 * UNIFORM_RATE:.0f} % of rows, so that dead neurons alone save something: the "
            "sure part. *Spread*: rates whose logarithms are normal, so that as many neurons fire on one row "
            "and on any of 128 as the router sizes of Polar Sparsity's configurations allow, for the lower "
            "and the upper half of layers (66b: 1.3 and 22.7 %, 13.7 and 93.6 %; 30b: 2.1 and 27.7 %, 12.9 "
            "and 95.0 %; 6.7b, taken for all smaller ones and 13b: 3.9 and 45.8 %, 15.2 and 95.7 %): these "
            "are upper bounds, so true rates save more. The last two columns are of the order of the pilot: "
            "fc2's tiles left out, and their part of a layer's operations (products, and causal attention "
            f"at {CONTEXT:,} tokens)."
        ),
        "",
        *pattern_table(),
        "",
        "## The CPU",
        "",
        cpu_line(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "results"
    (folder / "neuron_order.md").write_text(page())


if __name__ == "__main__":
    main()
