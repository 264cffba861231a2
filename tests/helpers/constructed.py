"""An OPT checkpoint whose neurons have known roles, and a corpus that shows every role.

The residual stream is one-hot features. Feature j lives in the coordinates 2j and 2j + 1 with
opposite signs, so every vector has mean 0; each position has exactly one feature of each kind
(its token, its position, from layer 0's attention on the token before, from layer 1's the one
before that), so the norm is the same everywhere and LayerNorm is a known factor. A neuron with the
weight u on a feature and the threshold t has ``z = sum of u over the features present - t``, up to
about 2 % that the small updates of the layers below add. Its supremum over all residuals is
``sqrt(k) * |u| - t`` with k features present.

Gains and shifts of the LayerNorms are random and taken back in the weights that read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from transformers import OPTConfig

if TYPE_CHECKING:
    from pathlib import Path

Array = npt.NDArray[Any]
Place = tuple[int, int]
Gram = tuple[int, ...]

VOCABULARY = 60
CONTEXT = 64
HIDDEN = 512
NEURONS = 101
LAYERS = 3
HEADS = 8
AMPLITUDE = 4.0

# First feature of each kind; what is left are 12 features that only the updates write.
TOKEN, POSITION, BEFORE, SECOND_BEFORE, SPARE = 0, 60, 124, 184, 244
FEATURES = HIDDEN // 2

BOUNDARY, PAD = 2, 1
COMMON = range(4, 52)
SELDOM = (52, 53)  # four times and once
WEAK_ON, WEAK_OFF = 54, 55  # on every position in exactly one of 60 sequences
ABSENT = (56, 57, 58, 59)

FULL_SEQUENCES = 60  # of each domain
DOMAINS = ("first", "second")

BIGRAMS = [
    [(10, 11)],
    [(a, b) for a, b in product((12, 13), (14, 15))],
    [(16, 17)],
]
TRIGRAMS = [
    [(20, 21, 22)],
    [(a, 24, 25) for a in (23, 26)],
]
NEVER = (30, 31)  # both common, never one after the other


@dataclass
class Roles:
    """Where each role is, as (layer, neuron)."""

    dead: list[Place] = field(default_factory=list)  # on this corpus, proven or not
    proven_dead: list[Place] = field(default_factory=list)
    always: list[Place] = field(default_factory=list)  # on this corpus, proven or not
    proven_on: list[Place] = field(default_factory=list)
    detectors: dict[int, dict[Place, list[Gram]]] = field(
        default_factory=lambda: {1: {}, 2: {}, 3: {}}
    )  # by the smallest n
    suppressing: list[Place] = field(default_factory=list)  # of the token detectors
    promoting: list[Place] = field(default_factory=list)
    positional: dict[Place, tuple[str, str | None]] = field(default_factory=dict)
    outside: list[Place] = field(default_factory=list)  # alive, but on no countable n-gram
    awakened: list[Place] = field(default_factory=list)  # dead, but a token exists that fires them
    near: list[Place] = field(default_factory=list)  # almost a detector or positional
    plain: list[Place] = field(default_factory=list)


@dataclass
class Neuron:
    """Weights on features, a threshold, and the update's direction."""

    weights: dict[int, float]
    threshold: float
    update: dict[int, float] = field(default_factory=dict)
    mean: float = 0.0  # the same number on every coordinate: LayerNorm removes it


def token(*which: int) -> dict[int, float]:
    """Features of the token at the position itself."""
    return {TOKEN + v: 1.0 for v in which}


def before(*which: int) -> dict[int, float]:
    """Features of the token one before."""
    return {BEFORE + v: 1.0 for v in which}


def second_before(*which: int) -> dict[int, float]:
    """Features of the token two before."""
    return {SECOND_BEFORE + v: 1.0 for v in which}


def curve(values: Array) -> dict[int, float]:
    """One weight per position."""
    return {POSITION + p: float(value) for p, value in enumerate(values)}


def minus(weights: dict[int, float], factor: float = 1.0) -> dict[int, float]:
    """Weights with the other sign."""
    return {feature: -factor * weight for feature, weight in weights.items()}


def corpus() -> dict[str, Array]:
    """Token ids [sequences, 64] of two domains; the last rows of each are padded."""
    generator = np.random.default_rng(20230911)
    domains = {}
    for name in DOMAINS:
        rows = generator.choice(np.array(COMMON), size=(FULL_SEQUENCES + 4, CONTEXT))
        for grams in (*BIGRAMS, *TRIGRAMS):
            for gram in grams:
                for row in generator.choice(len(rows), size=24, replace=False):
                    at = int(generator.integers(1, CONTEXT - len(gram) + 1))
                    rows[row, at : at + len(gram)] = gram
        for gram in ((40, 21, 22), (41, 21, 22), (42, 24, 25), (43, 24, 25)):
            for row in generator.choice(len(rows), size=12, replace=False):
                at = int(generator.integers(1, CONTEXT - 2))
                rows[row, at : at + 3] = gram
        # A document ends: a separator about once in a sequence.
        rows[generator.random(rows.shape) < 1 / CONTEXT] = BOUNDARY
        for step, seldom in ((0, SELDOM[0]), (1, SELDOM[0]), (2, SELDOM[1])):
            if seldom == SELDOM[0] or name == DOMAINS[0]:
                rows[7 + 11 * step, 9 + 17 * step] = seldom
        number = np.arange(len(rows))[:, None] + np.arange(CONTEXT)[None]
        full = np.arange(len(rows))[:, None] < FULL_SEQUENCES
        rows[full & (number % FULL_SEQUENCES == 3)] = WEAK_ON
        rows[full & (number % FULL_SEQUENCES == 33)] = WEAK_OFF
        rows[:, 0] = BOUNDARY
        wrong = (rows[:, :-1] == NEVER[0]) & (rows[:, 1:] == NEVER[1])
        rows[:, 1:][wrong] = 32
        for row, length in zip(range(FULL_SEQUENCES, len(rows)), (63, 40, 7, 1), strict=True):
            rows[row, length:] = PAD
        domains[name] = rows.astype(np.int32)
    return domains


def neurons(layer: int, roles: Roles, generator: np.random.Generator) -> list[Neuron]:
    """Return the 101 neurons of a layer in random order, and write their places into ``roles``."""
    places = generator.permutation(NEURONS).tolist()
    made: list[Neuron | None] = [None] * NEURONS
    present = 3 if layer == 0 else 4
    furthest = present**0.5  # the largest value of one feature that a residual can have
    sign = 1 if layer % 2 else -1

    def add(neuron: Neuron) -> Place:
        place = places.pop()
        made[place] = neuron
        return layer, place

    def detector(n: int, neuron: Neuron, grams: list[Gram]) -> None:
        nonlocal sign
        if n == 1:
            neuron.update = {feature: sign * 0.02 for gram in grams for feature in token(*gram)}
        place = add(neuron)
        roles.detectors[n][place] = sorted(grams)
        if n == 1:
            (roles.promoting if sign > 0 else roles.suppressing).append(place)
            sign = -sign

    # Dead on this corpus. Each of the first two needs a token that the corpus lacks.
    for absent in (ABSENT[:1], ABSENT):
        place = add(Neuron(token(*absent), 0.5))
        roles.dead.append(place)
        roles.awakened.append(place)
    roles.dead.append(add(Neuron(before(NEVER[0]) | token(NEVER[1]), 1.5)))
    # No token fires this one, but some residual would.
    roles.dead.append(add(Neuron(token(4), 1.2)))
    # Just short of proven; then below 0 by less than the margin for rounding.
    roles.dead.append(add(Neuron(token(5), furthest * 0.999)))
    roles.dead.append(add(Neuron(token(5), furthest + 2e-5)))
    proven = (
        Neuron(token(5), furthest * 1.001),
        Neuron(token(5) | before(6) | curve(np.ones(CONTEXT)), furthest * 66**0.5 * 1.001),
        Neuron({}, 0.0),
        Neuron(token(7), furthest * 1.01, mean=0.05),
    )
    for neuron in proven:
        place = add(neuron)
        roles.dead.append(place)
        roles.proven_dead.append(place)

    # Always on.
    roles.always.append(add(Neuron(minus(token(*ABSENT)), -0.5)))
    roles.always.append(add(Neuron(token(8), -furthest * 0.999)))
    for neuron in (Neuron(token(8), -furthest * 1.001), Neuron({}, -0.25)):
        place = add(neuron)
        roles.always.append(place)
        roles.proven_on.append(place)

    # Token detectors of one to five tokens; layers share some.
    first = 4 + 3 * layer
    for size in range(1, 6):
        which = [first + 5 * i + size for i in range(size)]
        detector(1, Neuron(token(*which), 0.5), [(v,) for v in which])
    # Five hold 95 %, the two seldom ones belong to the set all the same.
    which = [*range(33 + layer, 38 + layer), *SELDOM]
    detector(1, Neuron(token(*which), 0.5), [(v,) for v in which])
    # All but one in fifty of its occurrences; then all fires but a few.
    detector(1, Neuron(token(44) | minus(before(45 + layer)), 0.5), [(44,)])
    leak = {TOKEN + 6: 0.4, BEFORE + 32: 0.4}
    detector(1, Neuron(token(45, 46) | leak, 0.6), [(45,), (46,)])
    # Not: one in ten occurrences missing; one fire in ten elsewhere; six tokens.
    roles.near.append(add(Neuron(token(33, 34) | minus(before(*range(35, 41))), 0.5)))
    leak = {TOKEN + v: 0.4 for v in range(8, 28)} | {BEFORE + 32 + layer: 0.4}
    roles.near.append(add(Neuron(token(45, 46) | leak, 0.6)))
    roles.near.append(add(Neuron(token(*range(38, 44)), 0.5)))

    # Bigrams and trigrams, through the heads that look one back.
    for grams in (BIGRAMS[layer], BIGRAMS[1]) if layer != 1 else (BIGRAMS[1],):
        lefts, rights = ({gram[i] for gram in grams} for i in range(2))
        detector(2, Neuron(before(*lefts) | token(*rights), 1.5), grams)
    if layer > 0:
        for grams in TRIGRAMS[:layer]:
            places_of = [{gram[i] for gram in grams} for i in range(3)]
            weights = second_before(*places_of[0]) | before(*places_of[1]) | token(*places_of[2])
            detector(3, Neuron(weights, 2.5), grams)

    # Positional. The weak ones make an exception of two tokens.
    position = np.arange(CONTEXT)
    exceptions = token(WEAK_ON) | minus(token(WEAK_OFF))
    half = {TOKEN + v: 0.5 if v % 2 else -0.5 for v in range(VOCABULARY)}
    waves = np.where((position + 3 * layer) // 10 % 2 == 0, 0.5, -0.5)
    step = np.where(position < 20 + 6 * layer, 0.5, -0.5)
    late = np.where(position >= 40, 1.0, 0.0)
    for strength, extra in (("strong", {}), ("weak", exceptions)):
        roles.positional[add(Neuron(curve(waves) | extra, 0.0))] = ("oscillatory", strength)
        roles.positional[add(Neuron(curve(step) | extra, 0.0))] = ("both", strength)
    roles.positional[add(Neuron(curve(late) | half, 0.0))] = ("one", "strong")
    roles.positional[add(Neuron(curve(-late) | half, 0.0))] = ("one", "strong")
    # Most of the others fire 1.0 above 0.5: one exception is enough on the late positions.
    weak = half | {TOKEN + WEAK_OFF: -1.5, TOKEN + WEAK_ON: 0.5}
    roles.positional[add(Neuron(curve(late) | weak, 0.0))] = ("one", "weak")
    graded = {TOKEN + v: -(v % 8) / 8 - 1 / 16 for v in range(VOCABULARY)}
    ramp = np.round((0.2 + 0.6 * position / (CONTEXT - 1)) * 8) / 8
    roles.positional[add(Neuron(curve(ramp) | graded, 0.0))] = ("other", None)
    flat = np.round((0.35 + 0.3 * position / (CONTEXT - 1)) * 8) / 8
    roles.near.append(add(Neuron(curve(flat) | graded, 0.0)))
    # At a context of 64 BOS alone makes a neuron positional: I = 0.0805.
    place = add(Neuron(token(BOUNDARY) | {POSITION: 1.0}, 1.5))
    roles.positional[place] = ("one", "strong")
    roles.outside.append(place)
    roles.outside.append(add(Neuron(token(BOUNDARY) | {POSITION: -1.0}, 0.5)))

    # The rest: many tokens in many contexts, a little of the position.
    while places:
        scale = np.full(FEATURES, 0.0)
        scale[TOKEN:POSITION] = 1.0
        scale[POSITION:BEFORE] = 0.05
        scale[BEFORE:SECOND_BEFORE] = 0.7
        if layer > 0:
            scale[SECOND_BEFORE:SPARE] = 0.5
        weights = dict(enumerate((generator.normal(size=FEATURES) * scale).tolist()))
        spare = {SPARE + i: float(0.01 * generator.normal()) for i in range(FEATURES - SPARE)}
        neuron = Neuron(weights, float(generator.uniform(-0.7, 0.7)), spare)
        roles.plain.append(add(neuron))
    return [neuron for neuron in made if neuron is not None]


def spread(weights: dict[int, float]) -> Array:
    """Feature weights as a vector over coordinates: half and minus half."""
    row = np.zeros(HIDDEN)
    for feature, weight in weights.items():
        row[2 * feature] = weight / 2
        row[2 * feature + 1] = -weight / 2
    return row


def read(first: int, number: int, rows: int) -> Array:
    """Return a matrix [rows, HIDDEN] whose row i is feature ``first + i``."""
    matrix = np.zeros((rows, HIDDEN))
    for i in range(number):
        matrix[i] = spread({first + i: 1.0})
    return matrix


class Norm:
    """A LayerNorm with random gain and shift, and what reads it with them taken back."""

    def __init__(self, generator: np.random.Generator, present: int) -> None:
        self.gain = generator.choice([0.5, 1.0, 2.0], size=HIDDEN)
        self.shift = generator.integers(-4, 5, size=HIDDEN) / 16
        deviation = (2 * present * AMPLITUDE**2 / HIDDEN + 1e-5) ** 0.5
        self.factor = AMPLITUDE / deviation  # of a feature behind the normalisation

    def reader(self, matrix: Array, bias: Array) -> tuple[Array, Array]:
        """Weight and bias that compute ``matrix @ features + bias`` behind gain and shift."""
        weight = matrix / self.factor / self.gain
        return weight, bias - weight @ self.shift

    def tensors(self, name: str) -> dict[str, Array]:
        """Return the LayerNorm itself."""
        return {f"{name}.weight": self.gain, f"{name}.bias": self.shift}


def attention(layer: int, norm: Norm, generator: np.random.Generator) -> dict[str, Array]:
    """Head 0 copies the token before (layer 0) or two before (layer 1); the others add nothing."""
    size = HIDDEN // HEADS
    zero = np.zeros(HIDDEN)
    query, key = (generator.normal(size=(HIDDEN, HIDDEN)) * 0.3 for _ in range(2))
    value, out = np.zeros((HIDDEN, HIDDEN)), np.zeros((HIDDEN, HIDDEN))
    if layer < 2:
        query[:size], key[:size] = 0.0, 0.0
        for p in range(CONTEXT):
            query[max(p - 1, 0)] += spread({POSITION + p: 1.0})
            key[p] = spread({POSITION + p: 1.0})
        query[:size] *= 60 * size**0.5  # logits of 60 and 0
        source, target = ((TOKEN, BEFORE), (BEFORE, SECOND_BEFORE))[layer]
        value[:size] = read(source, VOCABULARY, size)
        for v in range(VOCABULARY):
            out[2 * (target + v), v] = AMPLITUDE
            out[2 * (target + v) + 1, v] = -AMPLITUDE
    tensors = {}
    for name, matrix in (("q_proj", query), ("k_proj", key), ("v_proj", value)):
        weight, bias = norm.reader(matrix, zero)
        tensors |= {f"self_attn.{name}.weight": weight, f"self_attn.{name}.bias": bias}
    return tensors | {"self_attn.out_proj.weight": out, "self_attn.out_proj.bias": zero}


def make(directory: Path) -> Roles:
    """Write the checkpoint in Hugging Face's form and return the roles of its neurons."""
    generator = np.random.default_rng(7)
    roles = Roles()
    tokens = AMPLITUDE * 2 * read(TOKEN, VOCABULARY, VOCABULARY)
    positions = AMPLITUDE * 2 * read(POSITION, CONTEXT, CONTEXT)
    unused = generator.normal(size=(2, HIDDEN))  # OPT's positions begin at row 2
    arrays: dict[str, Array] = {
        "embed_tokens.weight": tokens,
        "embed_positions.weight": np.concatenate([unused, positions]),
    }
    for layer in range(LAYERS):
        norm = Norm(generator, min(2 + layer, 4))
        parts = norm.tensors("self_attn_layer_norm") | attention(layer, norm, generator)
        norm = Norm(generator, min(3 + layer, 4))
        made = neurons(layer, roles, generator)
        matrix = np.array([spread(neuron.weights) for neuron in made])
        threshold = np.array([neuron.threshold for neuron in made])
        weight, bias = norm.reader(matrix, -threshold)
        # A constant behind the gain; the shift reads it too.
        constant = np.array([neuron.mean for neuron in made])[:, None] / norm.gain / norm.factor
        updates = [2 * AMPLITUDE * spread(neuron.update) for neuron in made]
        shift = spread({SPARE + i: float(generator.normal()) * 0.2 for i in range(4)})
        parts |= norm.tensors("final_layer_norm")
        parts |= {
            "fc1.weight": weight + constant,
            "fc1.bias": bias - constant @ norm.shift,
            "fc2.weight": np.array(updates).T,
            "fc2.bias": shift,
        }
        arrays |= {f"layers.{layer}.{name}": part for name, part in parts.items()}
    arrays |= Norm(generator, 4).tensors("final_layer_norm")
    tensors = {
        f"model.decoder.{name}": torch.from_numpy(array.astype(np.float32, order="C"))
        for name, array in arrays.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        num_hidden_layers=LAYERS,
        ffn_dim=NEURONS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        architectures=["OPTForCausalLM"],
        dtype=torch.float32,
    ).save_pretrained(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return roles
