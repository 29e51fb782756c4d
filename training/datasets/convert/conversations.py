"""Conversations and pairs of answers out of rows, in the forms that people keep them. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping

from training.datasets.convert.found import Found
from training.datasets.convert.messages import OPENAI, SHAREGPT, Dialect, check_conversation, read_messages
from training.datasets.examples import ChatExample, Message, PreferenceExample
from training.datasets.shapes import is_good

Fields = Mapping[str, object]  # what a row has, by our names for it


def chat(fields: Fields, found: Found) -> ChatExample:
    return _listed(fields, "messages", found, OPENAI)


def sharegpt(fields: Fields, found: Found) -> ChatExample:
    return _listed(fields, "conversations", found, SHAREGPT)


def _listed(fields: Fields, path: str, found: Found, dialect: Dialect) -> ChatExample:
    value = fields.get(path)
    before, messages = _system(fields, found), read_messages(value, path, found, dialect)
    if before and before == messages[:1]:
        before = []  # said in both places
    # Of a conversation with holes, the order says nothing; whether anybody answers still does.
    if (
        found.broken
        and isinstance(value, list)
        and value
        and not any(dialect.answers(item) for item in value)
    ):
        found.say(
            "example_missing_assistant_message", path, "", "Nobody answers, so there is nothing to learn."
        )
    return _chat(fields, before, messages, path, found)


def prompt_completion(fields: Fields, found: Found) -> ChatExample:
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if _blank(prompt) and _blank(completion):
        found.say("empty_example", "", prompt, "Prompt and completion are empty.")
    asked = _asked(fields, "prompt", "context", found)
    answer = _said("assistant", completion, "completion", found)
    return _chat(fields, _system(fields, found), asked + answer, "", found)


def alpaca(fields: Fields, found: Found) -> ChatExample:
    instruction, output = fields.get("instruction"), fields.get("output")
    if _blank(instruction) and _blank(output):
        found.say("empty_example", "", instruction, "Instruction and output are empty.")
    asked = _asked(fields, "instruction", "input", found)
    answer = _said("assistant", output, "output", found)
    return _chat(fields, _system(fields, found), asked + answer, "", found)


def preference(fields: Fields, found: Found) -> PreferenceExample:
    given = fields.get("input")
    if isinstance(given, dict):  # OpenAI's
        if given.get("tools"):
            found.say("tools_ignored", "input.tools", given["tools"], "Tools cannot be offered here.")
        messages = read_messages(given.get("messages"), "input.messages", found)
    elif not _blank(fields.get("instruction")):  # Alpaca's, as LLaMA-Factory keeps pairs
        messages = _asked(fields, "instruction", "input", found)
    elif given is None:
        messages = []
    else:
        messages = _said("user", given, "input", found)
    before, preferred = _answer(fields.get("preferred_output"), "preferred_output", found)
    _, rejected = _answer(fields.get("non_preferred_output"), "non_preferred_output", found)
    messages = _system(fields, found) + (messages or before)  # some repeat the prompt before each answer
    if not messages and not found.broken:
        found.say("missing_messages_list", "input", given, "There is nothing that the answers reply to.")
    if preferred == rejected and not found.broken:
        found.say("same_answers", "preferred_output", preferred, "Both answers are the same.")
    return PreferenceExample(messages, preferred, rejected)


def _chat(
    fields: Fields, before: list[Message], messages: list[Message], path: str, found: Found
) -> ChatExample:
    """`before`: what comes before that which the path names."""
    said = fields.get("label")
    if not _blank(said) and (good := is_good(said)) is not True:
        if good is None:
            found.say("data_type", "label", said, "Whether an answer is a good one is said by true or false.")
        else:
            found.say("rejected_answer", "label", said, "It says that its answer is a bad one.")
    if not found.broken:
        check_conversation(before + messages, path, found, before=len(before))
    return ChatExample(before + messages)


def _asked(fields: Fields, field: str, more: str, found: Found) -> list[Message]:
    """A prompt, and below it what it is about, where that stands in a field of its own."""
    asked, given = _said("user", fields.get(field), field, found), fields.get(more)
    if not asked or _blank(given):
        return asked
    about = _said("user", given, more, found)
    if not about:
        return asked
    last = asked[-1]
    return [*asked[:-1], Message(last.role, f"{last.content}\n\n{about[0].content}", last.weight)]


def _said(role: str, value: object, field: str, found: Found) -> list[Message]:
    """One message of a text, or those of a list of them, as TRL keeps prompts."""
    if isinstance(value, list):
        return read_messages(value, field, found)
    if value is None or (isinstance(value, str) and not value.strip()):
        found.say("missing_content", field, value, f"The {field} says nothing.")
        return []
    if isinstance(value, bool | dict):
        found.say("data_type", field, value, f"The {field} is not a text.")
        return []
    return [Message(role, str(value))]  # type: ignore[arg-type]


def _answer(value: object, field: str, found: Found) -> tuple[list[Message], str]:
    """What comes before an answer, where it is repeated, and the answer."""
    messages = _said("assistant", value, field, found)
    if messages and messages[-1].role != "assistant":
        found.say(
            "example_missing_assistant_message",
            field,
            messages[-1].content,
            "It does not end with an answer.",
        )
    return messages[:-1], messages[-1].content if messages else ""


def _system(fields: Fields, found: Found) -> list[Message]:
    return [] if _blank(fields.get("system")) else _said("system", fields["system"], "system", found)


def _blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())
