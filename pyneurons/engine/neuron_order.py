"""Neurons in the order of how often they fired so far, and what was counted brought back from it.

fc2 leaves out tiles of neurons that are silent in a block of rows (`pyneurons.backends.triton_ffn`).
Neurons that never fire lie anywhere among the others, and hardly a tile is silent; put in the order of
their fires in a pilot, those that were dead there fill whole tiles at the end. How many tiles that
spares: ``bench/results/neuron_order.md``.

What changes and what does not: a pre-activation is the same sum of the same products wherever its
neuron lies, so a layer's bits and maxima, given the same input, are the same as long as the kernel's
order of terms does not depend on the place in a tile. fc2 adds the same terms in another order, so the
residual stream differs by rounding, and bits of later layers may flip where a pre-activation is next
to 0, as between any two machines. Sums that are exact are equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyneurons.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pyneurons.engine.mask import StripShape
    from pyneurons.observers.ngram import NgramCounts

_ROWS = 4096
"""Rows whose bits are unpacked together: a byte for each neuron."""


def neuron_order(fires: Tensor) -> Tensor:
    """Return the neurons from those that fired most to those that never did; equal ones by id.

    Parameters
    ----------
    fires : Tensor of integers, [F]
        How often each neuron fired in a pilot, on any device.

    Returns
    -------
    Tensor, int64, [F], on the same device
        ``order[place]`` is the neuron that gets this place.

    Notes
    -----
    Cost: a stable sort of F numbers.
    """
    return torch.argsort(fires, descending=True, stable=True)


def ordered_weights(
    order: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the weights of a feed-forward block with its neurons in an order.

    Parameters
    ----------
    order : Tensor, int64, [F]
        As `neuron_order` gives it, on the device of the weights.
    fc1_weight : Tensor, [F, D]
    fc1_bias : Tensor, [F], or None
    fc2_weight : Tensor, [D_out, F]
        fc2's bias has no neurons and stays as it is.

    Returns
    -------
    fc1_weight, fc1_bias, fc2_weight
        Copies: row, element and column ``place`` are those of ``order[place]``.

    Raises
    ------
    ShapeError
        If the order is not of F neurons.

    Notes
    -----
    Cost: reads and writes the weights once.
    """
    _check(order.shape[0], fc1_weight.shape[0])
    _check(order.shape[0], fc2_weight.shape[1])
    return (
        fc1_weight.index_select(0, order),
        None if fc1_bias is None else fc1_bias.index_select(0, order),
        fc2_weight.index_select(1, order),
    )


def counters_by_neuron(
    arrays: Mapping[str, np.ndarray], order: np.ndarray
) -> dict[str, np.ndarray]:
    """Return counters of neurons in an order as counters by neuron.

    Parameters
    ----------
    arrays : mapping of str to ndarray, [..., F]
        What the observers of a layer found on its mask, and ``z_max``.
    order : ndarray of int64, [F]
        As `neuron_order` gives it.

    Returns
    -------
    dict
        New arrays: ``[..., order[place]]`` is what was at ``[..., place]``.

    Raises
    ------
    ShapeError
        If the order is not of F neurons.
    """
    place = _places(order)
    for array in arrays.values():
        _check(place.size, array.shape[-1])
    return {name: array[..., place] for name, array in arrays.items()}


def ngrams_by_neuron(counts: NgramCounts, order: np.ndarray) -> NgramCounts:
    """Return the n-gram counts of neurons in an order as counts by neuron.

    Parameters
    ----------
    counts : NgramCounts
        Of a whole layer, whose ``neuron`` are places.
    order : ndarray of int64, [F]

    Returns
    -------
    NgramCounts
        Histograms and lists in the order of neurons; within a neuron nothing changes its place.

    Raises
    ------
    ShapeError
        If the order is not of F neurons.

    Notes
    -----
    Cost: copies the histograms, and sorts the lists by neuron.
    """
    place = _places(order)
    _check(place.size, counts.coverage.size)
    sizes = np.diff(counts.offsets)[place]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(counts.offsets.dtype)
    entry = np.repeat(counts.offsets[:-1][place] - offsets[:-1], sizes) + np.arange(offsets[-1])
    neuron = order[counts.rows["neuron"]].astype(counts.rows["neuron"].dtype)
    by_neuron = np.argsort(neuron, kind="stable")
    return replace(
        counts,
        ngram_fires=counts.ngram_fires[place],
        offsets=offsets,
        count=counts.count[entry],
        number=counts.number[entry],
        coverage=counts.coverage[place],
        rows={
            name: (neuron if name == "neuron" else column)[by_neuron]
            for name, column in counts.rows.items()
        },
    )


def bits_by_neuron(words: np.ndarray, order: np.ndarray, shape: StripShape) -> np.ndarray:
    """Return the bits of some rows of neurons in an order as bits by neuron.

    Parameters
    ----------
    words : ndarray of uint32, [strips, rows, strip_words]
    order : ndarray of int64, [F]
    shape : StripShape
        How they lie in strips.

    Returns
    -------
    ndarray of uint32, [strips, rows, strip_words]
        Bits past F are 0.

    Raises
    ------
    ShapeError
        If the order is not of F neurons, or the words are not of this shape.

    Notes
    -----
    Cost: a byte for each bit of 4,096 rows, which are unpacked and packed: for samples, and for
    bits on their way to the disk.
    """
    place = _places(order)
    _check(place.size, shape.neurons)
    strips, rows, strip_words = words.shape
    if (strips, strip_words) != (shape.strips, shape.strip_words):
        message = f"bits of shape {list(words.shape)} are not those of {shape}"
        raise ShapeError(message)
    found = np.empty_like(words, order="C")
    for start in range(0, rows, _ROWS):
        some = words[:, start : start + _ROWS].transpose(1, 0, 2)
        flat = np.ascontiguousarray(some).reshape(len(some), -1).view(np.uint8)
        fires = np.zeros((len(some), 8 * flat.shape[1]), dtype=np.uint8)
        unpacked = np.unpackbits(flat, axis=1, bitorder="little")
        fires[:, : place.size] = unpacked[:, place]
        packed = np.packbits(fires, axis=1, bitorder="little").view(np.uint32)
        found[:, start : start + _ROWS] = packed.reshape(some.shape).transpose(1, 0, 2)
    return found


def _places(order: np.ndarray) -> np.ndarray:
    """Return the place of every neuron."""
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return place


def _check(given: int, neurons: int) -> None:
    if given != neurons:
        message = f"an order of {given} neurons for {neurons}"
        raise ShapeError(message)
