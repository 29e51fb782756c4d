"""Lists of messages, OpenAI's and ShareGPT's, checked as OpenAI checks them and a little more.

Knows nothing of where an example keeps its list.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from inference.text.speakers import said_by
from training.datasets.convert.found import Found
from training.datasets.examples import Message
from training.datasets.limits import MAX_MESSAGES

Role = Literal["system", "user", "assistant"]
# What a part of a message that is text calls itself: in chats, in OpenAI's responses, in Amazon's conversations.
_TEXTS = ("text", "input_text", "output_text", None)
_TOOLS = ("tool", "function", "tool_calls", "function_call", "function_response", "observation", "ipython")


class Dialect(NamedTuple):
    role: str
    content: str
    roles: dict[str, Role]
    known: frozenset[str]  # keys that may be there

    def role_of(self, item: dict[str, object]) -> Role | None:
        role = item.get(self.role)
        return self.roles.get(role.casefold()) if isinstance(role, str) else None

    def answers(self, item: object) -> bool:
        return isinstance(item, dict) and self.role_of(item) == "assistant"


OPENAI = Dialect(
    "role",
    "content",
    {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"},
    frozenset(("role", "content", "name", "weight", "refusal", "audio", "annotations", "tool_call_id")),
)
SHAREGPT = Dialect(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "chatgpt": "assistant",
        "bot": "assistant",
        "bing": "assistant",
        "bard": "assistant",
        "model": "assistant",
        "ai": "assistant",
    },
    frozenset(("from", "value", "weight", "markdown", "text", "loss")),
)


def read_messages(value: object, path: str, found: Found, dialect: Dialect = OPENAI) -> list[Message]:
    """Those that can be read; what cannot is said."""
    if isinstance(value, str) and value.lstrip().startswith("["):  # a table's cell
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            found.say("invalid_json", path, value, f"The messages are not valid JSON: {error}.")
            return []
    if value is None or value == [] or value == "":
        found.say("missing_messages_list", path, value, "The example has no list of messages.")
        return []
    if not isinstance(value, list):
        found.say("missing_messages_list", path, value, "The messages are not a list.")
        return []
    messages = []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            found.say(
                "data_type", f"{path}[{index}]", item, "A message is an object with a role and a content."
            )
            continue
        message = _message(item, path, index, found, dialect)
        if message is not None:
            messages.append(message)
    return messages


def _message(
    item: dict[str, object], path: str, index: int, found: Found, dialect: Dialect
) -> Message | None:
    for key, value in item.items():
        if key in dialect.known:
            if key == "audio" and value is not None:
                found.say("image_content", f"{path}[{index}].audio", value, "The message holds sound.")
        elif key in _TOOLS:
            if value:
                found.say(
                    "tool_calls", f"{path}[{index}].{key}", value, "Calling tools cannot be learnt here."
                )
        else:
            where = f"{path}[{index}].{key[:80]}"
            found.say(
                "message_unrecognized_key", where, value, f"A message has no {key[:80]!r}: it is ignored."
            )
    role = _role(item, path, index, found, dialect)
    calls = any(item.get(key) for key in _TOOLS)
    if dialect.content in item and not (calls and item[dialect.content] is None):
        content = _content(item[dialect.content], f"{path}[{index}].{dialect.content}", found)
    else:
        content = None
        if not calls:
            reason = f"The message has no {dialect.content!r}."
            found.say("message_missing_key", f"{path}[{index}].{dialect.content}", item, reason)
    weight = item.get("weight")
    if weight is not None:
        if role != "assistant":
            where = f"{path}[{index}].weight"
            found.say(
                "weight_ignored", where, weight, "A message that is not the assistant's is never learnt."
            )
            weight = None
        elif isinstance(weight, bool) or weight not in (0, 1):
            found.say("wrong_weight", f"{path}[{index}].weight", weight, "A weight is 0 or 1.")
            return None
    if role is None or content is None:
        return None
    name = item.get("name")
    if isinstance(name, str) and name and role != "assistant":
        content = said_by(name, content)
    return Message(role, content) if weight is None or weight else Message(role, content, 0)


def _role(item: dict[str, object], path: str, index: int, found: Found, dialect: Dialect) -> Role | None:
    if (known := dialect.role_of(item)) is not None:
        return known
    role = item.get(dialect.role)
    where = f"{path}[{index}].{dialect.role}"
    if role is None:
        found.say("message_missing_key", where, item, f"The message has no {dialect.role!r}.")
    elif role in _TOOLS:
        found.say("tool_calls", where, role, "Answers of tools cannot be learnt from here.")
    else:
        found.say("unrecognized_role", where, role, "Nobody we know says this message.")
    return None


def _content(content: object, path: str, found: Found) -> str | None:
    if isinstance(content, list) and content:
        content = _joined(content, path, found)
        if content is None:
            return None
    if content is None or content == []:
        found.say("missing_content", path, content, "The message says nothing.")
    elif not isinstance(content, str):
        found.say("data_type", path, content, "What a message says is a text.")
    elif not content or content.isspace():
        found.say("missing_content", path, content, "The message says nothing.")
    else:
        return content
    return None


def _joined(parts: list[object], path: str, found: Found) -> str | None:
    """Content in parts: texts are joined, anything else cannot be read."""
    texts: list[str] = []
    for index, part in enumerate(parts):
        if isinstance(part, dict) and part.get("type") in _TEXTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, dict) and isinstance(kind := part.get("type"), str) and kind not in _TEXTS:
            found.say(
                "image_content", f"{path}[{index}]", part, f"It holds {kind[:40]!r}, and only text is learnt."
            )
        else:
            found.say("data_type", f"{path}[{index}]", part, "A part of a message is an object with a type.")
    return "".join(texts) if len(texts) == len(parts) else None


def check_number(messages: list[Message], path: str, found: Found) -> None:
    if len(messages) > MAX_MESSAGES:
        reason = f"It has {len(messages)} messages; of one conversation at most {MAX_MESSAGES} are read."
        found.say("too_many_messages", path, "", reason)


def check_conversation(messages: list[Message], path: str, found: Found, *, before: int = 0) -> None:
    """What is wrong with readable messages as a whole. `before`: how many come before those of the path."""
    check_number(messages, path, found)
    last, answers, learnt = "", 0, 0
    for index, message in enumerate(messages, -before):
        role = message.role
        if role == "system":
            if index > -before:
                found.say(
                    "system_not_first",
                    f"{path}[{index}].role",
                    message.content,
                    "The system speaks when the conversation has begun.",
                )
        elif role == last:
            reason = f"The {role} speaks twice in a row."
            found.say("consecutive_role", f"{path}[{index}].role", message.content, reason)
        if role == "assistant":
            answers += 1
            learnt += message.weight
        last = role
    if not answers:
        found.say(
            "example_missing_assistant_message", path, "", "Nobody answers, so there is nothing to learn."
        )
    elif not learnt:
        found.say("nothing_to_learn", path, "", "Every answer has the weight 0.")
    elif last != "assistant":
        reason = "The conversation does not end with the assistant."
        found.say("last_message_not_assistant", f"{path}[{len(messages) - 1 - before}].role", last, reason)
