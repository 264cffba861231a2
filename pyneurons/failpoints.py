"""Places at which a test makes a run fail, or end, on purpose.

``PYNEURONS_FAILPOINT="rename=EIO@3,write=ENOSPC@2+"``: the third time that the point ``rename`` is
reached, EIO is raised there; from the second time on, ``write`` finds the disk full. ``*`` is every
point, counted together. Actions:

=============  =====================================================
``ENOSPC`` ..  any name of `errno`: an OSError of that kind
``memory``     MemoryError
``error``      RuntimeError
``kill``       SIGKILL to this process, which cannot be caught
``INT, TERM``  that signal to this process
=============  =====================================================

Where nothing is armed a point costs one branch.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from dataclasses import dataclass, field

from pyneurons import _env
from pyneurons.errors import InputError

_RULE = re.compile(r"(?P<point>\*|[a-z.]+)=(?P<action>\w+)@(?P<first>[1-9][0-9]*)(?P<on>\+?)")
_OTHERS = ("memory", "error", "kill", "INT", "TERM")


@dataclass
class _Rule:
    point: str
    action: str
    first: int
    on: bool
    reached: int = 0

    def meets(self, point: str) -> bool:
        """Count, and tell whether it is time."""
        if self.point not in ("*", point):
            return False
        self.reached += 1
        return self.reached >= self.first if self.on else self.reached == self.first


@dataclass
class Armed:
    """The rules of one text, and what they met."""

    rules: list[_Rule]
    points: dict[str, int] = field(default_factory=dict)  # how often each was reached
    fired: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, point: str) -> None:
        """Do what the first rule that meets this point says."""
        with self._lock:
            self.points[point] = self.points.get(point, 0) + 1
            met = next((rule for rule in self.rules if rule.meets(point)), None)
            if met is None:
                return
            self.fired += 1
        _act(met.action, point)


def _act(action: str, point: str) -> None:
    message = f"failpoint {point}"
    if action == "memory":
        raise MemoryError(message)
    if action == "error":
        raise RuntimeError(message)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in ("INT", "TERM"):
        os.kill(os.getpid(), getattr(signal, f"SIG{action}"))
        return
    raise OSError(getattr(errno, action), message)


_armed: Armed | None = None


def arm(text: str | None) -> Armed | None:
    """Arm what ``text`` says, in place of what was armed; None disarms.

    Raises
    ------
    InputError
        If the text is not a list of rules.
    """
    global _armed  # noqa: PLW0603  (one branch on one name is what an unarmed point may cost)
    _armed = None if text is None else Armed([_parse(rule) for rule in text.split(",") if rule])
    return _armed


def _parse(text: str) -> _Rule:
    found = _RULE.fullmatch(text)
    if found is None or not (found["action"] in _OTHERS or hasattr(errno, found["action"])):
        message = f"PYNEURONS_FAILPOINT: {text!r} is not POINT=ACTION@N or POINT=ACTION@N+"
        raise InputError(message)
    return _Rule(found["point"], found["action"], int(found["first"]), found["on"] == "+")


def at(point: str) -> None:
    """Fail here, if a test says so."""
    if _armed is not None:
        _armed.reach(point)


arm(_env.failpoint())
