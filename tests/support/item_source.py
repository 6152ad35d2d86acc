"""What tests of sources share: a database of an operator's, and the declaration of what is in it."""

from pathlib import Path
from typing import Any

import asyncpg

CRM = """
[accounts]
database = "crm"
query = "SELECT id, name, industry FROM account WHERE region = $region AND owner = $tenant"
key = "id"
current = "industry"
parameters = { region = "text" }
tenants = ["default", "acme"]
timeout = 5
max_items = 5000

[due]
database = "crm"
query = "SELECT id, $scheduled_time AS at FROM account WHERE id::bigint >= $least"
key = "id"
parameters = { least = "bigint", scheduled_time = "timestamptz" }

[slow]
database = "crm"
query = "SELECT id, pg_sleep(30)::text AS slept FROM account"
key = "id"
timeout = 1

[writing]
database = "crm"
query = "SELECT id, taken(id) AS name FROM account"
key = "id"

[nowhere]
database = "unset"
query = "SELECT 1 AS id"
key = "id"
"""

_TABLE = """
CREATE TABLE IF NOT EXISTS account (id text, name text, industry text, region text DEFAULT 'emea',
                                    owner text DEFAULT 'default', size numeric);
CREATE OR REPLACE FUNCTION taken(which text) RETURNS text LANGUAGE sql AS
    $$ UPDATE account SET name = 'taken' WHERE id = which RETURNING name $$
"""


def declare(folder: Path, url: str, text: str = CRM) -> dict[str, Any]:
    """Write the declarations and their secret; return the settings of an Invoker that has them."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "crm").write_text(url)
    file = folder / "sources.toml"
    file.write_text(text)
    return {"batch_sources_file": file, "secrets_dir": secrets}


async def fill(url: str, *rows: tuple[str | None, str]) -> None:
    """Put accounts into the operator's database, by id and name."""
    await tell(url, _TABLE)
    connection = await asyncpg.connect(url)
    try:
        await connection.executemany("INSERT INTO account (id, name) VALUES ($1, $2)", rows)
    finally:
        await connection.close()


async def tell(url: str, *statements: str) -> None:
    """Have the operator's database do something."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def read(url: str, query: str) -> list[Any]:
    """Read the operator's database."""
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()
