"""Where a model's files come from: a source in, a folder on this machine out.

    pypi://<package>            an installed Python package: the folder in it with a config.json, else all of it
    package://<module>          the same, of a package that is named as Python imports it
    file:///absolute/path       a folder on this machine
    hf://<org>/<model>[@rev]    a repository on the Hugging Face hub, through its cache
    pvc://<claim>/<path>        a folder of a claim that is mounted at /mnt/claims/<claim>
    s3://, gs://, https://      see `storage`

Knows nothing of engines or of what is in the files.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployments import storage
from deployments.errors import SourceError

HUB_TIMEOUT_S = 10
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.onnx", "*.gguf", "*.h5", "*.msgpack", "*.ot")
"""File kinds of which a repository often holds several copies of the same weights."""

CLAIMS = "/mnt/claims"
"""Where `pvc://` sources are in the pods."""
Progress = Callable[[str], None]


def resolve(source: str, progress: Progress) -> Path:
    """The folder that holds the files of `source`, fetched if need be. Blocks.

    Raises `SourceError` that names the source and what to do about it.
    """
    check(source)
    return SCHEMES[source.partition("://")[0]](source, progress)


def check(source: str) -> None:
    """Raises `SourceError` for a source of no kind that is known here; touches neither disk nor network."""
    scheme, _, rest = source.partition("://")
    if scheme == "oci":
        raise SourceError(
            f"source {source!r}: images of models are not read here; copy the image's /models folder to a volume "
            "(file://, pvc://) or a bucket (s3://, gs://), and name that"
        )
    if scheme not in SCHEMES or not rest:
        have = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceError(f"source {source!r} is of no kind known here; sources begin with {have}")


def size_bytes(path: Path) -> int:
    """Bytes of a folder's files, or of a file. Blocks."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def local_bytes(source: str) -> int:
    """Bytes of a source's files where they are on this machine; 0 for one that is not, or that is not there. Blocks."""
    path = at_hand(source)
    try:
        return size_bytes(path) if path else 0
    except OSError:
        return 0


def at_hand(source: str) -> Path | None:
    """The folder or file of a source that is on this machine and needs no fetching; else None."""
    if source.partition("://")[0] not in ("file", "package", "pypi"):
        return None
    try:
        return resolve(source, lambda _: None)
    except SourceError:
        return None


def _from_package(source: str, _progress: Progress) -> Path:
    package = source.partition("://")[2]
    try:
        spec = importlib.util.find_spec(package.replace("-", "_"))
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"{source}: the package is not installed in this environment; run `pip install {package}`")
    root = Path(spec.submodule_search_locations[0])
    configs = sorted(root.rglob("config.json"), key=lambda path: len(path.parts))
    return configs[0].parent if configs else root


def _from_file(source: str, _progress: Progress) -> Path:
    parts = urlsplit(source)
    path = Path(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not path.is_absolute():
        raise SourceError(f"{source}: write an absolute path, with three slashes: file:///models/my-model")
    if not path.exists():
        raise SourceError(f"{source}: there is nothing at {path} on this machine ({os.uname().nodename})")
    return path


def _from_claim(source: str, progress: Progress) -> Path:
    claim, _, path = source.removeprefix("pvc://").partition("/")
    try:
        return _from_file(f"file://{CLAIMS}/{claim}/{path}", progress)
    except SourceError as error:
        mount = f"{{claim: {claim}, path: {CLAIMS}/{claim}}}"
        raise SourceError(f"{source}: {error.message}; give the model's pool the volume {mount}") from error


def _from_hub(source: str, progress: Progress) -> Path:
    import huggingface_hub as hub
    from huggingface_hub import constants

    name, _, revision = source.removeprefix("hf://").partition("@")
    progress(f"looking for {name}")
    if constants.HF_HUB_OFFLINE:
        return _from_cache(source, name, revision or None, "the hub is switched off (HF_HUB_OFFLINE)")
    try:
        info = hub.HfApi().model_info(name, revision=revision or None, timeout=HUB_TIMEOUT_S, files_metadata=True)
    except (hub.errors.RepositoryNotFoundError, hub.errors.GatedRepoError, hub.errors.RevisionNotFoundError) as error:
        raise SourceError(
            f"{source}: {constants.ENDPOINT} has no such model that this server may read; check the name, and for a "
            f"private or gated model set HF_TOKEN. It said: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        return _from_cache(source, name, revision or None, f"{constants.ENDPOINT} did not answer ({error})")
    files = [file.rfilename for file in info.siblings or []]
    size = sum(file.size or 0 for file in info.siblings or [] if _wanted(file.rfilename, files))
    progress(f"fetching {name}, {size / 2**30:.1f} GiB")
    return Path(
        hub.snapshot_download(
            name,
            revision=revision or None,  # by its name, so that the cache can be asked for it by name later
            etag_timeout=HUB_TIMEOUT_S,
            allow_patterns=[file for file in files if _wanted(file, files)],
            tqdm_class=_reporting(progress, name),
        )
    )


def _from_cache(source: str, name: str, revision: str | None, why: str) -> Path:
    import huggingface_hub as hub

    try:
        return Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:
        raise SourceError(
            f"{source}: {why}, and the model is not in this machine's cache. Connect the machine, or fetch the model "
            f"where there is a network (`hf download {name}`) and copy the cache, or name a folder: file:///path"
        ) from error


def _wanted(file: str, files: list[str]) -> bool:
    """Whether to fetch a file: of several copies of the weights only safetensors, else only PyTorch's."""
    path = Path(file)
    if not any(path.match(kind) for kind in WEIGHTS):
        return True
    suffixes = {Path(other).suffix for other in files if Path(other).parent == path.parent}
    if ".safetensors" in suffixes:
        return path.suffix == ".safetensors"
    return path.suffix == ".bin" if ".bin" in suffixes else str(path.parent) == "."


def _reporting(progress: Progress, name: str) -> type:
    """A progress bar class for huggingface_hub that tells `progress` instead of drawing."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporting(tqdm):
        def display(self, *_args: object, **_kwargs: object) -> None:
            if self.unit == "B" and self.total:
                progress(f"fetching {name}, {self.n / self.total:.0%} of {self.total / 2**30:.1f} GiB")

    return Reporting


SCHEMES: dict[str, Callable[[str, Progress], Path]] = {
    "pypi": _from_package,
    "package": _from_package,
    "file": _from_file,
    "hf": _from_hub,
    "pvc": _from_claim,
    "s3": storage.fetch,
    "gs": storage.fetch,
    "https": storage.fetch,
    "http": storage.fetch,
}
