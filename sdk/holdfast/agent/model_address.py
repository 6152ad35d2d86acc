"""Checks where a model is and the key to it, before a call can fail with either in its message."""

import ipaddress

import httpx


def chat_url(base_url: str) -> httpx.URL:
    """Return the URL of chat completions under a base URL. Raises ValueError when it cannot be called."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("The model's base URL must begin with http:// or https:// and name a host.")
    if url.userinfo:
        raise ValueError("The model's base URL must not carry credentials; give the key on its own.")
    return url.copy_with(path=url.path.rstrip("/") + "/chat/completions", fragment=None)


def checked_key(api_key: str) -> str:
    """Refuse here what HTTP would refuse later with the key in its message."""
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("The model's key must be printable ASCII without spaces.")
    return api_key


def is_loopback(host: str) -> bool:
    """Tell whether the host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
