"""How models become one Ray Serve application.

`serve_app:app` is the application of the catalog named by `SERVE_APP_CATALOG` (by default the
embedded one); `serve_app:build` is the typed builder for `serve run serve_app:build catalog=...`
and for `args:` in a Serve config. Both are made on first use, so that importing this costs nothing.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("app", "build"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_app import application

    made = application.build if name == "build" else application.build(application.BuildArgs())
    globals()[name] = made
    return made
