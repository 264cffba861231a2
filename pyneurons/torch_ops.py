"""Two of the ops as torch's own, for use alone: ``torch.ops.pyneurons.ffn`` and ``.segment_counts``.

Importing this module registers them. They return new tensors, and trace under `torch.compile` and with
fake tensors. On tensors of the CPU they run on the backend that `pyneurons.backends` chooses; on those of a
CUDA device, unless ``PYNEURONS_BACKEND`` says otherwise, on ``cuda`` where it is built, else on ``triton``. There
is no gradient.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pyneurons import _env, backends, ops
from pyneurons.errors import ShapeError


@torch.library.custom_op(
    "pyneurons::ffn",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor fc1_weight, Tensor? fc1_bias=None, Tensor? fc2_weight=None, "
        "Tensor? fc2_bias=None) -> (Tensor, Tensor, Tensor)"
    ),
)
def ffn(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None = None,
    fc2_weight: Tensor | None = None,
    fc2_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one feed-forward block: ``y = relu(x @ fc1_weight.T + fc1_bias) @ fc2_weight.T + fc2_bias``.

    Parameters
    ----------
    x, fc1_weight, fc1_bias, fc2_weight, fc2_bias
        As in `pyneurons.ops.ffn`, contiguous, all on one device.

    Returns
    -------
    y : Tensor, [M, D_out], float32
        [M, 0] without ``fc2_weight``.
    mask : Tensor, [M, ceil(F / 32)], int32
        Who fires: bit ``f % 32`` of word ``f // 32``. All neurons in one row, as `segment_counts` takes it.
    z_max : Tensor, [F], float32
        The largest pre-activation of each neuron; minus infinity where M is 0.

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable, NonFiniteError
        As `pyneurons.ops.ffn`.
    """
    y, mask, z_max = _ffn_outputs(x, fc1_weight, fc2_weight)
    y.zero_()
    z_max.fill_(-torch.inf)
    ops.ffn(
        x,
        fc1_weight,
        fc1_bias,
        fc2_weight,
        fc2_bias,
        y,
        mask[None],
        z_max,
        backend=_backend(x),
    )
    return y, mask, z_max


@ffn.register_fake
def _(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None = None,  # noqa: ARG001
    fc2_weight: Tensor | None = None,
    fc2_bias: Tensor | None = None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return _ffn_outputs(x, fc1_weight, fc2_weight)


def _ffn_outputs(
    x: Tensor, fc1_weight: Tensor, fc2_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    for name, tensor in (("x", x), ("fc1_weight", fc1_weight), ("fc2_weight", fc2_weight)):
        if tensor is not None and tensor.ndim != 2:
            message = f"ffn: {name} has shape {list(tensor.shape)}, expected 2 axes"
            raise ShapeError(message)
    rows, neurons = x.shape[0], fc1_weight.shape[0]
    outer = 0 if fc2_weight is None else fc2_weight.shape[0]
    return (
        x.new_empty((rows, outer), dtype=torch.float32),
        x.new_empty((rows, (neurons + 31) // 32), dtype=torch.int32),
        x.new_empty((neurons,), dtype=torch.float32),
    )


@torch.library.custom_op(
    "pyneurons::segment_counts",
    mutates_args=(),
    schema="(Tensor mask, Tensor? order, Tensor segments, SymInt neurons) -> Tensor",
)
def segment_counts(mask: Tensor, order: Tensor | None, segments: Tensor, neurons: int) -> Tensor:
    """Return how often each neuron fires in each segment of rows.

    ``counts[s, f] = #{i in [segments[s], segments[s+1]) : bit f of mask[order[i]]}``.

    Parameters
    ----------
    mask : Tensor, [N, W], int32
        One bit per (row, neuron), as `ffn` returns it.
    order : Tensor, [M], int32, or None
        Rows of the mask; None is ``0, 1, ..., N - 1``.
    segments : Tensor, [G + 1], int64
        Bounds of the segments in ``order``. Like ``order``, it is checked on the host: what lies on a
        device is copied from there, which waits.
    neurons : int
        F, at most ``32 * W``.

    Returns
    -------
    Tensor, [G, F], int64

    Raises
    ------
    ShapeError, DTypeError, BackendUnavailable
        As `pyneurons.ops.segment_counts`.
    """
    counts = _counts(mask, segments, neurons).zero_()
    visited = None if order is None else order.cpu()
    ops.segment_counts(mask, visited, segments.cpu(), counts, backend=_backend(mask))
    return counts


@segment_counts.register_fake
def _(mask: Tensor, order: Tensor | None, segments: Tensor, neurons: int) -> Tensor:  # noqa: ARG001
    return _counts(mask, segments, neurons)


def _counts(mask: Tensor, segments: Tensor, neurons: int) -> Tensor:
    if segments.ndim != 1 or neurons < 0:
        message = (
            f"segment_counts: segments has shape {list(segments.shape)} and neurons is {neurons}, "
            f"expected 1 axis and 0 or more"
        )
        raise ShapeError(message)
    return mask.new_empty((segments.shape[0] - 1, neurons), dtype=torch.int64)


def _backend(tensor: Tensor) -> str | None:
    """Return the backend for the device of a tensor; None leaves the choice to `backends`."""
    if tensor.device.type != "cuda" or _env.backend() is not None:
        return None
    return _of_cuda_devices()


@cache
def _of_cuda_devices() -> str:
    return "cuda" if backends.why_not("cuda") is None else "triton"
