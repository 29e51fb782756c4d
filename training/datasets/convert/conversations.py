"""Conversations and pairs of answers out of rows, in the forms that people keep them. Knows nothing of files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from training.datasets.convert.found import Found
from training.datasets.convert.messages import (
    OPENAI,
    SHAREGPT,
    Dialect,
    check_conversation,
    check_number,
    read_messages,
)
from training.datasets.examples import ChatExample, Message, PreferenceExample
from training.datasets.shapes import is_good

Fields = Mapping[str, object]  # what a row has, by our names for it
_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


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
    system, prompt = _system(fields, found), _prompt(fields, found)
    answers: list[str] = []
    for field in ("preferred_output", "non_preferred_output"):
        before, answer = _answer(fields.get(field), field, found)
        answers.append(answer)
        # Some repeat the prompt before each answer, or have it nowhere else.
        longer = _longer(prompt, before)
        if longer is None and not found.broken:
            found.say("prompts_differ", field, before[-1].content, "It replies to something else.")
        prompt = longer or prompt
    if system != prompt[: len(system)]:
        prompt = system + prompt
    preferred, rejected = answers
    check_number(prompt, "input", found)
    if not prompt and not found.broken:
        found.say("missing_prompt", "input", "", "There is nothing that the answers reply to.")
    if preferred == rejected and not found.broken:
        found.say("same_answers", "preferred_output", preferred, "Both answers are the same.")
    return PreferenceExample(prompt, preferred, rejected)


def _prompt(fields: Fields, found: Found) -> list[Message]:
    """What both answers reply to, where it has a field of its own."""
    given = fields.get("input")
    if not _blank(fields.get("instruction")):  # Alpaca's, as LLaMA-Factory keeps pairs
        return _asked(fields, "instruction", "input", found)
    if given is None:
        return []
    if isinstance(given, dict):  # OpenAI's
        if given.get("tools"):
            found.say("tools_ignored", "input.tools", given["tools"], "Tools cannot be offered here.")
        return read_messages(given.get("messages"), "input.messages", found)
    if isinstance(given, str) and (turns := _turns(given)):
        return turns if turns[-1].content else turns[:-1]
    return _said("user", given, "input", found)


def _longer(one: list[Message], other: list[Message]) -> list[Message] | None:
    """The one that the other is the end of; None where neither is."""
    short, long = sorted((one, other), key=len)
    return long if long[len(long) - len(short) :] == short else None


def _turns(text: str) -> list[Message]:
    """Of a conversation in one text, as Anthropic keeps pairs: "\\n\\nHuman: ...\\n\\nAssistant: ..."; else nothing."""
    if not text.lstrip().startswith("Human:") or "\n\nAssistant:" not in text:
        return []
    parts = _TURN.split(text)[1:]
    roles = ("user" if speaker == "Human" else "assistant" for speaker in parts[::2])
    return [Message(role, said.strip()) for role, said in zip(roles, parts[1::2], strict=True)]  # type: ignore[arg-type]


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
    whole = before + messages if before else messages
    if not found.broken:
        check_conversation(whole, path, found, before=len(before))
    return ChatExample(whole)


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
    """One message of a text, or those of a list of them, as TRL and LLaMA-Factory keep prompts and answers."""
    if isinstance(value, dict) and _is_message(value):
        value = [value]
    if isinstance(value, list):
        return read_messages(value, field, found, SHAREGPT if _is_sharegpt(value) else OPENAI)
    if value is None or (isinstance(value, str) and not value.strip()):
        found.say("missing_content", field, value, f"The {field} says nothing.")
        return []
    if isinstance(value, bool | dict):
        found.say("data_type", field, value, f"The {field} is not a text.")
        return []
    return [Message(role, str(value))]  # type: ignore[arg-type]


def _is_message(value: dict[str, object]) -> bool:
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def _is_sharegpt(messages: list[object]) -> bool:
    return any(isinstance(message, dict) and "from" in message for message in messages)


def _answer(value: object, field: str, found: Found) -> tuple[list[Message], str]:
    """What comes before an answer, where it is repeated, and the answer."""
    turns = _turns(value) if isinstance(value, str) else []
    if not all(turn.content for turn in turns):
        found.say("missing_content", field, value, "Somebody says nothing in it.")
    messages = turns or _said("assistant", value, field, found)
    last = messages[-1] if messages else None
    if last is not None and last.role != "assistant":
        reason = "It does not end with an answer."
        found.say("example_missing_assistant_message", field, last.content, reason)
    return messages[:-1], last.content if last is not None else ""


def _system(fields: Fields, found: Found) -> list[Message]:
    return [] if _blank(fields.get("system")) else _said("system", fields["system"], "system", found)


def _blank(value: object) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())
