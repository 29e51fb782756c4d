"""How much of a file is read at most, so that no file, however made, fills memory or never ends. Knows no formats."""

from __future__ import annotations

MAX_LINE = 16 * 2**20  # bytes of one line, one row or one JSON value; what is longer is skipped and said
MAX_DOCUMENT = 16_000  # characters; longer texts are cut between paragraphs
MAX_PAGE_FILE = 64 * 2**20  # bytes of an HTML file, which is held whole
MAX_XML = 1 << 30  # bytes of one unpacked XML part of a DOCX or XLSX
MAX_MEMBERS = 10_000  # files in a ZIP
MAX_UNPACKED = 8 * 2**30  # bytes of all of them
MAX_RATIO = 200  # unpacked bytes for each packed one ...
FREE_UNPACKED = 64 * 2**20  # ... once more than this came out
MAX_COLUMNS = 1_000
MAX_MESSAGES = (
    1_000  # of a conversation: every answer's prompt is rendered, so what it takes grows with their square
)
MAX_SHEET_ROWS = 1_048_576  # Excel's own
PROBLEMS_KEPT = 1_000  # of each code

PART = 32 * 2**20  # bytes of a JSONL file that are read as one part, and become one shard
SMALL = 4 * 2**20  # bytes of text that are read at once, where starting a process would take longer
CHILD_MEMORY = 1536 * 2**20  # bytes of data a reading process may hold before it is refused more
MAX_ANSWER = 64 * 2**20  # bytes that a reading process may say at once: what is big travels as files
STALL = 60.0  # seconds a reading process may spend without reading one row further
