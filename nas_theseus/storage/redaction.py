"""Remove secrets in addresses from addresses and messages."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit


def without_credentials(uri: str) -> str:
    """An address without user, password, query and fragment, for messages."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # such as a stray bracket: the secret parts cannot be identified
        return f"{uri.partition(':')[0]}://…"
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    if not plain.netloc and uri.partition(":")[2].startswith("//"):
        # A file: urlunsplit drops slashes, and sqlite:////a.db is another one than sqlite:///a.db.
        return f"{parts.scheme}://{plain.path}"
    return urlunsplit(plain)


def scrub(text: str, uri: str) -> str:
    """A message without the address's password and the values of its query."""
    text = text.replace(uri, without_credentials(uri))
    try:
        parts = urlsplit(uri)
    except ValueError:
        return text
    secrets = {parts.password or "", *(value for _, value in parse_qsl(parts.query))}
    secrets |= {unquote(secret) for secret in secrets}
    # Longest first, since one secret may be the beginning of another.
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
