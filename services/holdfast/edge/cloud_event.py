"""CloudEvents 1.0, binary, structured and batched (the bindings of HTTP, NATS and Kafka, the format of JSON).

Headers of Kafka begin with `ce_` and are plain UTF-8; those of the others with `ce-`, percent-encoded.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import unquote

from holdfast.edge.fault import Malformed
from holdfast.edge.plain import parsed
from holdfast.edge.received import Received

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_NAME: Final = re.compile(r"[a-z0-9]{1,64}")
_REQUIRED: Final = ("id", "source", "type")
_DATA: Final = frozenset({"data", "data_base64"})


def media_type(content_type: str) -> str:
    """Return a content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Say whether a media type is one of JSON."""
    return media.endswith(("/json", "+json"))


def events_of(
    headers: Mapping[str, str], body: bytes, *, prefix: Literal["ce-", "ce_"] = "ce-"
) -> list[Received]:
    """Read the events of a message. Raises `Malformed`, also if only one of a batch is malformed."""
    media = media_type(headers.get("content-type", ""))
    if media == STRUCTURED:
        return [_structured(parsed(body), headers, "")]
    if media == BATCH:
        batch = parsed(body)
        if not isinstance(batch, list):
            raise Malformed("The batch is no list of events.", "body")
        return [_structured(one, headers, f"[{index}]") for index, one in enumerate(batch)]
    return [_binary(headers, body, media, prefix)]


def _structured(whole: Any, headers: Mapping[str, str], where: str) -> Received:
    if not isinstance(whole, dict):
        raise Malformed("The event is no JSON object.", where or "body")
    attributes = {name: value for name, value in whole.items() if name not in _DATA}
    _check(attributes, where)
    return Received(headers, _data_of(whole, where), attributes, whole, _key(attributes))


def _data_of(whole: Mapping[str, Any], where: str) -> Any:
    if "data_base64" not in whole:
        return whole.get("data")
    media = media_type(str(whole.get("datacontenttype") or "application/json"))
    try:
        data = base64.b64decode(str(whole["data_base64"]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("data_base64 is not base64.", f"{where}.data_base64".lstrip(".")) from error
    return parsed(data) if is_json(media) else None


def _binary(headers: Mapping[str, str], body: bytes, media: str, prefix: str) -> Received:
    plain = unquote if prefix == "ce-" else str
    attributes: dict[str, Any] = {
        name[3:]: plain(value) for name, value in headers.items() if name.startswith(prefix)
    }
    if media:
        attributes["datacontenttype"] = headers["content-type"]
    _check(attributes, "")
    whole = dict(attributes)
    data = None
    if body and (is_json(media) or not media):
        data = whole["data"] = parsed(body)
    elif body:
        whole["data_base64"] = base64.b64encode(body).decode()
    return Received(headers, data, attributes, whole, _key(attributes))


def _check(attributes: Mapping[str, Any], where: str) -> None:
    for name in _REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise Malformed(f"The event has no attribute {name}.", f"{where}.{name}".lstrip("."))
    if attributes.get("specversion") != "1.0":
        raise Malformed("The event's specversion is not 1.0.", f"{where}.specversion".lstrip("."))
    for name in attributes:
        if not _NAME.fullmatch(name):
            raise Malformed("The event has an attribute whose name is not small letters and digits.", where)
    if any("\0" in value for value in attributes.values() if isinstance(value, str)):
        raise Malformed("The event has a NUL character in an attribute.", where)
    if re.search(r"\s", attributes["source"]):
        raise Malformed("The event's source has white space.", f"{where}.source".lstrip("."))


def _key(attributes: Mapping[str, Any]) -> str:
    """Return what two deliveries of one event have in common: source and id together."""
    return f"{attributes['source']} {attributes['id']}"
