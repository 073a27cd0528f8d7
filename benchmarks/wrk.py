"""Load by `wrk`, where it is installed."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

WRK = shutil.which("wrk")
SCRIPT = """
local file = assert(io.open(%s, "rb"))
wrk.method = "POST"
wrk.body = file:read("*all")
file:close()
%s
done = function(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('\\n{"requests": %%d, "duration_us": %%d, "p50_us": %%f, "p99_us": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
"""


def drive(
    url: str, body: bytes, headers: dict[str, str], clients: int, seconds: float, timeout_s: int
) -> dict[str, float]:
    """POST that body from so many clients for so long, whole seconds. Raises `RuntimeError` unless all get 2xx."""
    assert WRK
    with tempfile.TemporaryDirectory() as made:
        data, script = Path(made, "body"), Path(made, "post.lua")
        data.write_bytes(body)
        given = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
        script.write_text(SCRIPT % (json.dumps(str(data)), given))
        command = [WRK, "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", f"--timeout={timeout_s}s"]
        done = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise RuntimeError(f"wrk said: {done.stdout[-300:]} {done.stderr[-300:]}") from None
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"{found['failed']} of {found['requests']} answers were not 2xx, or were lost")
    rate = found["requests"] / found["duration_us"] * 1e6
    return {"requests/s": rate, "p50 ms": found["p50_us"] / 1000, "p99 ms": found["p99_us"] / 1000}
