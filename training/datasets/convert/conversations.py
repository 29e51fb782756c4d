"""Conversations and pairs of answers out of rows, in the forms that people keep them. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping

from training.datasets.convert.found import Found
from training.datasets.convert.messages import SHAREGPT, check_conversation, read_messages
from training.datasets.examples import ChatExample, Message, PreferenceExample

Fields = Mapping[str, object]  # what a row has, by our names for it


def chat(fields: Fields, found: Found) -> ChatExample:
    return _chat(read_messages(fields.get("messages"), "messages", found), "messages", found)


def sharegpt(fields: Fields, found: Found) -> ChatExample:
    messages = read_messages(fields.get("conversations"), "conversations", found, SHAREGPT)
    return _chat(_system(fields, found) + messages, "conversations", found)


def prompt_completion(fields: Fields, found: Found) -> ChatExample:
    prompt, completion = fields.get("prompt"), fields.get("completion")
    if _blank(prompt) and _blank(completion):
        found.say("empty_example", "", prompt, "Prompt and completion are empty.")
    asked = _said("user", prompt, "prompt", found)
    return _chat(
        _system(fields, found) + asked + _said("assistant", completion, "completion", found), "", found
    )


def alpaca(fields: Fields, found: Found) -> ChatExample:
    instruction, given, output = fields.get("instruction"), fields.get("input"), fields.get("output")
    if _blank(instruction) and _blank(output):
        found.say("empty_example", "", instruction, "Instruction and output are empty.")
    asked = _said("user", instruction, "instruction", found)
    if asked and not _blank(given):
        more = _said("user", given, "input", found)
        asked = [Message("user", f"{asked[0].content}\n\n{more[0].content}")] if more else asked
    return _chat(_system(fields, found) + asked + _said("assistant", output, "output", found), "", found)


def preference(fields: Fields, found: Found) -> PreferenceExample:
    given = fields.get("input")
    if isinstance(given, dict):  # OpenAI's
        if given.get("tools"):
            found.say("tools_ignored", "input.tools", given["tools"], "Tools cannot be offered here.")
        messages = read_messages(given.get("messages"), "input.messages", found)
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


def _chat(messages: list[Message], path: str, found: Found) -> ChatExample:
    # Of a conversation with holes, its order says nothing; whether anybody answers still does.
    if not found.broken:
        check_conversation(messages, path, found)
    elif messages and not any(message.role == "assistant" for message in messages):
        found.say("example_missing_assistant_message", path, "", "No answer could be read.")
    return ChatExample(messages)


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
