"""Which service serves which paths of the public address: read from the services' own operations and pages."""

from collections.abc import Mapping, Sequence

from admitone.kernel.service import Service

_PAGES = "/"


def path_prefixes(services: Sequence[Service]) -> dict[str, str]:
    """Return the name of the service for each public path prefix, such as "/api/tickets".

    The prefix of an operation is its first two path segments. The service with pages serves "/": every other path.
    """
    found: dict[str, str] = {}
    for service in services:
        prefixes = {"/".join(each.path.split("/")[:3]) for each in service.operations}
        if service.pages is not None:
            prefixes.add(_PAGES)
        for prefix in sorted(prefixes):
            assert "{" not in prefix, f"{service.name}: {prefix} does not tell its service apart from others"
            owner = found.setdefault(prefix, service.name)
            assert owner == service.name, f"{owner} and {service.name} both serve {prefix}"
    return found


def service_for(path: str, prefixes: Mapping[str, str]) -> str:
    """Return the name of the service that serves a path; raises KeyError if there is none."""
    prefix = "/".join(path.split("/")[:3])
    return prefixes[prefix if prefix in prefixes else _PAGES]
