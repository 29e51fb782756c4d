"""How a process of ours shares and cleans its interpreter. Knows nothing of what runs in it."""

import atexit
import gc
import sys

# Python's default is 5 ms. Each time a thread comes back from a system call it wants the interpreter again, and one
# that computes may keep it for this long: at a thousand writes to sockets a second, longer than everything else.
_SWITCH_SECONDS = 0.0005


# Python's defaults: 700 new objects, 10 young collections, 10 middle ones, with a full collection then, which at 1,500
# open sockets stopped the web process for 220 to 430 ms every three seconds. What is left for it to find is little:
# garbage in cycles that outlived two collections.
_COLLECT_AFTER = (700, 10, 500)


# While a process starts nearly all that is made is modules, which stay.
_COLLECT_WHILE_IMPORTING = (50_000, 20, 100)


def begin() -> None:
    """For a process before it imports: looking for garbage among modules was a sixth of what a start took, and taking
    them all apart at the end, which the system does at once, a quarter of a short command."""
    gc.set_threshold(*_COLLECT_WHILE_IMPORTING)
    atexit.register(gc.freeze)


def settle(collect_after: tuple[int, int, int] = _COLLECT_AFTER) -> None:
    """For a process that serves, once everything it needs is imported and loaded: its threads take turns sooner, full
    collections are rare, and they leave alone what stays for good. `collect_after`: as gc.set_threshold takes it."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(*collect_after)
    gc.collect()
    gc.freeze()
