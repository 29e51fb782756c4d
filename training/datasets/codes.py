"""What reading can find wrong: how bad it is, and what to do about it. Knows nothing of how it is found.

OpenAI's codes where they have one. An error leaves its example out; a warning and a notice keep it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from training.datasets.problems import MAX_EXCERPT, Problem


class Code(NamedTuple):
    severity: Literal["error", "warning", "notice"]
    remedy: str


CODES: dict[str, Code] = {
    # Of a file.
    "empty_file": Code("error", "Upload a file with something in it."),
    "broken_file": Code("error", "Open it in the program that made it, save it again and upload that."),
    "encrypted_file": Code("error", "Save it without a password and upload that."),
    "file_too_long": Code("error", "Split it into smaller files."),
    "file_too_complex": Code("error", "Export its text to a plain format (JSONL, CSV, TXT) and upload that."),
    "no_text": Code(
        "error", "A scan has pictures of text: run text recognition (OCR) and upload the result."
    ),
    "pages_without_text": Code(
        "warning",
        "If they are scans, run text recognition (OCR) and upload the result: what is on them is not learnt.",
    ),
    "expands_too_much": Code("error", "Upload the unpacked files themselves."),
    "too_many_files": Code("error", "Split the archive into smaller ones."),
    "unreadable_member": Code(
        "warning", "Leave it out of the archive, or convert it to a format named here."
    ),
    "nested_archive": Code("warning", "Unpack it and upload what is in it."),
    "unreadable_file": Code("error", "Save it in a format that is read here, or correct how it is read."),
    "other_sheets": Code(
        "notice",
        "Nothing, if they do not belong here; else choose a sheet, or upload the workbook once more.",
    ),
    "legacy_encoding": Code(
        "notice", "Look whether its letters are right; else choose the encoding that it really has."
    ),
    "mixed_kinds": Code("error", "Make a dataset of its own for this file, or correct how it is to be read."),
    "unused_fields": Code(
        "notice",
        "Nothing, if they need not be learnt; else say on the file's page what they are, or write what they hold into "
        "a field that is used.",
    ),
    # Of a row, before it is known what it means.
    "line_too_long": Code("error", "Shorten it, or split it into several."),
    "invalid_encoding": Code("error", "Save the file as UTF-8, or choose the encoding it really has."),
    "invalid_json": Code("error", "Write each example as one valid JSON object."),
    "invalid_row": Code("error", "Close every quotation mark, and double those inside a quoted field."),
    "no_value": Code(
        "error", "Open the workbook where it was made, correct the cell, and save it with all its values."
    ),
    "too_many_fields": Code(
        "error", "Put fields that hold the separator in quotation marks, or give the table a column more."
    ),
    "data_type": Code("error", "Write it as the guide “Formats of data” shows."),
    "missing_column": Code("error", "Add the column, or say which column holds it."),
    # Of a conversation.
    "missing_messages_list": Code("error", 'Give the example a list of messages: {"messages": [...]}.'),
    "message_missing_key": Code("error", 'Give every message a "role" and a "content".'),
    "message_unrecognized_key": Code("warning", "Nothing, if it may be ignored; else put it in the content."),
    "unrecognized_role": Code("error", 'Use "system", "user" or "assistant".'),
    "missing_content": Code("error", "Write what was said, or leave the message out."),
    "example_missing_assistant_message": Code("error", "Add the answer that is to be learnt."),
    "tool_calls": Code("error", "Leave out examples that call tools, or write the call as text."),
    "tools_ignored": Code("warning", "Nothing: the example is learnt without its list of tools."),
    "image_content": Code("error", "Leave out pictures, sounds and files, or describe them in words."),
    "wrong_weight": Code("error", "Use 1 to learn a message and 0 not to."),
    "weight_ignored": Code("warning", "Nothing: only an assistant's messages are learnt and have a weight."),
    "rejected_answer": Code("error", "Leave it out, or say true if its answer is to be learnt after all."),
    "nothing_to_learn": Code("error", "Give at least one assistant message the weight 1."),
    "system_not_first": Code("warning", "Put what the system says at the start, as one message."),
    "consecutive_role": Code("warning", "Join messages that one side says in a row."),
    "last_message_not_assistant": Code("warning", "End with the answer: what comes after it is not learnt."),
    "too_many_messages": Code("error", "Split it into several conversations."),
    "missing_prompt": Code("error", "Add what both answers reply to: a prompt, or the messages before them."),
    "prompts_differ": Code(
        "warning", "Compare answers to the same prompt: correct it, or leave the pair out."
    ),
    "same_answers": Code("error", "Give a preferred answer that differs from the rejected one."),
    # Of a table's or document's example.
    "empty_example": Code("error", "Leave it out, or fill it in."),
    "empty_field": Code("warning", "Fill it in, or choose when cleaning whether such examples are dropped."),
    "bad_label": Code("error", "Write a label as a short text or a number, several as a list of them."),
    "bad_value": Code("error", "Write a finite number, such as 3.5."),
}


# Not seen, but needed for what is: emoji of several, Persian and Hindi words, signs among Hebrew and Arabic.
_JOINING = "\u200c\u200d\u200e\u200f\u061c\u00ad"


def problem(code: str, file: str, line: int, path: str, excerpt: object, reason: str) -> Problem:
    known = CODES[code]
    return Problem(code, known.severity, file, line, path, shown(excerpt), reason, known.remedy)


def shown(value: object, length: int = MAX_EXCERPT) -> str:
    """A value as a person may look at it: one line, cut, without what cannot be displayed or encoded."""
    # Cut first: a value may be millions of characters long.
    text = value[: 4 * length] if isinstance(value, str) else _brief(value)[: 4 * length]
    seen = (c if c.isprintable() or c.isspace() or c in _JOINING else "�" for c in text)
    text = " ".join("".join(seen).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _brief(value: object, depth: int = 0) -> str:
    """Like JSON, but of a long list only its beginning is ever written."""
    if isinstance(value, str):
        return f'"{value[:MAX_EXCERPT]}"'
    if isinstance(value, bytes):
        return value[:MAX_EXCERPT].decode("utf-8", "replace")
    if isinstance(value, dict):
        if depth > 3:
            return "{…}"
        some = [f"{_brief(str(k))}: {_brief(v, depth + 1)}" for k, v in list(value.items())[:8]]
        return "{" + ", ".join(some) + (", …" if len(value) > 8 else "") + "}"
    if isinstance(value, list):
        if depth > 3:
            return "[…]"
        return (
            "[" + ", ".join(_brief(v, depth + 1) for v in value[:8]) + (", …" if len(value) > 8 else "") + "]"
        )
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >> 256:
        return "a very large number"  # Python refuses to print some
    return str(value)
