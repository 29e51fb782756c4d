"""What hosts share: put once, fetched where it is asked for, proved byte by byte, and bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.utils import timezone

from tests.services import ROOT, minimal_environment, wait_until
from webapp.core import content_cache, contents, shared_storage
from webapp.core.content_cache import ContentCache, Stopped
from webapp.core.shared_storage import StorageError
from webapp.env import Env, SettingsError

KIND = "models"
Make = Callable[..., ContentCache]


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket called flywheel."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    given = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **given).create_bucket(Bucket="flywheel")
    yield address
    server.stop()


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, settings: Any, tmp_path: Path) -> str:
    """The shared storage is there, of either kind."""
    environment = {"STORAGE_URL": f"file://{tmp_path}/shared"}
    if request.param == "bucket":
        environment = {
            "STORAGE_URL": f"s3://flywheel/{tmp_path.name}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": request.getfixturevalue("s3"),
            "AWS_REGION": "us-east-1",
        }
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(Env(environment))
    return str(request.param)


@pytest.fixture
def folder_store(settings: Any, tmp_path: Path) -> Path:
    """A folder, where what a storage is makes no difference."""
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(
        Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
    )
    return tmp_path / "shared" / KIND


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(host: str = "host", limit: int = 10**9) -> ContentCache:
        return ContentCache(KIND, tmp_path / host / "cache", limit)

    return made


def put(tmp_path: Path, name: str = "tiny", **files: bytes) -> str:
    """Publishes files of that content, by their names."""
    source = tmp_path / f"source of {name}"
    source.mkdir(exist_ok=True)
    given = files or {"weights": b"w" * 3_000_000, "config": b"{}"}
    for file, data in given.items():
        (source / file).write_bytes(data)
    return contents.publish(KIND, name, [source / file for file in given])


def kept(tmp_path: Path, host: str = "host") -> set[str]:
    """What is in a host's cache, half or whole."""
    return {each.name for each in (tmp_path / host / "cache").iterdir() if each.name != "locks"}


def damage(digest: str, name: str) -> None:
    """One bit of a file in the storage is another."""
    key = f"{KIND}/{digest}/{name}"
    data = bytearray(b"".join(shared_storage.read(key)))
    data[-1] ^= 1
    shared_storage.write(key, bytes(data))


# --- Fetched ------------------------------------------------------------------------------------------------
def test_what_one_host_puts_there_another_has_byte_for_byte(store: str, make: Make, tmp_path: Path) -> None:
    digest = put(tmp_path)
    with make("other").hold(digest) as folder:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            "weights": b"w" * 3_000_000,
            "config": b"{}",
        }
    assert kept(tmp_path, "other") == {digest}


def test_the_same_content_of_two_names_is_two_and_of_one_name_one(store: str, tmp_path: Path) -> None:
    first, again, other = put(tmp_path), put(tmp_path), put(tmp_path, "other")
    assert first == again != other
    contents.remove(KIND, first)
    assert contents.manifest_of(KIND, other).name == "other"
    with pytest.raises(StorageError, match=f"The shared storage cannot give models/{first}.json: "):
        contents.manifest_of(KIND, first)
    assert shared_storage.listed(f"{KIND}/{first}") == ([], [])


def test_a_file_that_was_changed_there_is_refused_and_nothing_stays(
    store: str, make: Make, tmp_path: Path
) -> None:
    digest = put(tmp_path)
    damage(digest, "weights")
    said = f"models/{digest}/weights in the shared storage is not the file that was put there"
    with pytest.raises(StorageError, match=said):
        make().hold(digest)
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("longer", [True, False], ids=["longer", "shorter"])
def test_a_file_of_another_length_is_refused(
    longer: bool, folder_store: Path, make: Make, tmp_path: Path
) -> None:
    digest = put(tmp_path)
    file = folder_store / digest / "weights"
    file.write_bytes(file.read_bytes() + b"w" if longer else b"w")
    with pytest.raises(StorageError, match="is not the file that was put there"):
        make().hold(digest)
    assert kept(tmp_path) == set()


def test_a_manifest_that_was_changed_there_is_refused(folder_store: Path, make: Make, tmp_path: Path) -> None:
    """Whoever can write there can put other files there, with a manifest that is true of them."""
    digest, others = put(tmp_path), put(tmp_path, "other", weights=b"other")
    (folder_store / f"{digest}.json").write_bytes((folder_store / f"{others}.json").read_bytes())
    with pytest.raises(
        StorageError, match=r"\.json in the shared storage is not the file that was put there"
    ):
        make().hold(digest)
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("planted", ["file", "folder", "pipe"])
def test_nothing_planted_there_reaches_what_lies_elsewhere(
    planted: str, folder_store: Path, make: Make, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret_key").write_bytes(b"secret")
    digest = put(tmp_path)
    manifest = folder_store / f"{digest}.json"
    if planted == "folder":
        (folder_store / ("0" * 64)).symlink_to(elsewhere)
    else:
        manifest.unlink()
        os.mkfifo(manifest) if planted == "pipe" else manifest.symlink_to(elsewhere / "secret_key")
        with pytest.raises(StorageError, match="neither a file nor a folder"):
            make().hold(digest)
        with pytest.raises(StorageError, match="neither a file nor a folder"):
            put(tmp_path)
    later = timezone.now() + contents._ORPHAN_AFTER + timedelta(minutes=1)
    contents.remove_orphans(KIND, set(), later)
    assert (elsewhere / "secret_key").read_bytes() == b"secret"


def test_a_manifest_without_end_does_not_fill_the_memory(
    folder_store: Path, make: Make, tmp_path: Path
) -> None:
    digest = put(tmp_path)
    os.truncate(folder_store / f"{digest}.json", 2**40)
    with pytest.raises(StorageError, match="longer than it can be"):
        make().hold(digest)


def test_what_was_not_put_there_whole_is_not_there_and_can_be_put_again(
    folder_store: Path, make: Make, tmp_path: Path
) -> None:
    digest = put(tmp_path)
    (folder_store / f"{digest}.json").write_bytes(b'{"na')
    (folder_store / digest / "weights").write_bytes(b"half")
    with pytest.raises(StorageError):
        make().hold(digest)
    assert put(tmp_path) == digest
    make("other").hold(digest).release()


def test_a_damaged_file_is_not_read_again_and_again(
    folder_store: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(tmp_path)
    damage(digest, "weights")
    read, times = shared_storage.read, []

    def slowly(name: str) -> Iterator[bytes]:
        times.append(name)
        time.sleep(0.05)
        return read(name)

    monkeypatch.setattr(shared_storage, "read", slowly)
    for _ in range(3):
        with pytest.raises(StorageError, match="is not the file that was put there"):
            make().hold(digest)
    assert len([name for name in times if name.endswith("weights")]) == 1


def test_two_who_want_it_at_once_fetch_it_once(
    folder_store: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, read, times = put(tmp_path), shared_storage.read, []
    both = threading.Barrier(2)

    def noting(name: str) -> Iterator[bytes]:
        times.append(name)
        time.sleep(0.05)
        return read(name)

    monkeypatch.setattr(shared_storage, "read", noting)

    def hold() -> None:
        both.wait()
        make().hold(digest).release()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 3  # the manifest and two files
    assert kept(tmp_path) == {digest}


def test_who_wants_it_no_more_breaks_it_off(folder_store: Path, make: Make, tmp_path: Path) -> None:
    digest = put(tmp_path)
    with pytest.raises(Stopped):
        make().hold(digest, lambda: True)
    assert kept(tmp_path) == set()
    make().hold(digest).release()  # and it is not taken for damaged


HOLD_SLOWLY = """
import sys, time
from pathlib import Path
from django.conf import settings
from webapp.core import shared_storage
from webapp.env import Env
settings.configure(STORAGES=shared_storage.configuration(Env({"STORAGE_URL": sys.argv[3]})))
from webapp.core.content_cache import ContentCache
read = shared_storage.read
def slowly(name):
    for chunk in read(name):
        yield chunk
        time.sleep(0 if name.endswith("json") else 60)
shared_storage.read = slowly
ContentCache("models", Path(sys.argv[1]), 10**9).hold(sys.argv[2])
"""


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_half(
    folder_store: Path, make: Make, tmp_path: Path
) -> None:
    digest, other = put(tmp_path), put(tmp_path, "other")
    cache = tmp_path / "host" / "cache"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_SLOWLY, str(cache), digest, f"file://{tmp_path}/shared"],
        cwd=ROOT,
        env=minimal_environment(),
    )
    try:
        wait_until(lambda: any(cache.glob(f".fetching-{digest}-*/config")), "a file")
        make().hold(other).release()  # what another fetches meanwhile is left alone
        assert any(cache.glob(f".fetching-{digest}-*/config"))
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    make().forget({other}.__contains__)
    assert kept(tmp_path) == {other}
    make().hold(digest).release()


# --- Bounded ------------------------------------------------------------------------------------------------
def test_the_longest_unused_makes_room_and_what_is_in_use_stays(
    folder_store: Path, make: Make, tmp_path: Path
) -> None:
    first, second, third, fourth = (put(tmp_path, name, weights=b"w" * 1000) for name in "abcd")
    cache = make(limit=2000)
    held = cache.hold(first)
    cache.hold(second).release()
    cache.hold(third).release()
    assert kept(tmp_path) == {first, third}
    held.release()
    with cache.hold(fourth):
        assert kept(tmp_path) == {first, fourth}  # it was used last when it was released


def test_what_is_larger_than_the_cache_is_refused_with_both_numbers(
    folder_store: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = put(tmp_path, "small", weights=b"w" * 1_000_000), put(tmp_path, "large")
    cache = make(limit=3_500_000)
    with cache.hold(small), pytest.raises(StorageError) as refused:
        cache.hold(large)
    assert "large has 3.0 MB, and of the 3.5 MB of the cache in " in str(refused.value)
    assert str(refused.value).endswith(" 1.0 MB are in use: raise MODEL_CACHE_GB.")
    with pytest.raises(StorageError, match=r"large has 3.0 MB, and the cache in .* may have 2.0 MB: raise"):
        make("other", limit=2_000_000).hold(large)
    monkeypatch.setattr(content_cache, "_SPARE_BYTES", 2**60)
    with pytest.raises(
        StorageError, match=r"large has 3.0 MB, and there is room for 0.0 MB where .* lies: free"
    ):
        make("full").hold(large)
    assert kept(tmp_path, "full") == set()


def test_what_nobody_knows_any_more_goes_when_nobody_uses_it(
    folder_store: Path, make: Make, tmp_path: Path
) -> None:
    known, used, unknown = (put(tmp_path, name) for name in "abc")
    cache = make()
    for digest in (known, unknown):
        cache.hold(digest).release()
    with cache.hold(used):
        cache.forget({known}.__contains__)
        assert kept(tmp_path) == {known, used}
    cache.forget({known}.__contains__)
    assert kept(tmp_path) == {known}


def test_what_no_row_names_is_removed_after_a_day(store: str, tmp_path: Path) -> None:
    known, orphan = put(tmp_path), put(tmp_path, "orphan")
    contents.remove_orphans(KIND, {known}, timezone.now())
    assert shared_storage.exists(f"{KIND}/{orphan}.json")
    later = timezone.now() + contents._ORPHAN_AFTER + timedelta(minutes=1)
    contents.remove_orphans(KIND, {known}, later)
    assert shared_storage.listed(KIND) == ([known], [f"{known}.json"])


# --- Settings -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x/y", "STORAGE_URL must start with file:// or s3://."),
        ("file://", "STORAGE_URL must name a folder: file:///mnt/flywheel."),
        ("file://mnt/x", "STORAGE_URL must name a folder: file:///mnt/flywheel."),
        ("s3:///prefix", "STORAGE_URL must name a bucket: s3://bucket/prefix."),
        (
            "s3://key:hunter2@bucket",
            "STORAGE_URL holds a key: give that in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and s3://bucket/prefix.",
        ),
    ],
)
def test_a_wrong_address_is_one_sentence(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        shared_storage.configuration(Env({"STORAGE_URL": url}))
    assert str(refused.value) == said


def test_a_storage_that_does_not_answer_is_a_sentence(
    settings: Any, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").write_text("no folder")
    settings.STORAGES = settings.STORAGES | shared_storage.configuration(
        Env({"STORAGE_URL": f"file://{tmp_path}/shared"})
    )
    with pytest.raises(StorageError, match="The shared storage cannot "):
        put(tmp_path)
    with pytest.raises(StorageError, match="The shared storage cannot give models/"):
        make().hold("0" * 64)
    assert "shared" in storages.backends
