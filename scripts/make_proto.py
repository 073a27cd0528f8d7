"""Make the Python of the gRPC service from its proto: message classes, their types, and the service.

    python -m scripts.make_proto [folder]

Writes them beside the proto, or into a folder. Needs `grpcio-tools` (extra `proto`). The message classes are
not protoc's own file: that one refuses every protobuf older than its protoc, and puts the descriptors into the
pool that all libraries share, where tritonclient's and kserve's, of the same names, would clash with them.
"""

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTO = Path("deployments/protocols/open_inference.proto")
LINE_BYTES = 40

MODULE = '''"""Messages of `open_inference.proto`, in a descriptor pool of their own. Made by `scripts.make_proto`.

The wire knows the service as `inference.GRPCInferenceService`, and so do clients and reflection; so the proto's
package has to be `inference`. In the pool that all libraries share, a second proto of that package is an error:
whoever imports tritonclient or kserve after this module, or before it, as a model's own code may, would fail.
In a pool of their own the names are free, and the bytes are the same. Message classes are found by this
module's path, so that they can be pickled, as Ray Serve's proxy does with requests; those that are nested in
another, only with it.
"""

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal import builder

POOL = DescriptorPool()
DESCRIPTOR = POOL.AddSerializedFile(
{descriptor}
)
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, globals())
'''

TYPES = """
from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool

POOL: _DescriptorPool
"""


def main(folder: Path) -> None:
    """Write the three files into `folder`."""
    with tempfile.TemporaryDirectory() as made:
        descriptor = Path(made, "descriptor")
        options = [f"--descriptor_set_out={descriptor}", f"--pyi_out={made}", f"--grpc_python_out={made}"]
        roots = [f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *roots, *options, str(PROTO)], check=True, cwd=ROOT)
        module = MODULE.format(descriptor=_literal(_only_file(descriptor.read_bytes())))
        stem = Path(made) / PROTO.with_suffix("")
        Path(folder, f"{stem.name}_pb2.py").write_text(module)
        Path(folder, f"{stem.name}_pb2.pyi").write_text(Path(f"{stem}_pb2.pyi").read_text() + TYPES)
        Path(folder, f"{stem.name}_pb2_grpc.py").write_text(Path(f"{stem}_pb2_grpc.py").read_text())


def _only_file(descriptor_set: bytes) -> bytes:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    (file,) = FileDescriptorSet.FromString(descriptor_set).file
    serialized: bytes = file.SerializeToString(deterministic=True)
    return serialized


def _literal(data: bytes) -> str:
    lines = (data[at : at + LINE_BYTES] for at in range(0, len(data), LINE_BYTES))
    return "\n".join(f"    {line!r}" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / PROTO.parent)
