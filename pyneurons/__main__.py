"""``python -m pyneurons``."""

from __future__ import annotations

from pyneurons.cli import main

if __name__ == "__main__":
    main()
