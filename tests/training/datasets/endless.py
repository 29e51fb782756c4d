"""A process that was taken over: it talks, and never ends a line."""

import os

if __name__ == "__main__":
    while True:
        os.write(1, bytes(2**16))
