"""Addresses of servers in messages: the host and port of a URL, and never its login."""

import os


def address_of(url: str, default_port: int) -> str:
    """Return `host:port`; several, separated by commas, if the URL names several servers."""
    _, separator, rest = url.partition("://")
    authority, _, options = (rest if separator else url).partition("?")
    if "@" in options and "@" not in authority:
        # What follows the @ is a host if a password has a question mark, or the end of a password in the options.
        return "an unknown address"
    hosts = authority.rpartition("@")[2].partition("/")[0]
    return ",".join(_with_port(each, default_port) for each in hosts.split(","))


def _with_port(host: str, default_port: int) -> str:
    has_port = ":" in host.rpartition("]")[2]
    return host if has_port else f"{host}:{default_port}"


def reason_of(error: BaseException) -> str:
    """Return why a connection failed, in words."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, TimeoutError):
        return "it does not respond"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
