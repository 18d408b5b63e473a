"""The static files: compressed once at start, and served under a URL that contains a fingerprint of their content."""

import gzip
import hashlib
import mimetypes
from importlib import resources
from typing import Final, NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from admitone.kernel.errors import NotFound
from admitone.web.compression import accepts_gzip

_HEADERS: Final = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
_MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _Asset(NamedTuple):
    content: bytes
    compressed: bytes
    media_type: str


def _read_assets() -> dict[str, _Asset]:
    found = {}
    for file in resources.files("admitone.web").joinpath("static").iterdir():
        content = file.read_bytes()
        extension = "." + file.name.rpartition(".")[2]
        media_type = _MEDIA_TYPES.get(extension) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        found[file.name] = _Asset(content, gzip.compress(content, 9, mtime=0), media_type)
    return found


def _fingerprint(assets: dict[str, _Asset]) -> str:
    """Return one fingerprint of all files, so that the relative imports of a module load the same version of others."""
    digest = hashlib.sha256()
    for name in sorted(assets):
        digest.update(name.encode() + b"\0" + assets[name].content + b"\0")
    return digest.hexdigest()[:12]


_ASSETS: Final = _read_assets()
FINGERPRINT: Final = _fingerprint(_ASSETS)


def url(name: str) -> str:
    """Return the URL of a static file; an unknown name is a bug in a template."""
    assert name in _ASSETS, name
    return f"/static/{FINGERPRINT}/{name}"


async def static_file(request: HttpRequest) -> Response:
    """Serve a static file; the URL of another version is not found, since browsers cache what it returns for a year."""
    asset = _ASSETS.get(request.path_params["name"])
    if asset is None or request.path_params["fingerprint"] != FINGERPRINT:
        raise NotFound
    headers = {**_HEADERS, "content-type": asset.media_type}
    if accepts_gzip(request):
        return Response(asset.compressed, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.content, headers=headers)
