"""Chats as a company's might be, as many as asked for. Knows nothing of who reads them.

python -m tests.load.million_rows FILE [ROWS]
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

_SYLLABLES = "ba de fi go lu mer nor pa qui ros sta tin ver wol xan yel zor chi dra fen gla hum".split()
_COMMON = (
    "the order of my with a and to is for in please can you we it that on this have will your account address "
    "delivery invoice parcel refund return payment week today support number item"
).split()


def write_chats(file: Path, rows: int, *, seed: int = 7) -> None:
    """OpenAI's format, about 500 bytes a row. Of a hundred rows two are repeated exactly, three nearly, three name an
    email address or a telephone number, and ten are not ASCII."""
    chance = random.Random(seed)
    rare = ["".join(chance.choices(_SYLLABLES, k=chance.randint(2, 4))) for _ in range(20_000)]
    earlier: list[tuple[str, str]] = []
    with file.open("w", encoding="utf-8") as lines:
        for row in range(rows):
            place = row % 100
            question, answer = _words(chance, rare, 24), _words(chance, rare, 46)
            if place in (10, 11) and earlier:
                question, answer = chance.choice(earlier)
            elif place in (20, 21, 22) and earlier:
                question, answer = chance.choice(earlier)
                answer += " " + chance.choice(rare)
            elif place == 30:
                question += f" Write to {chance.choice(rare)}@example.com."
            elif place in (40, 41):
                question += f" My number is +49 30 {chance.randint(1_000_000, 9_999_999)}."
            elif place < 10:
                question, answer = question.replace("a", "ä"), answer.replace("o", "ö")
            if place == 50:
                earlier = [*earlier[-1000:], (question, answer)]
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _words(chance: random.Random, rare: list[str], count: int) -> str:
    words = [*chance.choices(_COMMON, k=count // 2), *chance.choices(rare, k=count - count // 2)]
    chance.shuffle(words)
    return " ".join(words).capitalize() + "."


if __name__ == "__main__":
    write_chats(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
