"""Shows the main job end to end on this machine; exits with 0, or with 1 and a sentence saying what fails."""

import asyncio
import json
import signal
import sys
import time
from typing import Final

from examples.demo.proof import Disproved
from examples.demo.scenes import Scenes
from examples.demo.screen import Screen
from examples.demo.world import World
from holdfast.client import HoldfastError
from holdfast.dev import Suite, SuiteError

PATIENCE_S: Final = 120.0
INTERRUPTED: Final = 130

NEXT: Final = """
To go on, keep a suite running, with the stand-in model or your own:

  export OPENAI_BASE_URL=http://127.0.0.1:7480/v1 OPENAI_API_KEY=stand-in
  .venv/bin/python -m examples.standins.model_server --port 7480 --token-delay-ms 25 &
  .venv/bin/python -m examples.standins.webhook_receiver --port 7481 &
  .venv/bin/holdfast dev --agents examples.support_triage:app

and speak to it from another terminal (`make tools` puts grpcurl into .tools/bin, where Go is at hand):

  grpcurl -plaintext -d '{"destination":
    {"name": "tickets", "http": {"url": "http://127.0.0.1:7481/tickets"}}}' \\
    127.0.0.1:7405 holdfast.v1.OutboxService/PutDestination
  grpcurl -plaintext -d '{"intent": "support.triage", "idempotency_key": "ticket:1", "wait": "20s", "payload":
    {"id": "T-1", "customer_id": "cus_002", "subject": "Inviting a colleague", "body": "How?"}}' \\
    127.0.0.1:7401 holdfast.v1.InvokerService/Invoke
  grpcurl -plaintext -d '{}' 127.0.0.1:7401 holdfast.v1.InvokerService/ListRuns
  grpcurl -plaintext -d '{}' 127.0.0.1:7405 holdfast.v1.OutboxService/ListEffects
  .venv/bin/holdfast converse support.triage -d @examples/ticket.json
  curl http://127.0.0.1:7481/received
""".splitlines()


async def show(screen: Screen) -> None:
    """Bring the world up, play each scene, and take everything down again."""
    began = time.monotonic()
    screen.scene("Everything comes up on loopback")
    async with World.opened(screen) as world:
        screen.note(
            f"PostgreSQL 18 and {len(world.suite.processes)} services in {time.monotonic() - began:.1f} s"
        )
        scenes = Scenes(world, screen)
        try:
            async with asyncio.timeout(PATIENCE_S):
                for play in (scenes.stream, scenes.duplicate, scenes.crash, scenes.effects, scenes.budget):
                    await play()
        except TimeoutError as error:
            screen.lines(_complaints(world.suite))
            raise Disproved(f"The demo was not over after {PATIENCE_S:.0f} s: something hangs.") from error
        except Exception:
            screen.lines(_complaints(world.suite))
            raise
    screen.scene(f"All of it held, in {time.monotonic() - began:.0f} s, and nothing is left running")
    screen.lines(NEXT)


def main() -> int:
    """Run the demo and return the exit code."""
    screen = Screen()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything is taken down in order
    try:
        asyncio.run(show(screen))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (Disproved, SuiteError, HoldfastError, TimeoutError, OSError) as error:
        screen.failed(str(error) or type(error).__name__)
        return 1
    return 0


def _complaints(suite: Suite) -> list[str]:
    """Return what the services have warned of, for whoever looks for the cause."""
    found: list[str] = []
    for name in suite.processes:
        lines = [line for line in suite.log(name).splitlines() if _is_complaint(line)]
        found += [f"   {name}: {line}" for line in lines[-5:]]
    return ["", "   What the services say:", *found] if found else []


def _is_complaint(line: str) -> bool:
    try:
        return json.loads(line).get("level") in {"warning", "error"}
    except (ValueError, AttributeError):
        return True


if __name__ == "__main__":
    sys.exit(main())
