"""Models in object stores and on web servers: fetched once to this machine's disk, again when they have changed.

    s3://<bucket>/<path>        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ... as all of AWS's clients
    gs://<bucket>/<path>        GOOGLE_APPLICATION_CREDENTIALS, or the machine's own account
    https://<host>/<file>       a file; .tar, .tar.gz, .tgz and .zip are unpacked

A version is a folder of its own, named by what the server says of each file (ETag, size), and is whole or not there.
Files are streamed to disk. Knows nothing of what is in them.
"""

import fcntl
import hashlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import httpx

from deployments.errors import SourceError

Progress = Callable[[str], None]
STORES = {"s3": "s3fs", "gs": "gcsfs"}
TIMEOUT_S = 30
MAX_MEMBERS = 100_000
"""Files of an archive."""
SPARE_BYTES = 1 << 30
"""What an archive leaves free of the disk."""
HINTS = {
    "s3": "check the bucket and path, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for MinIO)",
    "gs": "check the bucket and path, and set GOOGLE_APPLICATION_CREDENTIALS",
    "http": "check the address, and that this machine reaches it",
}


def fetch(source: str, progress: Progress) -> Path:
    """The folder with the files of `source`. Blocks; of several processes one fetches. Raises `SourceError`."""
    scheme = source.partition("://")[0]
    try:
        if scheme in STORES:
            return _from_store(source, scheme, progress)
        return _from_web(source, progress)
    except SourceError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        hint = HINTS.get(scheme, HINTS["http"])
        raise SourceError(f"{source}: it cannot be fetched ({type(error).__name__}: {said}); {hint}") from error


def _from_store(source: str, scheme: str, progress: Progress) -> Path:
    try:
        import fsspec

        store: Any = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise SourceError(f"{source}: {STORES[scheme]} is not installed; `pip install {STORES[scheme]}`") from error
    root = source.partition("://")[2].rstrip("/")
    found = {name: info for name, info in sorted(store.find(root, detail=True).items()) if not name.endswith("/")}
    if not found:
        raise SourceError(f"{source}: there is nothing; {HINTS[scheme]}")
    key = "".join(f"{name} {info['size']} {_version(info)}\n" for name, info in found.items())
    total, done = sum(info["size"] for info in found.values()), 0

    def fill(folder: Path) -> None:
        nonlocal done
        for name, info in found.items():
            target = _inside(folder, name.removeprefix(root).strip("/") or PurePosixPath(name).name)
            with store.open(name, "rb", cache_type="readahead") as opened, target.open("wb") as file:
                while piece := opened.read(8 << 20):
                    file.write(piece)
                    done += len(piece)
                    _tell(progress, source, done, total)
            if target.stat().st_size != info["size"]:
                raise SourceError(
                    f"{source}: {name} came as {target.stat().st_size} of {info['size']} bytes; try again"
                )

    return _once(source, key, fill, progress)


def _version(info: dict[str, Any]) -> str:
    return str(next((info[key] for key in ("ETag", "etag", "generation", "mtime", "LastModified") if key in info), ""))


def _from_web(source: str, progress: Progress) -> Path:
    as_it_is = {"accept-encoding": "identity"}  # or sizes are of what was compressed on the way
    with httpx.stream("GET", source, headers=as_it_is, follow_redirects=True, timeout=TIMEOUT_S) as answer:
        answer.raise_for_status()
        told = [answer.headers.get(key, "") for key in ("etag", "last-modified", "content-length")]
        name = PurePosixPath(unquote(urlsplit(source).path)).name or "file"

        def fill(folder: Path) -> None:
            target = folder / name
            total, done = int(answer.headers.get("content-length") or 0), 0
            with target.open("wb") as file:
                for piece in answer.iter_raw(8 << 20):
                    file.write(piece)
                    done += len(piece)
                    _tell(progress, source, done, total)
            if total and done != total:
                raise SourceError(f"{source}: {done} of {total} bytes came; try again")
            if name.endswith((".tar", ".tar.gz", ".tgz", ".zip")):
                progress(f"unpacking {name}")
                _unpack(source, target, folder)
                target.unlink()

        return _once(source, "\n".join(told), fill, progress)


def _once(source: str, key: str, fill: Callable[[Path], None], progress: Progress) -> Path:
    """The folder of that version, filled under a lock if it is not there yet, and renamed when it is whole."""
    home = cache_folder() / hashlib.sha256(source.encode()).hexdigest()[:24]
    version = home / hashlib.sha256(key.encode()).hexdigest()[:24]
    home.mkdir(parents=True, exist_ok=True)
    if version.is_dir():
        return version
    progress(f"waiting for {source}, which another process may be fetching")
    with _locked(home / "lock"):
        if not version.is_dir():
            (home / "source").write_text(source.partition("?")[0])  # for people; a query may hold a key
            part = version.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                fill(part)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            part.rename(version)
    return version


def cache_folder() -> Path:
    """Beside what comes from the hub: `serve_app` in `HF_HOME`."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "serve_app"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go of by the system if this process dies
        yield


def _inside(folder: Path, name: str) -> Path:
    """Where a file of that name goes. Raises `SourceError` for one that would be elsewhere."""
    target = Path(os.path.normpath(folder / name))
    if not target.is_relative_to(folder) or target == folder:
        raise SourceError(f"the file name {name!r} leads out of its folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _unpack(source: str, archive: Path, folder: Path) -> None:
    """Files and folders only, none outside `folder`, no more than the disk has room for."""
    room = shutil.disk_usage(folder).free - SPARE_BYTES
    count = 0

    def take(name: str, size: int, opened: IO[bytes]) -> None:
        nonlocal room, count
        room, count = room - size, count + 1
        if room < 0 or count > MAX_MEMBERS:
            raise SourceError(f"{source}: unpacked it is more than the disk's room or {MAX_MEMBERS} files")
        with _inside(folder, name).open("xb") as file:
            shutil.copyfileobj(opened, file, 8 << 20)

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for one in zipped.infolist():
                if not one.is_dir():
                    with zipped.open(one) as opened:
                        take(one.filename, one.file_size, opened)
        return
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                take(member.name, member.size, file)
            elif not member.isdir():
                raise SourceError(
                    f"{source}: {member.name} is a link or a device; archives hold files and folders only"
                )


def _tell(progress: Progress, source: str, done: int, total: int) -> None:
    progress(f"fetching {source}, {done:,}" + (f" of {total:,} bytes" if total else " bytes"))
