"""OPT checkpoints on disk, and one decoder layer as functions."""

from __future__ import annotations
