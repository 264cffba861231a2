"""What torch may shorten on a GPU is forbidden inside, and afterwards as it was."""

from __future__ import annotations

import pytest
import torch

from pyneurons.backends.float32_sums import SWITCHES, float32_sums

MATMUL = torch.backends.cuda.matmul


@pytest.mark.parametrize("allowed", [False, True])
def test_every_switch_is_off_inside_and_as_it_was_afterwards(allowed: bool) -> None:
    def fail() -> None:
        with float32_sums():
            assert not any(getattr(MATMUL, name) for name in SWITCHES)
            raise KeyError

    with float32_sums():  # which puts back what this test changes
        for name in SWITCHES:
            setattr(MATMUL, name, allowed)
        with pytest.raises(KeyError):
            fail()
        assert all(getattr(MATMUL, name) == allowed for name in SWITCHES)
