"""The sources of items, as the operator declares them; what callers add are a name and values.

[accounts]
database = "crm"                                 # HOLDFAST_SECRET_CRM, or a mounted file: its URL
query = "SELECT id, name, tags FROM account WHERE region = $region AND tenant = $tenant"
key = "id"
current = "tags"
parameters = { region = "text" }
tenants = ["acme"]

Nothing that a caller sends becomes part of a statement: values are bound, as text that the query casts to the
type that is declared, and `$tenant` is the batch's own.
"""

import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from holdfast.invoker.envelope import Violations
from holdfast.kit.declared import NAME, Fields, read_toml
from holdfast.kit.secret import SecretMissingError, Secrets
from holdfast.kit.settings import SettingsError
from holdfast.ledger.source_rows import Query, SourceUnreadableError
from holdfast.v1 import batch_pb2

Kind = Literal["text", "bigint", "numeric", "boolean", "date", "timestamptz", "uuid"]
EVERY: Final = "*"
TENANT: Final = "tenant"
"""The parameter that every query may use: whose batch it is."""
_COLUMN: Final = re.compile(r"[^\x00]{1,63}")
_PARAMETER: Final = re.compile(r"\$([a-z_][a-z0-9_]*)")
_TENANT_NAME: Final = re.compile(r"[^\s\x00-\x1f]{1,255}")
_MOST_ITEMS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class ItemSource:
    """A source: `text` is its query with $1, $2 … for the parameters named in `order`."""

    name: str
    database: str
    text: str
    key: str
    order: tuple[str, ...] = ()
    current: str = ""
    parameters: Mapping[str, Kind] = field(default_factory=dict)
    tenants: tuple[str, ...] = ("default",)
    timeout: float = 30.0
    max_items: int = 1_000_000


class ItemSources:
    """The sources that there are."""

    def __init__(self, declared: Mapping[str, ItemSource], secrets: Secrets) -> None:
        self._declared = declared
        self._secrets = secrets

    def of(self, name: str, tenant: str) -> ItemSource | None:
        """Return a source that a tenant may read; None if there is none of the name."""
        found = self._declared.get(name)
        return found if found is not None and {tenant, EVERY} & set(found.tenants) else None

    def check(self, wrong: Violations, where: str, asked: batch_pb2.BatchSource, tenant: str) -> None:
        """Check what a caller asks for."""
        source = self.of(asked.source, tenant)
        if source is None:
            wrong.add(f"{where}.source", f"is no source declared for this tenant: {asked.source!r}")
            return
        for name in sorted(source.parameters.keys() | asked.parameters.keys()):
            here, kind = f"{where}.parameters.{name}", source.parameters.get(name)
            if kind is None:
                wrong.add(here, "is not a parameter of this source")
            elif name not in asked.parameters:
                wrong.add(here, f"must be given: {_KINDS[kind][1]}")
            elif not _is(kind, asked.parameters[name]):
                wrong.add(here, f"must be {_KINDS[kind][1]}")

    def query(self, asked: batch_pb2.BatchSource, tenant: str) -> tuple[ItemSource, Query]:
        """Return what is to be read. Raises `SourceUnreadableError` for what is no longer declared."""
        source = self.of(asked.source, tenant)
        wrong = Violations()
        self.check(wrong, "source", asked, tenant)
        if source is None or wrong.found:
            first = wrong.found[0]
            raise SourceUnreadableError(f"{first.field} {first.description}.")
        try:
            url = self._secrets.text(source.database)
        except SecretMissingError as error:
            raise SourceUnreadableError("The operator has not given the URL of its database.") from error
        given = {**asked.parameters, TENANT: tenant}
        values = [given[name] for name in source.order]
        return source, Query(url, source.text, source.key, values, source.timeout)


def read_item_sources(file: Path | None) -> dict[str, ItemSource]:
    """Read the declarations; without a file there are none. Raises `SettingsError`."""
    return {} if file is None else item_sources_of(read_toml(file, "batch sources"))


def item_sources_of(declared: Mapping[str, Any]) -> dict[str, ItemSource]:
    """Read parsed declarations. Raises `SettingsError`."""
    found: dict[str, ItemSource] = {}
    for name, fields in declared.items():
        if not isinstance(fields, dict) or not NAME.fullmatch(name):
            raise SettingsError(f"[{name}] is no table with a name of letters, digits, '.', '_', '-'.")
        found[name] = _source(Fields(f"[{name}]", name, fields))
    return found


def _source(fields: Fields) -> ItemSource:
    query = fields.text("query", re.compile(r"[^\x00]+"), "must be a query").strip().rstrip(";")
    parameters: dict[str, Kind] = fields.words("parameters", Kind)
    types = {**parameters, TENANT: "text"}
    order: list[str] = []

    def numbered(match: "re.Match[str]") -> str:
        name = match[1]
        if name not in types:
            raise fields.refuse("query", f"uses ${name}, which is not among its parameters")
        if name not in order:
            order.append(name)
        return f"(${order.index(name) + 1}::text::{types[name]})"

    text = _PARAMETER.sub(numbered, query)
    unused = sorted(parameters.keys() - set(order))
    if unused:
        raise fields.refuse("parameters", f"has {unused[0]!r}, which its query does not use")
    if TENANT in parameters:
        raise fields.refuse("parameters", f"must not have {TENANT!r}: that is whose batch it is")
    source = ItemSource(
        name=fields.name,
        database=fields.secret("database"),
        text=text,
        key=fields.text("key", _COLUMN, "must be the name of a column"),
        order=tuple(order),
        current=fields.text("current", _COLUMN, "must be the name of a column", ""),
        parameters=parameters,
        tenants=fields.texts("tenants", _TENANT_NAME, "must be a list of tenants, or of '*'", ("default",)),
        timeout=fields.number("timeout", 30.0, 1, 3600),
        max_items=fields.number("max_items", 1_000_000, 1, _MOST_ITEMS),
    )
    fields.end()
    if not source.database:
        raise fields.refuse("database", "must be given")
    return source


def _is(kind: Kind, text: str) -> bool:
    try:
        return "\0" not in text and _KINDS[kind][0](text)
    except (ValueError, InvalidOperation):
        return False


_KINDS: Final[Mapping[Kind, tuple[Callable[[str], bool], str]]] = {
    "text": (lambda _: True, "a text"),
    "bigint": (lambda text: abs(int(text)) < 2**63, "a whole number"),
    "numeric": (lambda text: Decimal(text).is_finite(), "a number"),
    "boolean": (lambda text: text in ("true", "false"), "true or false"),
    "date": (lambda text: bool(date.fromisoformat(text)), "a date, as 2026-12-24"),
    "timestamptz": (
        lambda text: datetime.fromisoformat(text).tzinfo is not None,
        "a time with its offset, as 2026-12-24T18:00Z",
    ),
    "uuid": (lambda text: bool(UUID(text)), "a UUID"),
}
assert set(_KINDS) == set(typing.get_args(Kind))
