"""The static files: compressed once at the start, addressed by what they contain, kept by browsers for a year."""

import gzip
import hashlib
import mimetypes
from importlib import resources
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from admitone.kernel.errors import NotFound

_KEPT: Final = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class _Asset(NamedTuple):
    content: bytes
    compressed: bytes
    media_type: str


def _read() -> dict[str, _Asset]:
    found = {}
    for file in resources.files("admitone.web").joinpath("static").iterdir():
        content = file.read_bytes()
        ending = "." + file.name.rpartition(".")[2]
        media_type = _TYPES.get(ending) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        found[file.name] = _Asset(content, gzip.compress(content, 9, mtime=0), media_type)
    return found


def _fingerprint(assets: dict[str, _Asset]) -> str:
    """Return one fingerprint for all files, so that a module's relative imports stay within the same edition."""
    digest = hashlib.sha256()
    for name in sorted(assets):
        digest.update(name.encode() + b"\0" + assets[name].content + b"\0")
    return digest.hexdigest()[:12]


_ASSETS: Final = _read()
EDITION: Final = _fingerprint(_ASSETS)


def address(name: str) -> str:
    """Return where a static file is found; an unknown name is a bug in a template."""
    assert name in _ASSETS, name
    return f"/static/{EDITION}/{name}"


async def static_file(request: Request) -> Response:
    """Serve one file of this edition; another edition's address must not give this one's content."""
    asset = _ASSETS.get(request.path_params["name"])
    if asset is None or request.path_params["edition"] != EDITION:
        raise NotFound
    headers = {**_KEPT, "content-type": asset.media_type}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.compressed, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.content, headers=headers)
