"""From the counters of a run to the paper's tables: arrays in, arrays out, no torch.

A table is a dict of columns of equal length: NumPy arrays, or lists where a cell is itself a list.
Layers and neurons count from 0. The number in a module's first line is that of the definition it
follows.
"""

from __future__ import annotations
