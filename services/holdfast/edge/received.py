"""What a sender sent, however it came: headers, attributes if it is a CloudEvent, and its data as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.kit.telemetry.span import is_traceparent


@dataclass(frozen=True, slots=True)
class Received:
    """One event. Headers are by names in small letters; `attributes` are those of a CloudEvent, if it is one.

    `own_key` is the sender's own id of it, the same however often it is delivered; empty if it has none.
    """

    headers: Mapping[str, str]
    data: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)
    """A CloudEvent with all that it has, in JSON's form."""
    own_key: str = ""
    subject: str = ""
    """Of NATS; the topic of Kafka."""
    key: str = ""
    """Of a message of Kafka; empty if it has none."""
    partition: str = ""
    """Where in Kafka a message is, as `<topic>/<number>`."""

    @property
    def traceparent(self) -> str:
        """The trace it was sent in, by its attribute or its header; empty if neither is sound."""
        for told in (self.attributes.get("traceparent"), self.headers.get("traceparent")):
            if isinstance(told, str) and is_traceparent(told):
                return told
        return ""
