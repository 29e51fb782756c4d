"""Programs that were written for OpenAI's API, and know nothing of this one: only the address and the key are ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr

from tests.services import Site
from tests.webapp.api.live_clients import key_of


def chat_model(site: Site, model: str, **options: object) -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=f"{site.base_url}/v1", api_key=SecretStr(key_of(site)), max_retries=0, **options
    )  # type: ignore[arg-type]


def test_langchain_chats_and_streams(live_site: Site) -> None:
    model = chat_model(live_site, "scripted")
    answer = model.invoke([("system", "Be brief."), ("human", "say=Quiet_harbours")])
    assert answer.content == "Quiet harbours "
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 2
    assert answer.response_metadata["finish_reason"] == "stop"
    pieces = [chunk.content for chunk in model.stream("tokens=20 rate=100")]
    assert len(pieces) > 2
    assert "".join(map(str, pieces)).strip()


async def test_langchain_does_so_asynchronously_and_by_responses(live_site: Site) -> None:
    model = chat_model(live_site, "scripted")
    assert (await model.ainvoke("say=Later")).content == "Later "
    assert [chunk.content async for chunk in model.astream("say=Later_on")]
    responding = chat_model(live_site, "scripted", use_responses_api=True)
    assert (await responding.ainvoke("say=Later")).text == "Later "
    said = [chunk.text async for chunk in responding.astream("say=Later_on")]
    assert "".join(said) == "Later on "


def test_langchain_embeds(live_site: Site) -> None:
    vectors = OpenAIEmbeddings(
        model="scripted",
        base_url=f"{live_site.base_url}/v1",
        api_key=SecretStr(key_of(live_site)),
        # It would count tokens with OpenAI's own vocabulary, and send these.
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    first, second = vectors.embed_documents(["a red fox", "a blue fox"])
    assert vectors.embed_query("a red fox") == first != second


class City(BaseModel):
    name: str = Field(max_length=20)
    is_capital: bool


def test_langchain_gets_objects_of_a_schema_from_a_real_model(model_site: Site) -> None:
    model = chat_model(model_site, "smollm2-135m-instruct", temperature=0, max_tokens=60)
    found = model.with_structured_output(City).invoke("Name a city in France as JSON.")
    assert isinstance(found, City)


def test_the_llm_command_asks(live_site: Site, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- {{model_id: ours, model_name: scripted, api_base: '{live_site.base_url}/v1', api_key_name: ours}}\n"
    )
    command = [
        sys.executable,
        "-m",
        "llm",
        "-m",
        "ours",
        "--key",
        key_of(live_site),
        "-o",
        "temperature",
        "0",
    ]
    done = subprocess.run(
        [*command, "say=Quiet_harbours"],
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Quiet harbours"), done.stderr
