"""Program of the tests: be the parent of an embedded PostgreSQL until standard input ends.

Its one argument is JSON with `directory`, or null for an ephemeral one. It prints one line of JSON when the
server is up; when it does not come up, the error's sentence goes to standard error and the exit code is 3.
"""

import asyncio
import json
import sys
from pathlib import Path

from holdfast.embedded import EmbeddedError, EmbeddedPostgres


async def _run(directory: str | None) -> None:
    server = EmbeddedPostgres(Path(directory)) if directory else EmbeddedPostgres(ephemeral=True)
    async with server:
        await server.create_database("holdfast")
        up = {"pid": server.pid, "url": server.url(), "directory": str(server.data_directory)}
        sys.stdout.write(json.dumps(up) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def _main() -> int:
    try:
        asyncio.run(_run(json.loads(sys.argv[1])["directory"]))
    except EmbeddedError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(_main())
