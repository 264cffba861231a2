"""Plans for one GPU: arithmetic by hand, budgets kept, never slower with more of them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

import checkpoints
from pyneurons.engine.device_plan import (
    BASIS,
    DEVICE_RESERVE,
    HOST_RESERVE,
    Assumptions,
    Budgets,
    DevicePlan,
    Workload,
    _Arrangement,
    _Places,
    host_memory_to_compute,
    make_device_plan,
    micro_batch,
    most_tokens_without_file,
)
from pyneurons.engine.quantity import number_of, rate_of, size_of
from pyneurons.errors import InputError, ResourceError
from pyneurons.model.checkpoint import find_config
from pyneurons.model.config import PUBLISHED
from pyneurons.observers.vocabulary_device import projection_bytes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
PLENTY = Budgets(gpu_memory=1 << 44, host_memory=1 << 44, disk_space=1 << 50)


@pytest.mark.parametrize("size", list(PUBLISHED))
def test_published_sizes_are_those_of_transformers(size: str, tmp_path: Path) -> None:
    checkpoints.published_config(size).save_pretrained(tmp_path)
    assert find_config(tmp_path) == PUBLISHED[size]
    assert find_config(tmp_path / "config.json") == PUBLISHED[size]
    assert find_config(f"facebook/opt-{size}") == find_config(size) == PUBLISHED[size]


def test_125m_by_hand() -> None:
    """One layer: 4 D^2 + 2 D F weights, 5 D + F biases, 4 D of norms; 16,384,000 tokens."""
    tokens = 250 * 65_536
    rates = Assumptions(
        gemm_tflops=1, attention_tflops=1, kernel_share=0.5, gpu_bandwidth=1e15,
        pcie_bandwidth=1e9, disk_bandwidth=1e8,
    )  # fmt: skip
    plan = make_device_plan(PUBLISHED["125m"], tokens, ngrams=(), budgets=PLENTY, assumptions=rates)
    weights = 2 * (4 * 768**2 + 2 * 768 * 3072 + 5 * 768 + 3072 + 4 * 768)
    assert weights == 14_175_744
    assert plan.checkpoint == 2 * 125_239_296  # as published
    assert plan.micro_batch == 65_536
    assert plan.moved == {"weights, disk to host": weights, "weights, host to device": weights}
    assert plan.device == {
        "context": DEVICE_RESERVE,
        "weight ring": 3 * weights,
        "embeddings": plan.checkpoint - 12 * weights,
        "residual": 4 * 768 * tokens,
        "bits": 384 * tokens,
        "row orders": 8 * tokens,
        "workspace": 2 * (5 * 65_536 + 4) * 768,
        # More than h of a micro-batch takes, 2 * 65,536 * 3,072, and a block of norms.
        "counters": 4 * 2048 * 3072,
        "scores": projection_bytes(50_272, 768, 768),
    }
    assert plan.host == {
        "process": HOST_RESERVE,
        "corpus": 12 * tokens,
        "embeddings": plan.checkpoint - 12 * weights,
        "weight ring": 3 * weights,
        "counters": 2 * 4 * 2048 * 3072,
    }
    # 8,000 full sequences: counts of two bytes.
    assert plan.disk == {"position counts": 2 * 12 * 2048 * 3072}
    # 1 TFLOP/s and half of it reached: 2 us a million operations.
    operations = tokens * (8 * 768**2 + 4 * 768 * 3072 + 2 * 2048 * 768) + 2 * 50272 * 768 * 3072
    narrow = tokens * (2 * 6 * 768 + 2 * 384) / 0.5e15  # norms and counting, bytes alone
    assert plan.layer_s["compute"] == pytest.approx(operations / 0.5e12 + narrow, rel=1e-12)
    assert plan.layer_s["PCIe"] == weights / 1e9
    assert plan.layer_s["disk"] == weights / 1e8
    assert plan.bound == "compute"
    assert plan.total_s == pytest.approx(
        weights / 1e8 + weights / 1e9 + 12 * plan.layer_s["compute"]
    )
    assert plan.tokens_that_hide_weights == pytest.approx(
        weights / 1e8 / plan.layer_s["compute"] * tokens, abs=1
    )


def test_a_residual_in_three_places_by_hand() -> None:
    """66b with room for ten micro-batches on the device and five on the host, to the byte."""
    work = Workload(PUBLISHED["66b"], 40 * 16_384, 2048, (1, 2))
    places = _Places(mask="device", index="host", ring_slots=2)
    batch = 4 * 9216 * 16_384
    empty = _Arrangement(work, places, Budgets(0, 0))
    assert (empty.in_device, empty.in_host, empty.in_file) == (0, 0, work.tokens)
    device, host = (sum(parts.values()) for parts in empty.peaks()[:2])
    for missing, rows in ((0, (10, 5, 25)), (1, (9, 4, 27))):
        budgets = Budgets(device + 10 * batch - missing, host + 5 * batch - missing)
        filled = _Arrangement(work, places, budgets)
        assert (filled.in_device, filled.in_host, filled.in_file) == tuple(
            16_384 * batches for batches in rows
        )
        assert not filled.short()
    plan = _Arrangement(work, places, Budgets(device + 10 * batch, host + 5 * batch)).plan(
        Assumptions()
    )
    index = sum(work.index_sizes)
    weights = 2 * (4 * 9216**2 + 2 * 9216 * 36_864 + 9 * 9216 + 36_864)
    assert plan.moved == {
        "weights, disk to host": weights,
        "weights, host to device": weights,
        "residual, host to device": 30 * batch,
        "residual, device to host": 30 * batch,
        "residual, disk to host": 25 * batch,
        "residual, host to disk": 25 * batch,
        "n-gram indices, host to device": index,
    }
    assert plan.device["residual"] == 10 * batch
    assert plan.device["residual ring"] == 3 * batch
    assert plan.host["residual ring"] == 2 * batch
    assert plan.device["bits"] == 36_864 // 8 * work.tokens
    assert plan.host["n-gram indices"] == index
    assert plan.disk["residual"] == 25 * batch
    assert plan.layer_s["PCIe"] == (weights + 30 * batch + index) / 50e9
    assert plan.layer_s["disk"] == (weights + 50 * batch) / 3e9


def arrangements(seed: int, number: int) -> list[tuple[str, int, Budgets, Assumptions]]:
    """Return workloads whose budgets are now ample, now short."""
    generator = random.Random(seed)
    return [
        (
            generator.choice(list(PUBLISHED)),
            int(10 ** generator.uniform(3, 8)),
            Budgets(
                gpu_memory=int(2 ** generator.uniform(31, 38)),
                host_memory=int(2 ** generator.uniform(31, 39)),
                disk_space=int(10 ** generator.uniform(8, 13)),
            ),
            Assumptions(
                disk_bandwidth=10 ** generator.uniform(8, 11),
                pcie_bandwidth=10 ** generator.uniform(9, 11),
            ),
        )
        for _ in range(number)
    ]


def planned(
    size: str, tokens: int, budgets: Budgets, rates: Assumptions | None = None
) -> DevicePlan | str:
    """Return a plan, or what is said where nothing fits."""
    try:
        return make_device_plan(PUBLISHED[size], tokens, budgets=budgets, assumptions=rates)
    except ResourceError as error:
        return str(error)


def seconds(size: str, tokens: int, budgets: Budgets, rates: Assumptions) -> float:
    """Return the expected time, infinite where nothing fits; check what every plan must hold."""
    plan = planned(size, tokens, budgets, rates)
    if isinstance(plan, str):
        assert "GB more are needed" in plan
        return math.inf
    holds(plan)
    return plan.total_s


def holds(plan: DevicePlan) -> None:
    assert sum(plan.residual.values()) == plan.tokens
    assert min(plan.residual.values()) >= 0
    assert plan.micro_batch >= 16_384
    assert plan.micro_batch % plan.context == 0
    peaks = plan.predicted_peak
    assert peaks["device"] <= plan.budgets.gpu_memory
    assert peaks["host"] <= plan.budgets.host_memory
    assert peaks["disk"] <= plan.budgets.disk_space
    assert plan.layer_s[plan.bound] == max(plan.layer_s.values())
    assert (plan.residual["file"] > 0) == ("residual" in plan.disk)


def test_more_of_anything_is_never_slower() -> None:
    fits = short = 0
    for size, tokens, budgets, rates in arrangements(1, 150):
        before = seconds(size, tokens, budgets, rates)
        fits, short = fits + (before < math.inf), short + (before == math.inf)
        for name, given in asdict(budgets).items():
            for factor in (1.001, 1.3, 4):
                more = replace(budgets, **{name: int(given * factor)})
                assert seconds(size, tokens, more, rates) <= before, (size, tokens, name, factor)
        for name in set(BASIS) - {"kernel_share"}:
            faster = replace(rates, **{name: 1.5 * getattr(rates, name)})
            assert seconds(size, tokens, budgets, faster) <= before, (size, tokens, name)
    assert fits > 50
    assert short > 20


@pytest.mark.parametrize("size", list(PUBLISHED))
@pytest.mark.parametrize("gpu", [8, 24, 80, 141])
def test_every_size_keeps_to_its_card_or_says_what_is_short(size: str, gpu: int) -> None:
    plan = planned(size, 5_000_000, Budgets(gpu_memory=gpu * GIB))
    if isinstance(plan, str):
        assert gpu == 8
        assert plan.startswith("gpu_memory: 8.6 GB are given")
    else:
        holds(plan)


def test_micro_batches_depend_on_the_model_alone() -> None:
    assert micro_batch(PUBLISHED["1.3b"], 2048) == 65_536
    assert micro_batch(PUBLISHED["2.7b"], 2048) == 16_384
    assert micro_batch(PUBLISHED["66b"], 1000) == 17_000
    for budgets in (Budgets(), Budgets(gpu_memory=24 * GIB), PLENTY):
        for size, rows in (("125m", 65_536), ("13b", 16_384)):
            plan = make_device_plan(PUBLISHED[size], 10**6, budgets=budgets)
            assert plan.micro_batch == rows


def test_what_a_plan_advises_is_so() -> None:
    config = PUBLISHED["66b"]
    plan = make_device_plan(config, 5_000_000)
    assert plan.bound == "disk"
    host = host_memory_to_compute(plan, config)
    assert host is not None
    for given, bound in ((host, "compute"), (host - GIB, "disk")):
        budgets = replace(plan.budgets, host_memory=given)
        assert make_device_plan(config, 5_000_000, budgets=budgets).bound == bound
    most = most_tokens_without_file(plan, config)
    assert make_device_plan(config, most).residual["file"] == 0
    assert make_device_plan(config, most + plan.micro_batch).residual["file"] > 0
    slow = make_device_plan(config, 100_000, assumptions=Assumptions(disk_bandwidth=1e8))
    assert host_memory_to_compute(slow, config) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1}, "tokens"), ({"tokens": 1 << 31}, "tokens"), ({"context": 1}, "context"),
        ({"context": 4096}, "context"), ({"ngrams": (0,)}, "ngrams"), ({"ngrams": (9,)}, "ngrams"),
    ],
)  # fmt: skip
def test_bad_workloads_are_refused(change: dict[str, object], message: str) -> None:
    given = {"tokens": 1000} | change
    with pytest.raises(InputError, match=message):
        make_device_plan(PUBLISHED["125m"], **given)


@pytest.mark.parametrize("name", list(BASIS))
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_assumptions_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        Assumptions(**{name: value})
    with pytest.raises(InputError, match="at most 1"):
        Assumptions(kernel_share=1.01)


def test_every_assumption_has_its_basis() -> None:
    assert set(BASIS) == set(asdict(Assumptions()))


def test_quantities() -> None:
    assert rate_of("3GB/s", "x") == rate_of("3 GB", "x") == rate_of(3e9, "x") == 3e9
    assert rate_of("1MiB/s", "x") == 1 << 20
    assert [number_of(text, "x") for text in ("5M", "2e6", "1234", 7)] == [5e6, 2e6, 1234, 7]
    assert size_of("80GiB", "x") == 80 << 30
    for text in ("", "fast", "-1GB/s", "0", "GB/s", "inf"):
        with pytest.raises(InputError, match="x: "):
            rate_of(text, "x")
    for text in ("1.5", "2Mi", "many", "nan"):
        with pytest.raises(InputError, match="x: "):
            number_of(text, "x")


def test_a_plan_is_plain_values() -> None:
    plan = make_device_plan(PUBLISHED["13b"], 10**6)
    again = json.loads(json.dumps(plan.as_dict()))
    assert again == plan.as_dict()
    assert again["predicted_peak"]["device"] == sum(plan.device.values())
