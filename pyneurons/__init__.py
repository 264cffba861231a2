"""On which tokens of a corpus does each feed-forward neuron of an OPT model fire?

``scan`` runs a model over a corpus, layer by layer, and returns a ``Scan``; ``load`` reads one
back from its directory. Importing this package loads no torch.
"""

from __future__ import annotations

from importlib.metadata import version

from pyneurons._scan import Scan, load, scan

__version__ = version("pyneurons-scan")
__all__ = ["Scan", "__version__", "load", "scan"]
