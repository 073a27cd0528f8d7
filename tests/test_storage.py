"""Sources in object stores and on web servers, against real servers on this machine."""

import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments import storage
from deployments.errors import SourceError
from deployments.sources import resolve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storage, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(source: str) -> Path:
    return resolve(source, lambda _: None)


def test_a_file_is_fetched_once_and_again_when_it_has_changed(web: tuple[str, Path], cache: Path) -> None:
    url, folder = web
    (folder / "model.onnx").write_bytes(b"one")
    said: list[str] = []
    first = resolve(f"{url}/model.onnx", said.append)
    assert (first / "model.onnx").read_bytes() == b"one"
    assert said[-1] == f"fetching {url}/model.onnx, 3 of 3 bytes"
    assert fetched(f"{url}/model.onnx") == first
    (folder / "model.onnx").write_bytes(b"two more")
    assert (fetched(f"{url}/model.onnx") / "model.onnx").read_bytes() == b"two more"
    shutil.rmtree(first)  # as docs/kubernetes.md says how to make room
    assert (fetched(f"{url}/model.onnx?key=secret") / "model.onnx").read_bytes() == b"two more"
    assert {one.read_text() for one in cache.glob("*/source")} == {f"{url}/model.onnx"}


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip"])
def test_an_archive_is_unpacked(web: tuple[str, Path], kind: str) -> None:
    url, folder = web
    archive(folder / f"m.{kind}", "inner/config.json")
    found = fetched(f"{url}/m.{kind}")
    assert [path.name for path in found.rglob("*") if path.is_file()] == ["config.json"]


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("name", ["../../out", "/out"])
def test_an_archive_does_not_write_elsewhere(web: tuple[str, Path], cache: Path, kind: str, name: str) -> None:
    url, folder = web
    archive(folder / f"m.{kind}", name)
    with pytest.raises(SourceError, match="leads out of its folder"):
        fetched(f"{url}/m.{kind}")
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {"lock", "source"}


def test_a_link_in_an_archive_is_refused(web: tuple[str, Path]) -> None:
    url, folder = web
    with tarfile.open(folder / "m.tar", "w") as tar:
        link = tarfile.TarInfo("weights")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(SourceError, match="weights is a link"):
        fetched(f"{url}/m.tar")


def test_an_archive_larger_than_the_disks_room_is_refused(
    web: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = web
    archive(folder / "m.zip", "weights")
    monkeypatch.setattr(storage, "SPARE_BYTES", 1 << 60)
    with pytest.raises(SourceError, match="the disk's room"):
        fetched(f"{url}/m.zip")


def test_several_at_once_fetch_it_once(web: tuple[str, Path]) -> None:
    url, folder = web
    (folder / "m.bin").write_bytes(bytes(30 << 20))
    said: list[str] = []
    threads = [threading.Thread(target=resolve, args=(f"{url}/m.bin", said.append)) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    whole = f"fetching {url}/m.bin, {30 << 20:,} of {30 << 20:,} bytes"
    assert said.count(whole) == 1


@pytest.mark.parametrize("source", ["{url}/nothing", "http://127.0.0.1:9/m"])
def test_what_cannot_be_fetched_says_what_to_do(web: tuple[str, Path], source: str) -> None:
    with pytest.raises(SourceError, match="check the address") as error:
        fetched(source.format(url=web[0]))
    assert "\n" not in error.value.message


@pytest.mark.slow
def test_a_folder_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        bucket = boto3.resource("s3").create_bucket(Bucket="models")
        check_store("s3", lambda name, content: bucket.put_object(Key=name, Body=content), "AWS_ACCESS_KEY_ID")
    finally:
        server.stop()


@pytest.mark.slow
def test_a_folder_in_googles_store(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read at import; asks by gRPC, with TLS
    gcsfs = pytest.importorskip("gcsfs")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="models")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        store = gcsfs.GCSFileSystem(token="anon")
        check_store("gs", lambda name, content: store.pipe(f"models/{name}", content), "GOOGLE_APPLICATION_CREDENTIALS")
    finally:
        server.stop()


def check_store(scheme: str, put: Callable[[str, bytes], object], hint: str) -> None:
    """A folder in the bucket `models` is fetched once, and again when a file in it has changed."""
    put("iris/1/model.skops", bytes(9 << 20))
    put("iris/config.json", b"{}")
    first = fetched(f"{scheme}://models/iris")
    assert (first / "1/model.skops").stat().st_size == 9 << 20
    assert fetched(f"{scheme}://models/iris") == first
    put("iris/config.json", b"[]")
    assert (fetched(f"{scheme}://models/iris") / "config.json").read_bytes() == b"[]"
    with pytest.raises(SourceError, match=hint):
        fetched(f"{scheme}://models/nothing")


def archive(path: Path, name: str) -> None:
    """An archive of one file of that name, three zeros."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(name, bytes(3))
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 3
        tar.addfile(member, io.BytesIO(bytes(3)))
