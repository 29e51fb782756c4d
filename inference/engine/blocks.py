"""Which blocks of the cache belong to whom, and which hold something worth keeping. Knows no tensors, only numbers.

A block is held by every sequence whose table names it. A full one whose content is known (`publish`) stays findable
after its last holder has gone, until somebody needs the room: the longest unused goes first. Content is named by a
chain of SHA-256, so that a name stands for everything before the block as well (the prefix caching of vLLM).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

BLOCK_SIZE = 16  # tokens


class OutOfBlocks(Exception):
    """The cache is full; nothing was handed out."""


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def chain_root(*parts: str) -> bytes:
    """The name of "nothing yet" under a salt: what must not share blocks differs in a part."""
    salted = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        salted.update(len(encoded).to_bytes(8, "little") + encoded)
    return salted.digest()


def chain_names(root: bytes, names: list[bytes], token_ids: Sequence[int], full_blocks: int) -> None:
    """Extends `names` to those of the first `full_blocks` blocks of the tokens."""
    while len(names) < full_blocks:
        start = len(names) * BLOCK_SIZE
        tokens = array("q", token_ids[start : start + BLOCK_SIZE]).tobytes()
        names.append(hashlib.sha256((names[-1] if names else root) + tokens).digest())


class BlockManager:
    """Blocks 1.. are handed out; block 0 belongs to nobody and fills up the tables of shorter sequences."""

    def __init__(self, num_blocks: int) -> None:
        """`num_blocks`: with block 0."""
        self.num_blocks = num_blocks
        # Last in, first out: blocks that were used before are used again before new memory is touched.
        self._empty = list(range(num_blocks - 1, 0, -1))
        self._kept: dict[int, None] = {}  # held by nobody, with known content; the longest unused first
        self._holders: dict[int, int] = {}
        self._name: dict[int, bytes] = {}
        self._block: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Blocks that can be had, known content or not."""
        return len(self._empty) + len(self._kept)

    @property
    def held(self) -> int:
        """Blocks that sequences have."""
        return len(self._holders)

    @property
    def kept(self) -> int:
        """Blocks that nobody has, with known content."""
        return len(self._kept)

    def find(self, names: Sequence[bytes]) -> list[int]:
        """The blocks that hold the longest known beginning of this chain. They are not held yet."""
        found = []
        for name in names:
            block = self._block.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[int]) -> None:
        """One holder more for each of these found blocks."""
        for block in blocks:
            self._kept.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def take(self, count: int) -> list[int]:
        """Blocks with one holder and no known content. Raises OutOfBlocks, and then nothing was taken."""
        if count > self.free:
            raise OutOfBlocks
        taken = []
        for _ in range(count):
            if self._empty:
                block = self._empty.pop()
            else:
                block = next(iter(self._kept))
                del self._kept[block]
                self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, name: bytes) -> None:
        """Makes a held block findable: it is full, and nobody writes to it any more. The first of a name counts."""
        if block not in self._name and name not in self._block:
            self._name[block] = name
            self._block[name] = block

    def release(self, table: list[int], *, poisoned: bool = False) -> list[int]:
        """One holder less for each block of a sequence; empties its table and answers the blocks nobody holds now.

        What is `poisoned` will not be found again.
        """
        freed = []
        # The end of a chain first: it is worth nothing without its beginning.
        while table:
            block = table.pop()
            if poisoned:
                self._forget(block)
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            del self._holders[block]
            freed.append(block)
            if block in self._name:
                self._kept[block] = None
            else:
                self._empty.append(block)
        return freed

    def _forget(self, block: int) -> None:
        name = self._name.pop(block, None)
        if name is not None:
            del self._block[name]

    def check_integrity(self, tables: Sequence[Sequence[int]]) -> None:
        """Raises AssertionError unless every block is free or has as many holders as tables name it."""
        holders: dict[int, int] = {}
        for table in tables:
            for block in table:
                holders[block] = holders.get(block, 0) + 1
        there = sorted([*holders, *self._empty, *self._kept])
        if holders != self._holders or there != list(range(1, self.num_blocks)):
            raise AssertionError(f"{len(holders)} blocks held, {self.free} free, of {self.num_blocks - 1}.")
        if {block: name for name, block in self._block.items()} != self._name or set(self._name) & {
            *self._empty
        }:
            raise AssertionError("What blocks hold is not what is said of them.")
