"""Tells on which tokens of a corpus each feed-forward neuron of an OPT model fires.

``scan`` runs a model over a corpus, layer by layer, and returns a ``Scan``; ``load`` reads one
back from its directory. Importing this package loads no torch.
"""

from __future__ import annotations

from importlib.metadata import version

from pyneurons._merge import merge
from pyneurons._scan import load, scan
from pyneurons._scanned import Scan

__version__ = version("pyneurons-scan")
__all__ = ["Scan", "__version__", "load", "merge", "scan"]
