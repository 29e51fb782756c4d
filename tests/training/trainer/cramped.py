"""The trainer on a disk without any room: no file of it may grow beyond 100 bytes."""

import resource
import runpy

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
runpy.run_module("training.trainer", run_name="__main__", alter_sys=True)
