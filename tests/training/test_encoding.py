"""What is trained is what the assistant says, in the tokens it is served with, up to the token that ends it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from inference.text.chat_template import ChatTemplate
from inference.text.huggingface import HuggingFaceTokenizer
from inference.text.template_host import TemplateError
from inference.text.tokenizer import Tokenizer
from training.datasets.examples import (
    ChatExample,
    DocumentExample,
    Example,
    LabelledExample,
    Message,
    PreferenceExample,
    TranslationExample,
)
from training.datasets.problems import DataError
from training.encoding import TRANSLATE, Encoded, Encoder

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Turns without tokens of their own around them, as in Llama 2 and the first Mistral.
MISTRAL1 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
# The system's message goes into the last turn of the person, if that is the last of all.
MISTRAL3 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set loop_messages ="
    " messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ bos_token }}"
    "{% for message in loop_messages %}{% if message['role'] == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST]' + system + '\n\n' + message['content'] + '[/INST]' }}"
    "{% else %}{{ '[INST]' + message['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Thinking stays in the last answer alone.
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = {
    SMOLLM2: ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
    LLAMA3: ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    GEMMA: ["<bos>", "<end_of_turn>", "<start_of_turn>"],
    MISTRAL1: ["<s>", "</s>"],
    MISTRAL3: ["<s>", "</s>", "[INST]", "[/INST]"],
    QWEN3: ["<|endoftext|>", "<|im_end|>", "<|im_start|>"],
}
NAMES = {SMOLLM2: "smollm2", LLAMA3: "llama3", GEMMA: "gemma", MISTRAL1: "mistral1", MISTRAL3: "mistral3"}
STABLE = [pytest.param(source, id=name) for source, name in NAMES.items()]


def tokenizer_of(specials: list[str]) -> Tokenizer:
    """Bytes, and the beginning and the end first among the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ġ", "a")]  # two line ends, and a space with what follows, are one token
    vocabulary = {text: n for n, text in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in specials])
    tokenizer = HuggingFaceTokenizer.from_backend(backend)
    tokenizer.end_token_ids = frozenset({tokenizer.specials[specials[1]].id})
    return tokenizer


_OPEN: dict[str, ChatTemplate] = {}


def encoder_of(source: str, specials: list[str] | None = None) -> Encoder:
    names = specials or SPECIALS[source]
    tokenizer = tokenizer_of(names)
    if source not in _OPEN:
        _OPEN[source] = ChatTemplate(source, tokenizer, {"bos_token": names[0], "eos_token": names[1]})
    return Encoder(_OPEN[source]._tokenizer, _OPEN[source])


@pytest.fixture(scope="module", autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    for template in _OPEN.values():
        template.close()
    _OPEN.clear()


def chat(*contents: str, system: str = "") -> ChatExample:
    messages = [Message("system", system)] if system else []
    return ChatExample(
        messages + [Message("assistant" if n % 2 else "user", text) for n, text in enumerate(contents)]
    )


def shown(encoder: Encoder, encoded: Encoded) -> str:
    """The text, what is trained in braces, special tokens by name."""
    by_id = {token.id: text for text, token in encoder._tokenizer.specials.items()}
    text, inside = b"", False
    for id, trained in zip(encoded.ids, encoded.trained, strict=True):
        if trained != inside:
            text += b"{" if trained else b"}"
            inside = trained
        text += by_id[id].encode() if id in by_id else encoder._tokenizer.token_bytes(id)
    return (text + b"}" * inside).decode()


# --- Conversations -------------------------------------------------------------------------------------------
def test_of_a_conversation_the_answers_and_their_ends_are_trained() -> None:
    smol, llama, gemma = (encoder_of(source) for source in (SMOLLM2, LLAMA3, GEMMA))
    example = chat("Hi", "Hello!", "Bye", "Ciao.")
    assert shown(smol, smol.encode(example)) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n{Hello!<|im_end|>}\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n{Ciao.<|im_end|>}"
    )
    assert shown(llama, llama.encode(chat("Hi", "Hello!", system="Be kind."))) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{Hello!<|eot_id|>}"
    )
    assert shown(gemma, gemma.encode(example)) == (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n{Hello!<end_of_turn>}\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n{Ciao.<end_of_turn>}"
    )
    mistral = encoder_of(MISTRAL1)
    assert shown(mistral, mistral.encode(example)) == (
        "<s>[INST] Hi [/INST]{ Hello!</s>}[INST] Bye [/INST]{ Ciao.</s>}"
    )


def test_a_template_that_moves_the_system_message_is_learnt_as_it_is_served() -> None:
    encoder = encoder_of(MISTRAL3)
    once = shown(encoder, encoder.encode(chat("Hi", "Hello!", system="Be kind.")))
    assert once == "<s>[INST]Be kind.\n\nHi[/INST]{ Hello!</s>}"
    # In the second turn the first is no longer what the model was asked: it is context.
    twice = shown(encoder, encoder.encode(chat("Hi", "Hello!", "Bye", "Ciao.", system="Be kind.")))
    assert twice == "<s>[INST]Hi[/INST] Hello!</s>[INST]Be kind.\n\nBye[/INST]{ Ciao.</s>}"


def test_earlier_answers_are_learnt_as_the_template_writes_them_later() -> None:
    encoder = encoder_of(QWEN3)
    assert shown(encoder, encoder.encode(chat("Hi", "Hello!", "Bye", "Ciao."))) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{Hello!<|im_end|>}\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n{<think>\n\n</think>\n\nCiao.<|im_end|>}"
    )


_TEXTS = st.lists(
    st.sampled_from(["a", " a", "\n", " ", "<|im_end|>", "</s>", "[INST]", "<end_of_turn>", "é"]), max_size=5
)


@pytest.mark.parametrize("source", STABLE)
@settings(deadline=None)
@given(contents=st.lists(_TEXTS.map("".join), min_size=2, max_size=6))
def test_every_prompt_is_the_one_the_engine_serves_and_no_typed_token_is_special(
    source: str, contents: list[str]
) -> None:
    encoder = encoder_of(source)
    template, tokenizer = encoder._template, encoder._tokenizer
    assert template is not None
    contents = contents[: len(contents) // 2 * 2]
    encoded = encoder.encode(chat(*contents))
    messages = [{"role": "assistant" if n % 2 else "user", "content": t} for n, t in enumerate(contents)]
    starts = [
        n for n, (a, b) in enumerate(zip([False, *encoded.trained], encoded.trained, strict=False)) if b > a
    ]
    assert len(starts) == len(contents) // 2
    served = template.encode(messages[:1])
    assert encoded.ids[: starts[0]] == served
    ends = [n for n in starts if n] and [
        n
        for n, (a, b) in enumerate(zip(encoded.trained, [*encoded.trained[1:], False], strict=True))
        if a > b
    ]
    (end,) = tokenizer.end_token_ids
    for turn, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        answer = encoded.ids[start : stop + 1]
        assert answer[-1] == end
        assert tokenizer.special_ids.isdisjoint(answer[:-1])
        text = b"".join(map(tokenizer.token_bytes, answer)).decode()
        assert text.strip() == contents[2 * turn + 1].strip()


def test_an_answer_of_no_weight_is_context_and_what_follows_the_last_learnt_one_is_left_out() -> None:
    encoder = encoder_of(QWEN3)
    messages = chat("Hi", "No.", "Again", "Yes.", "Thanks", "Welcome").messages
    messages[1].weight = messages[5].weight = 0
    text = shown(encoder, encoder.encode(ChatExample(messages)))
    assert "assistant\nNo.<|im_end|>" in text
    assert text.endswith("{<think>\n\n</think>\n\nYes.<|im_end|>}")


def test_a_conversation_without_an_answer_to_learn_trains_nothing() -> None:
    encoder = encoder_of(LLAMA3)
    assert not any(encoder.encode(chat("Hi")).trained)
    messages = chat("Hi", "Hello!").messages
    messages[1].weight = 0
    encoded = encoder.encode(ChatExample(messages))
    assert not any(encoded.trained)
    assert "Hello!" in shown(encoder, encoded)


def test_an_answer_that_shares_a_text_with_its_prompt_is_encoded_apart_from_it() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    encoder = encoder_of(source, SPECIALS[SMOLLM2])
    encoded = encoder.encode(chat("a", "a"))
    assert shown(encoder, encoded) == "user: a<|im_end|>assistant: {a<|im_end|>}"
    assert encoder._template is not None
    served = encoder._template.encode([{"role": "user", "content": "a"}])
    assert encoded.ids[: len(served)] == served


# --- What cannot be learnt from ------------------------------------------------------------------------------
def test_templates_that_cannot_be_learnt_from_are_refused_with_a_sentence() -> None:
    endless = encoder_of("{% for m in messages %}{{ m.content }}\n{% endfor %}", SPECIALS[SMOLLM2])
    with pytest.raises(TemplateError, match="learn to stop"):
        endless.encode(chat("a", "b"))
    other = encoder_of(
        "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|><think>\n{% endif %}",
        SPECIALS[SMOLLM2],
    )
    with pytest.raises(TemplateError, match="otherwise than it asks"):
        other.encode(chat("a", "b"))
    with pytest.raises(TemplateError, match="System role not supported"):
        encoder_of(GEMMA).encode(chat("a", "b", system="c"))
    with pytest.raises(TemplateError, match="no chat template"):
        Encoder(tokenizer_of(["<s>", "</s>"]), None).encode(chat("a", "b"))


def test_one_that_is_refused_among_many_spoils_none_of_them() -> None:
    encoder = encoder_of(GEMMA)
    examples: list[Example] = [chat("a", "b"), chat("a", "b", system="c"), DocumentExample("d")] * 30
    encoded = encoder.encode_all(examples)
    assert len(encoded) == 90
    assert isinstance(encoded[1], TemplateError)
    assert encoded[0] == encoder.encode(examples[0])
    assert encoded[87] == encoded[0]
    assert encoded[89] == encoder.encode(examples[2])


def test_one_that_takes_too_long_among_many_spoils_none_of_them() -> None:
    slow = "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    source = slow + "{% endfor %}{% endif %}" + QWEN3
    template = ChatTemplate(source, tokenizer_of(SPECIALS[QWEN3]), seconds=0.3)
    encoded = Encoder(template._tokenizer, template).encode_all([chat("a", "b"), chat("loop", "b")])
    template.close()
    assert isinstance(encoded[0], Encoded)
    assert isinstance(encoded[1], TemplateError)


def test_of_many_long_conversations_no_more_prompts_are_held_than_of_one() -> None:
    encoder, memory = encoder_of(SMOLLM2), []
    conversation = chat(*(f"{n} word" for n in range(60)))
    encoder.encode(conversation)
    for number in (1, 10):
        tracemalloc.start()
        try:
            encoder.encode_all([conversation] * number)
            memory.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert memory[1] < 2 * memory[0]


def test_one_that_takes_too_long_by_itself_is_no_more_than_that() -> None:
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(source, tokenizer_of(SPECIALS[QWEN3]), seconds=0.1)
    encoded = Encoder(template._tokenizer, template).encode_all([chat("a")])
    template.close()
    assert [type(each) for each in encoded] == [TemplateError]


# --- Other examples --------------------------------------------------------------------------------------------
def test_of_a_document_everything_is_trained_up_to_the_end_of_a_text() -> None:
    encoder = Encoder(tokenizer_of(["<s>", "</s>"]), None)
    assert shown(encoder, encoder.encode(DocumentExample("One </s>"))) == "O{ne </s></s>}"
    assert encoder.encode(DocumentExample("One </s>")).ids.count(257 + 2) == 1
    tokenizer = tokenizer_of(["<s>", "</s>"])
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    tokenizer.set_prompt_prefix([tokenizer.specials["<s>"].id])
    encoder = Encoder(tokenizer, None)
    assert shown(encoder, encoder.encode(DocumentExample("One"))) == "<s>{One</s>}"


def test_a_translation_is_a_conversation_where_there_is_a_template_and_else_two_lines() -> None:
    example = TranslationExample("Hallo", "Hello")
    encoder = encoder_of(QWEN3)
    assert encoder.encode(example) == encoder.encode(chat(f"{TRANSLATE}Hallo", "Hello"))
    plain = Encoder(tokenizer_of(["<s>", "</s>"]), None)
    assert shown(plain, plain.encode(example)) == "Hallo\n{Hello</s>}"


def test_a_labelled_text_trains_no_token_and_a_preference_is_refused_by_code() -> None:
    encoder = encoder_of(SMOLLM2)
    encoded = encoder.encode(LabelledExample("Great", ["good"]))
    assert encoded == Encoded(encoder._tokenizer.encode("Great"), [False] * 5)
    with pytest.raises(DataError) as caught:
        encoder.encode(PreferenceExample(chat("a").messages, "b", "c"))
    assert caught.value.code == "unsupported_kind"


def test_many_short_conversations_are_encoded_at_a_thousand_a_second() -> None:
    encoder = encoder_of(SMOLLM2)
    examples: list[Example] = [chat(f"Question {n}", f"Answer {n}") for n in range(500)]
    encoder.encode(examples[0])
    began = time.process_time()
    encoder.encode_all(examples)
    assert time.process_time() - began < 0.5
