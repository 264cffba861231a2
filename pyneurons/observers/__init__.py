"""Observers: the bits of one layer in, integer counters out.

Each observer is given one strip of a layer's mask (`uint32 [N, W]`, up to 1,024 neurons) and
returns arrays whose last axis is the neurons of that strip; the engine joins the strips.
`weights` reads no bits: it tells what the layer's weights alone tell while they are at hand.
"""

from __future__ import annotations
