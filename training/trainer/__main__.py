"""`python -m training.trainer SPEC.json`: see command.py."""

import atexit
import gc
import sys

if __name__ == "__main__":
    # What is imported, torch above all, is no garbage: to look for some in it was a third of what a job takes to begin
    # and to end.
    gc.disable()
    from training.trainer.command import main

    gc.freeze()
    gc.enable()
    atexit.register(gc.freeze)
    sys.exit(main(sys.argv[1:], gives_way=True))
