"""Files that are broken or hostile are named in a sentence; nothing they declare makes us allocate or crash."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.formats.digest import content_digest
from inference.formats.errors import ModelFileError
from inference.formats.gguf_file import read_gguf
from inference.formats.model_files import find_model
from inference.formats.safetensors_file import read_headers
from tests.inference.tiny_models import save_gguf, save_model


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    save_gguf(path, gguf.GGMLQuantizationType.Q8_0)
    return path.read_bytes()


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


# --- GGUF ---------------------------------------------------------------------------------------------------
def test_a_gguf_is_read_as_the_gguf_package_reads_it(good_gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(good_gguf)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert {name: t.offset for name, t in ours.tensors.items()} == {
        t.name: t.data_offset for t in theirs.tensors
    }
    assert {name: t.nbytes for name, t in ours.tensors.items()} == {t.name: t.n_bytes for t in theirs.tensors}
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == value


@given(length=st.floats(0, 1, exclude_max=True))
def test_a_gguf_cut_anywhere_is_called_truncated(length: float, good_gguf: bytes, scratch: Path) -> None:
    path = scratch / "cut.gguf"
    path.write_bytes(good_gguf[: int(len(good_gguf) * length**3)])
    with pytest.raises(
        ModelFileError, match=r"cut\.gguf: (is truncated|is empty|is not a GGUF|declares an array)"
    ):
        read_gguf(path)


@given(at=st.integers(0, 3000), noise=st.binary(min_size=1, max_size=16))
def test_noise_in_a_gguf_header_is_an_error_or_harmless(
    at: int, noise: bytes, good_gguf: bytes, scratch: Path
) -> None:
    path = scratch / "noise.gguf"
    path.write_bytes(good_gguf[:at] + noise + good_gguf[at + len(noise) :])
    try:
        read_gguf(path)
    except ModelFileError:
        return


def header(*parts: bytes, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + b"".join(parts)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and so on", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (header(tensors=2**60), "absurd"),
        (header(entries=2**60), "absurd"),
        (header(struct.pack("<Q", 2**62), entries=1), "truncated"),
        (header(text("k"), struct.pack("<IIQ", 9, 8, 2**60), entries=1), "more than fit"),
        (header(text("k"), struct.pack("<IIQ", 9, 4, 2**60), entries=1), "truncated"),
        (header(text("k"), struct.pack("<IIQ", 9, 9, 5), entries=1), "unknown type 9"),
        (header(text("k"), struct.pack("<I", 99), entries=1), "unknown type 99"),
        (header(text("t"), struct.pack("<I", 9), tensors=1), "9 dimensions"),
        (header(text("t"), struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), tensors=1), "truncated"),
        (header(text("t"), struct.pack("<IQIQ", 1, 33, 8, 0), tensors=1), "cannot store"),
        (header(text("t"), struct.pack("<IQIQ", 1, 32, 77, 0), tensors=1), "ggml type 77"),
        (header(text("general.alignment"), struct.pack("<II", 4, 0), entries=1), "alignment of 0"),
    ],
)
def test_absurd_gguf_headers_are_named_in_a_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=says):
        read_gguf(path)


# --- safetensors --------------------------------------------------------------------------------------------
def safetensors(description: object, data: bytes = b"") -> bytes:
    packed = description if isinstance(description, bytes) else json.dumps(description).encode()
    return struct.pack("<Q", len(packed)) + packed + data


def tensor(shape: list[object], begin: object, end: object, dtype: str = "F32") -> dict[str, object]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "truncated or not"),
        (b"\xff" * 100, "truncated or not"),
        (struct.pack("<Q", 2**62) + b"{}", "truncated or not"),
        (safetensors(b"not json"), "no JSON"),
        (safetensors(b"[" * 200_000), "no JSON"),
        (safetensors([1, 2]), "no JSON object"),
        (safetensors({"t": 5}), "describes t"),
        (safetensors({"t": {"dtype": "F32"}}), "describes t"),
        (safetensors(tensor([2], 0, 8)), "truncated"),
        (safetensors(tensor([2**40, 2**40], 0, 8), b"x" * 8), "but gives it 8 bytes"),
        (safetensors(tensor([-1], 0, 8), b"x" * 8), "cannot be read"),
        (safetensors(tensor([2.5], 0, 8), b"x" * 8), "cannot be read"),
        (safetensors(tensor([2], 0, 8, "F2"), b"x" * 8), "cannot be read"),
    ],
)
def test_absurd_safetensors_headers_are_named_in_a_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=rf"bad\.safetensors: .*{says}"):
        read_headers([path])


def test_an_index_may_only_name_files_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../../secret.safetensors"}}'
    )
    with pytest.raises(ModelFileError, match="not a file of this folder"):
        find_model(tmp_path)


# --- Finding them -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_pickles_are_refused_and_never_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    pickle = tmp_path / name
    pickle.write_bytes(b"\x80\x04cos\nsystem\n")
    pickle.chmod(0)
    for path in (tmp_path, pickle):
        with pytest.raises(ModelFileError, match="pickled weights"):
            find_model(path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="nowhere: is not there"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match=r"neither a config\.json nor a GGUF"):
        find_model(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelFileError, match="holds 2 GGUF files"):
        find_model(tmp_path)


# --- Digests ------------------------------------------------------------------------------------------------
def test_a_digest_is_of_the_content_and_not_of_the_place(good_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(good_folder, copy)
    first, second = content_digest(find_model(good_folder).content), content_digest(find_model(copy).content)
    assert first == second
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert content_digest(find_model(copy).content) != first


def test_a_remembered_digest_is_used_until_the_file_changes(tmp_path: Path) -> None:
    file, cache = tmp_path / "a.gguf", tmp_path / "cache"
    file.write_bytes(b"one")
    first = content_digest([file], cache)
    (entry,) = cache.iterdir()
    entry.write_text(entry.read_text().replace(first, "0" * 64))
    assert content_digest([file], cache) == "0" * 64, "it was not remembered"
    assert content_digest([file]) == first
    file.write_bytes(b"another")
    assert content_digest([file], cache) not in (first, "0" * 64)
    entry.write_text("garbage")
    assert content_digest([file], cache) == content_digest([file])
