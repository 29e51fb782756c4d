"""The engine: from requests to tokens. Knows no Django, no Celery, no Redis.

Nothing is imported here: `interface` must be importable where there is no torch.
"""

import os

# The threads of a matrix product wait for each other by spinning, 10 ms by default. Where another process has work for
# the core, as the web process always does, that made a step forty times slower (measured: 1.1 s). About 250 µs
# cover the pause between two products. It is read when torch is first imported, so it is set before that.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# Code that oneDNN makes for each shape of a product is 0.6 MB. By default it keeps that of 1,024 shapes, and steps of
# all sizes would come to so many. Read when the first product is computed.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "96")
