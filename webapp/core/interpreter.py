"""How a process of ours shares and cleans its interpreter. Knows nothing of what runs in it."""

import gc
import sys

# Python's default is 5 ms. Each time a thread comes back from a system call it wants the interpreter again, and one
# that computes may keep it for this long: at a thousand writes to sockets a second, longer than everything else.
_SWITCH_SECONDS = 0.0005


def settle() -> None:
    """For a process that serves, once everything it needs is imported and loaded: its threads take turns sooner, and
    the collector leaves alone what stays for good, which a full collection would walk through for 80 ms."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
