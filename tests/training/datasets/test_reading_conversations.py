"""Conversations and pairs of answers, and everything that is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.datasets.files import Read, archive, chat, jsonl, parquet, read, source, write, xlsx
from training.datasets import looking, plan
from training.datasets.codes import CODES
from training.datasets.detect import detect
from training.datasets.examples import ChatExample, Message, PreferenceExample
from training.datasets.readers import json as json_reader
from training.datasets.readers import lines as lines_reader
from training.datasets.sources import Reading, Shape

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def read_rows(folder: Path, shape: Shape, *rows: object) -> Read:
    return read(folder, source(folder, jsonl(rows), "a.jsonl", Reading("jsonl", shape)))


def said(*messages: tuple[str, str]) -> ChatExample:
    return ChatExample([Message(role, content) for role, content in messages])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("chat", {"messages": [USER, ANSWER]}),
        ("chat", {"messages": json.dumps([USER, ANSWER])}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, ANSWER]}),
        ("chat", {"messages": [USER, {"role": "assistant", "content": [{"text": "Hello"}]}]}),
        ("prompt_completion", {"prompt": "Hi", "completion": "Hello"}),
        ("prompt_completion", {"question": "Hi", "answer": "Hello"}),
        ("prompt_completion", {"prompt": [USER], "completion": [ANSWER]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}),
        ("sharegpt", {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "AI", "value": "Hello"}]}),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}),
    ],
)  # fmt: skip
def test_every_form_of_a_conversation_becomes_the_same_example(
    tmp_path: Path, shape: Shape, row: dict[str, object]
) -> None:
    done = read_rows(tmp_path, shape, row)

    assert done.examples == [said(("user", "Hi"), ("assistant", "Hello"))]
    assert done.problems == []
    assert (done.records[0].file, done.records[0].line) == (0, 1)


def test_what_the_system_says_and_what_an_instruction_is_given_are_kept(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add", "output": "3"},
        {"instruction": "Add", "input": "1 2", "output": "3", "system": "S"},
    ]

    done = read_rows(tmp_path, "alpaca", *rows)

    assert done.examples == [
        said(("user", "Add"), ("assistant", "3")),
        said(("system", "S"), ("user", "Add\n\n1 2"), ("assistant", "3")),
    ]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (chat("Hi", "Hello", system="S"), [("system", "S"), ("user", "Hi"), ("assistant", "Hello")]),
        (
            {"system": "S", "messages": [{"role": "system", "content": "S"}, USER, ANSWER]},
            [("system", "S"), ("user", "Hi"), ("assistant", "Hello")],
        ),
        (
            {"system": "S", "conversations": [USER, ANSWER]},
            [("system", "S"), ("user", "Hi"), ("assistant", "Hello")],
        ),
        (
            {"question": "Who?", "context": "Bob won.", "answer": "Bob"},
            [("user", "Who?\n\nBob won."), ("assistant", "Bob")],
        ),
    ],
)
def test_what_stands_beside_the_conversation_is_part_of_it(
    tmp_path: Path, row: dict[str, object], messages: list[tuple[str, str]]
) -> None:
    done = read(tmp_path, source(tmp_path, jsonl([row]), "a.jsonl"))

    assert done.examples == [said(*messages)]
    assert done.problems == []


def test_the_place_of_a_fault_counts_the_messages_of_its_list(tmp_path: Path) -> None:
    done = read_rows(tmp_path, "chat", {"system": "S", "messages": [USER, USER, SYSTEM, ANSWER, USER]})

    assert [(problem.code, problem.path) for problem in done.problems] == [
        ("consecutive_role", "messages[1].role"),
        ("system_not_first", "messages[2].role"),
        ("last_message_not_assistant", "messages[4].role"),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "Hi", "completion": text, "label": text == "Hello"} for text in ("Hello", "Go")],
        [chat("Hi", text, label=text == "Hello") for text in ("Hello", "Go")],
        [{"instruction": "Hi", "output": text, "kto_tag": text == "Hello"} for text in ("Hello", "Go")],
    ],
)
def test_an_answer_that_is_said_to_be_bad_is_not_learnt(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    table = [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]
    sources = [source(tmp_path, jsonl(rows), "a.jsonl")]
    if "messages" not in rows[0]:
        sources.append(source(tmp_path, xlsx(table), "a.xlsx"))

    done = read(tmp_path, *sources)

    assert done.examples == [said(("user", "Hi"), ("assistant", "Hello"))] * len(sources)
    assert [(problem.code, problem.path) for problem in done.problems] == [
        ("rejected_answer", "label")
    ] * len(sources)


def test_a_label_of_another_kind_beside_an_answer_is_a_field_that_is_not_used(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "completion": "Hello", "label": label} for label in ("greeting", "other")]

    done = read(tmp_path, source(tmp_path, jsonl(rows), "a.jsonl"))

    assert len(done.examples) == 2
    assert [(problem.code, problem.excerpt) for problem in done.problems] == [("unused_fields", "label")]


def test_fields_that_are_not_used_are_named_once_for_each_file_and_those_that_hold_nothing_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART", 200)  # several parts of one file
    rows: list[dict[str, object]] = [
        chat(f"Question {n}", "b", id=n, user="u", note=None, tools=[]) for n in range(9)
    ]
    rows[7]["rating"] = 5
    members = {"a.jsonl": jsonl([chat("a", "b", mood="glad")]), "b.jsonl": jsonl([chat("a", "b")])}

    done = read(
        tmp_path,
        source(tmp_path, jsonl(rows), "rows.jsonl"),
        source(tmp_path, archive(members), "all.zip"),
        processes=1,
    )

    assert [(p.code, p.severity, p.line, p.excerpt) for p in done.problems] == [
        ("unused_fields", "notice", 0, "id, rating"),
        ("unused_fields", "notice", 0, "mood"),
    ]
    assert [p.file for p in done.problems] == ["rows.jsonl", "all.zip/a.jsonl"]
    assert done.summary.problems == {"unused_fields": 2}
    assert done.summary.usable == 11


def test_who_of_several_people_speaks_is_kept_as_it_is_said_to_the_model(tmp_path: Path) -> None:
    messages = [{"role": "user", "name": "Bob", "content": "Hello"}, {**ANSWER, "name": "Helper"}]

    done = read_rows(tmp_path, "chat", {"messages": messages})

    assert done.examples == [said(("user", "Bob: Hello"), ("assistant", ANSWER["content"]))]


def test_weights_are_kept(tmp_path: Path) -> None:
    done = read_rows(
        tmp_path, "chat", {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]}
    )

    example = done.examples[0]
    assert isinstance(example, ChatExample)
    assert [message.weight for message in example.messages] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    "row",
    [
        {
            "input": {"messages": [USER]},
            "preferred_output": [ANSWER],
            "non_preferred_output": [{"role": "assistant", "content": "Go"}],
        },
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "Go"}]},
        {"instruction": "Hi", "input": "", "chosen": "Hello", "rejected": "Go"},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello", "rejected": "Go"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go"},
        },
        {
            "prompt": "Hi",
            "chosen": [USER, ANSWER],
            "rejected": [USER, {"role": "assistant", "content": "Go"}],
            "messages": [USER, ANSWER],
        },
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "Go"}]},
    ],
)
def test_every_form_of_a_preference_becomes_the_same_example(tmp_path: Path, row: dict[str, object]) -> None:
    done = read(tmp_path, source(tmp_path, jsonl([row]), "a.jsonl"))

    assert done.examples == [PreferenceExample([Message("user", "Hi")], "Hello", "Go")]
    assert [problem.excerpt for problem in done.problems] == (["messages"] if "messages" in row else [])


def test_what_came_before_both_answers_is_kept_whole(tmp_path: Path) -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Who\nare you?"
    hh = {"chosen": f"{before}\n\nAssistant: I am\n\nthe model.", "rejected": f"{before}\n\nAssistant: Go"}
    turns = [USER, ANSWER, {"role": "user", "content": "Who\nare you?"}]
    trl = {"prompt": "Who\nare you?", "system": "S"} | {
        field: [*turns, {"role": "assistant", "content": text}]
        for field, text in (("chosen", "I am\n\nthe model."), ("rejected", "Go"))
    }

    done = read(tmp_path, source(tmp_path, jsonl([hh, trl]), "a.jsonl"))

    asked = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Who\nare you?")]
    assert done.problems == []
    assert done.examples == [
        PreferenceExample(some, "I am\n\nthe model.", "Go")
        for some in (asked, [Message("system", "S"), *asked])
    ]


def test_a_pair_of_answers_to_an_instruction_keeps_the_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "1 2", "chosen": "3", "rejected": "4", "system": "S"}

    done = read(tmp_path, source(tmp_path, jsonl([row]), "a.jsonl"))

    asked = [Message("system", "S"), Message("user", "Add\n\n1 2")]
    assert done.examples == [PreferenceExample(asked, "3", "4")]
    assert done.problems == []


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
GPT = {"from": "gpt", "value": "x"}
HH = "\n\nHuman: Hi\n\nAssistant: Hello"
SYSTEM = {"role": "system", "content": "S"}
CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("shape", "row", "code", "path"),
    [
        ("chat", [1], "data_type", ""),
        ("chat", {}, "missing_messages_list", "messages"),
        ("chat", {"messages": []}, "missing_messages_list", "messages"),
        ("chat", {"messages": "hello"}, "missing_messages_list", "messages"),
        ("chat", {"messages": "[hello"}, "invalid_json", "messages"),
        ("chat", {"messages": [USER, ANSWER, "bye"]}, "data_type", "messages[2]"),
        ("chat", {"messages": [{"content": "x"}, ANSWER]}, "message_missing_key", "messages[0].role"),
        ("chat", {"messages": [{"role": "user"}, ANSWER]}, "message_missing_key", "messages[0].content"),
        ("chat", {"messages": [{**USER, "mood": "glad"}, ANSWER]}, "message_unrecognized_key", "messages[0].mood"),
        ("chat", {"messages": [{"role": "bot", "content": "x"}, ANSWER]}, "unrecognized_role", "messages[0].role"),
        ("chat", {"messages": [{"role": 1, "content": "x"}, ANSWER]}, "unrecognized_role", "messages[0].role"),
        ("chat", {"messages": [{"role": "user", "content": None}, ANSWER]}, "missing_content", "messages[0].content"),
        ("chat", {"messages": [{"role": "user", "content": " "}, ANSWER]}, "missing_content", "messages[0].content"),
        ("chat", {"messages": [{"role": "user", "content": 7}, ANSWER]}, "data_type", "messages[0].content"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [IMAGE]}, ANSWER]},
            "image_content", "messages[0].content[0]",
        ),
        ("chat", {"messages": [{"role": "user", "content": [3]}, ANSWER]}, "data_type", "messages[0].content[0]"),
        ("chat", {"messages": [USER]}, "example_missing_assistant_message", "messages"),
        ("chat", {"messages": [USER, {**ANSWER, "weight": 0.5}]}, "wrong_weight", "messages[1].weight"),
        ("chat", {"messages": [USER, {**ANSWER, "weight": True}]}, "wrong_weight", "messages[1].weight"),
        ("chat", {"messages": [{**USER, "weight": 1}, ANSWER]}, "weight_ignored", "messages[0].weight"),
        ("chat", {"messages": [USER, {**ANSWER, "weight": 0}]}, "nothing_to_learn", "messages"),
        (
            "chat",
            {"messages": [USER, {"role": "assistant", "tool_calls": CALL}]},
            "tool_calls", "messages[1].tool_calls",
        ),
        (
            "chat",
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": CALL}]},
            "tool_calls", "messages[1].tool_calls",
        ),
        ("chat", {"messages": [USER, {"role": "tool", "content": "5"}, ANSWER]}, "tool_calls", "messages[1].role"),
        ("chat", {"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tools_ignored", "tools"),
        ("chat", {"messages": [USER, SYSTEM, ANSWER]}, "system_not_first", "messages[1].role"),
        ("chat", {"messages": [USER, USER, ANSWER]}, "consecutive_role", "messages[1].role"),
        ("chat", {"messages": [USER, ANSWER, USER]}, "last_message_not_assistant", "messages[2].role"),
        ("chat", {"messages": [USER, ANSWER] * 501}, "too_many_messages", "messages"),
        (
            "preference",
            {"prompt": [*[USER, ANSWER] * 500, USER], "chosen": "b", "rejected": "c"},
            "too_many_messages", "input",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": ""}, GPT]},
            "missing_content", "conversations[0].value",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "alien", "value": "x"}, GPT]},
            "unrecognized_role", "conversations[0].from",
        ),
        ("prompt_completion", {"prompt": "a"}, "missing_column", "completion"),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "missing_content", "completion"),
        ("prompt_completion", {"prompt": "a", "completion": {}}, "data_type", "completion"),
        ("alpaca", {"instruction": "a", "output": None}, "missing_content", "output"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "same_answers", "preferred_output"),
        ("preference", {"chosen": "b", "rejected": "c"}, "missing_prompt", "input"),
        (
            "preference",
            {"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "Who?"}, {**ANSWER, "content": "I"}]},
            "prompts_differ", "non_preferred_output",
        ),
        (
            "preference",
            {"prompt": "Who?", "chosen": [USER, ANSWER], "rejected": "c"},
            "prompts_differ", "preferred_output",
        ),
        ("preference", {"chosen": HH, "rejected": HH[:-5]}, "missing_content", "non_preferred_output"),
        ("preference", {"chosen": HH.replace("Hi", ""), "rejected": "Go"}, "missing_content", "preferred_output"),
        (
            "preference",
            {"prompt": "a", "chosen": [USER], "rejected": "c"},
            "example_missing_assistant_message", "preferred_output",
        ),
    ],
)  # fmt: skip
def test_each_fault_has_its_code_and_place_and_says_what_to_do(
    tmp_path: Path, shape: Shape, row: object, code: str, path: str
) -> None:
    done = read_rows(tmp_path, shape, row)

    problem = next(each for each in done.problems if each.code == code)
    assert (problem.file, problem.line, problem.path) == ("a.jsonl", 1, path)
    assert problem.severity == CODES[code].severity == done.summary.severities[code]
    assert problem.reason.endswith(".")
    assert problem.remedy.endswith(".")
    assert len(done.examples) == (problem.severity == "warning")
    assert done.codes == [code]


def test_every_fault_of_an_example_is_told_and_not_only_the_first(tmp_path: Path) -> None:
    row = {"messages": [{"role": "bot", "content": ""}, {"role": "user", "mood": "glad"}, 5]}

    done = read_rows(tmp_path, "chat", row, chat("a", "b"))

    assert done.codes == [
        "unrecognized_role",
        "missing_content",
        "message_unrecognized_key",
        "message_missing_key",
        "data_type",
        "example_missing_assistant_message",
    ]
    assert (done.summary.read, done.summary.usable, done.records[0].line) == (2, 1, 2)


def test_an_empty_prompt_and_completion_is_an_empty_example(tmp_path: Path) -> None:
    done = read_rows(tmp_path, "prompt_completion", {"prompt": "", "completion": None})

    assert "empty_example" in done.codes


@pytest.mark.parametrize("line", [b"{", b"nonsense", b'{"a": nan}', b"[" * 100_000, b'{"a": "\\ud800"}'])
def test_a_line_that_is_no_json_loses_only_itself(tmp_path: Path, line: bytes) -> None:
    good = jsonl([chat("a", "b")])

    done = read(tmp_path, source(tmp_path, good + line + b"\n\n" + good, "a.jsonl", Reading("jsonl", "chat")))

    assert done.codes == ["invalid_json"]
    assert done.problems[0].line == 2
    assert len(done.problems[0].excerpt) <= 160
    assert [record.line for record in done.records] == [1, 4]


def test_a_line_of_another_encoding_loses_only_itself(tmp_path: Path) -> None:
    lines = jsonl([chat("Grüße", "schön")] * 5)
    mixed = lines + lines.splitlines()[0].decode().encode("cp1252") + b"\n" + lines

    done = read(tmp_path, source(tmp_path, mixed, "a.jsonl"))

    assert [(problem.code, problem.line) for problem in done.problems] == [("invalid_encoding", 6)]
    assert done.summary.usable == 10


@pytest.mark.parametrize("text", [r"cut \ud83d", r"\ud83d alone", r"\ude00", r"\\ \ud83d\u0041"])
def test_half_a_character_is_called_that_and_not_a_line_that_ends_too_soon(tmp_path: Path, text: str) -> None:
    good = r'{"prompt": "a", "completion": "\ud83d\ude00"}'
    content = f'{good}\n{{"prompt": "{text}", "completion": "b"}}\n'

    done = read(tmp_path, source(tmp_path, content, "a.jsonl"))

    assert done.codes == ["invalid_json"]
    assert "is half of a character" in done.problems[0].reason
    assert done.examples == [ChatExample([Message("user", "a"), Message("assistant", "😀")])]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_conversations_are_read_in_the_encoding_they_have(tmp_path: Path, encoding: str) -> None:
    content = (
        jsonl([chat("Wie läuft das Gerät?", "Schön. Für Sie natürlich auch.")] * 3).decode().encode(encoding)
    )

    done = read(tmp_path, source(tmp_path, content, "a.jsonl"))

    assert done.examples[2] == said(
        ("user", "Wie läuft das Gerät?"), ("assistant", "Schön. Für Sie natürlich auch.")
    )
    assert done.codes == (["legacy_encoding"] if encoding == "cp1252" else [])


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("array", [True, False])
def test_json_over_several_lines_is_read_value_by_value(
    tmp_path: Path, array: bool, indent: int | None
) -> None:
    rows = [chat('a "quoted" [bracket', "b"), chat("c", "\\"), {"messages": 1}, chat("e", "f")]
    content = (
        json.dumps(rows, indent=indent) if array else "\n".join(json.dumps(r, indent=indent) for r in rows)
    )

    done = read(tmp_path, source(tmp_path, content, "a.json"))

    if indent:
        where = [n for n, line in enumerate(content.splitlines(), 1) if line in ("{", "  {")]
    else:
        where = [1, 1, 1, 1] if array else [1, 2, 3, 4]
    assert [record.line for record in done.records] == [where[0], where[1], where[3]]
    assert [problem.line for problem in done.problems] == [where[2]]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("layout", ["one line", "one line each", "indented"])
def test_examples_in_a_list_within_an_object_are_read_one_by_one(
    tmp_path: Path, layout: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "_CHUNK", 50)
    rows = [{"question": f"Nr. {n}?", "answer": "[Ja]", "tags": [{"name": "data"}]} for n in range(4)]
    whole = {"count": 4, "of": {"data": ["x"]}, "data": rows, "next": "data"}
    content = json.dumps(whole, indent=2 if layout == "indented" else None)
    if layout == "one line each":
        content = content.replace('{"question"', '\n{"question"')

    found = source(tmp_path, content, name)
    done = read(tmp_path, found)

    assert (found.reading.layout, found.reading.within) == ("json", "data")
    assert done.examples == [said(("user", f"Nr. {n}?"), ("assistant", "[Ja]")) for n in range(4)]
    where = [n for n, line in enumerate(content.splitlines(), 1) if "question" in line]
    lines = {"one line": [1] * 4, "one line each": where, "indented": [n - 1 for n in where]}[layout]
    assert [record.line for record in done.records] == lines
    assert done.codes == ["unused_fields"]


def test_an_object_with_a_list_of_examples_may_be_larger_than_one_example_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (json_reader, lines_reader, looking):
        monkeypatch.setattr(module, "MAX_LINE", 5000)
    rows = [{"question": f"Nr. {n}?", "answer": "Ja"} for n in range(500)]

    done = read(tmp_path, source(tmp_path, json.dumps({"count": 500, "tickets": rows}), "a.json"))
    one = detect(write(tmp_path, json.dumps({"messages": [USER, ANSWER] * 500})), "a.json")

    assert (done.summary.usable, done.problems) == (500, [])
    assert (one.reading, one.code) == (None, "line_too_long")


def test_what_python_writes_for_a_missing_number_costs_no_row(tmp_path: Path) -> None:
    rows = [
        {"prompt": "NaN?", "completion": "b", "score": float("nan")},
        {"prompt": float("-inf"), "completion": "b"},
    ]

    done = read(tmp_path, source(tmp_path, jsonl(rows), "a.jsonl"))

    assert done.examples == [said(("user", "NaN?"), ("assistant", "b"))]
    assert done.codes == ["missing_content"]


def test_lines_that_end_in_commas_are_examples_all_the_same(tmp_path: Path) -> None:
    content = "".join(json.dumps(chat("a", "b")) + ",\n" for _ in range(3))

    done = read(tmp_path, source(tmp_path, content, "a.jsonl"))

    assert done.examples == [said(("user", "a"), ("assistant", "b"))] * 3
    assert [record.line for record in done.records] == [1, 2, 3]
    assert done.problems == []


def test_a_truncated_array_keeps_what_is_whole(tmp_path: Path) -> None:
    content = json.dumps([chat("a", "b"), chat("c", "d")])[:-20]

    done = read(tmp_path, source(tmp_path, content, "a.json", Reading("json", "chat")))

    assert len(done.examples) == 1
    assert done.codes == ["invalid_json"]


@pytest.mark.parametrize(
    ("more", "group"),
    [
        ({"conversation_id": "c1"}, "c1"),
        ({"user": 7}, "7"),
        ({"conversation_id": "c1", "user": "u1"}, "u1"),
        ({"group": "g", "user": "u1"}, "g"),
        ({"user": {"name": "x"}}, ""),
        ({}, ""),
    ],
)
def test_what_belongs_together_is_kept_with_the_example(
    tmp_path: Path, more: dict[str, object], group: str
) -> None:
    done = read_rows(tmp_path, "chat", chat("a", "b", **more))

    assert done.records[0].group == group


def test_parquet_and_tables_may_hold_conversations(tmp_path: Path) -> None:
    rows = [chat("a", "b", user="u1"), chat("c", "d", user="u2")]
    table = [["prompt", "completion"], ["a", "b"], ["c", "d"]]

    done = read(
        tmp_path, source(tmp_path, parquet(rows), "a.parquet"), source(tmp_path, xlsx(table), "a.xlsx")
    )

    assert (
        done.examples
        == [said(("user", "a"), ("assistant", "b")), said(("user", "c"), ("assistant", "d"))] * 2
    )
    assert [record.file for record in done.records] == [0, 0, 1, 1]
    assert [record.group for record in done.records] == ["u1", "u2", "", ""]
