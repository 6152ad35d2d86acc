"""Tags customer accounts by industry, tens of thousands at a time, and touches none of them unseen.

    python -m examples.accounts --count 50000 > accounts.jsonl
    python -m examples.standins.crm --port 9009
    holdfast dev --agents examples.accounts:app
    holdfast outbox put-destination crm http://127.0.0.1:9009/tag
    holdfast outbox put-destination crm-undo http://127.0.0.1:9009/untag
    holdfast batch create accounts.tag accounts.jsonl --start \
        --label-field industry --confidence-field confidence --apply-to crm --undo-to crm-undo
    holdfast batch watch BATCH
    holdfast batch sample BATCH --by-label --size 200
    holdfast batch review BATCH --as you --reject 17 --reason "a bank, not a shop" --rest accept
    holdfast batch apply BATCH --watch
    holdfast batch rollback BATCH --reason "the wrong taxonomy" --watch

The console does all of it, too: a destination under Outbox, the file under Batches.

Nothing reaches the accounts before `apply`: what the agent says is staged beside what is there now, a sample
of it is looked at, and only what was accepted leaves as an effect, once per account. `accounts.review` is an
agent that looks at the sample in place of people: create the batch with `--reviewer accounts.review
--accept-share 0.9 --of-judged 200`; with `--apply-when-met` it applies itself.

The data are generated, so the true industry of each account is known; a fifth of the descriptions are vague
or misleading, as they are in life.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from holdfast.agent import App, Permanent, Run

WORDS: Final = {
    "retail": ("shop", "store", "outlet", "fashion", "grocery", "checkout", "stores", "boutique"),
    "health": ("clinic", "patients", "dental", "care", "pharmacy", "hospital", "therapy", "nursing"),
    "finance": ("bank", "loans", "insurance", "broker", "payments", "wealth", "leasing", "credit"),
    "logistics": ("freight", "warehouse", "delivery", "fleet", "shipping", "parcels", "customs", "haulage"),
    "software": ("platform", "cloud", "app", "api", "developers", "data", "hosting", "automation"),
    "construction": (
        "building",
        "concrete",
        "roofing",
        "sites",
        "scaffolding",
        "plumbing",
        "civil",
        "cranes",
    ),
}
SHARES: Final = (0.30, 0.20, 0.15, 0.15, 0.15, 0.05)
OPENINGS: Final = (
    "Since 1998 we offer",
    "A family business:",
    "Your partner for",
    "We live for",
    "All about",
)
REGIONS: Final = ("in the north", "nationwide", "for small businesses", "since three generations", "online")
FILLERS: Final = ("service", "quality", "people", "solutions", "trust", "experience")
NAMES: Final = ("Ashby", "Okafor", "Tanaka", "Brandt", "Silva", "Novak", "Haddad", "Larsen", "Costa", "Meyer")
FORMS: Final = ("Ltd", "GmbH", "Inc", "SA", "& Sons", "Group")
VAGUE: Final = 0.12
MISLEADING: Final = 0.08
SEED: Final = 2025

app = App("accounts", version="1")


@dataclass(frozen=True)
class Account:
    """A customer as the CRM knows it."""

    id: str
    name: str
    description: str


@dataclass(frozen=True)
class Tag:
    """What the agent made of it; `confidence` from 0 to 1."""

    industry: str
    confidence: float


# The data: each account depends on its number and the seed alone, so the truth about it can be looked up.


def generated(number: int, seed: int = SEED) -> tuple[Account, str]:
    """Return an account and its true industry."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - not a secret
    industry = chance.choices(list(WORDS), SHARES)[0]
    clues = chance.sample(WORDS[industry], 3)
    mood = chance.random()
    if mood < VAGUE:  # vague: one clue among words that say nothing
        clues = [clues[0], *chance.sample(FILLERS, 2)]
    elif mood < VAGUE + MISLEADING:  # misleading: they also speak of whom they serve
        other = chance.choice([name for name in WORDS if name != industry])
        clues = [clues[0], *chance.sample(WORDS[other], chance.choice((1, 2)))]
    chance.shuffle(clues)
    text = f"{chance.choice(OPENINGS)} {', '.join(clues)} {chance.choice(REGIONS)}."
    name = f"{chance.choice(NAMES)} {chance.choice(NAMES)} {chance.choice(FORMS)}"
    return Account(f"acc-{number:06}", name, text), industry


def true_industry(account_id: str, seed: int = SEED) -> str:
    """Return what the commercial register says of an account: the truth."""
    return generated(int(account_id.removeprefix("acc-")), seed)[1]


def items(count: int, seed: int = SEED) -> Iterator[dict[str, Any]]:
    """Yield accounts as a batch takes them: with their key, and the industry they have now."""
    for number in range(count):
        account, _ = generated(number, seed)
        yield {"key": account.id, "payload": asdict(account), "current": {"industry": "unknown"}}


# The agents. The classifier is a table of words here; with you it is `run.model` with a budget per account.


async def classify(description: str) -> Tag:
    """Count the words that speak for each industry."""
    words = description.lower().replace(",", " ").replace(".", " ").split()
    scores = {name: sum(word in clues for word in words) for name, clues in WORDS.items()}
    best = max(scores, key=lambda name: scores[name])
    total = sum(scores.values())
    return Tag(best, round(scores[best] / max(3, total), 2))


@app.agent("accounts.tag")
async def tag(run: Run, account: Account) -> Tag:
    """Say in which industry an account is."""
    if not account.description.strip():
        raise Permanent(f"{account.id} says nothing about itself.")
    return await run.step(classify, account.description)


async def look_up(account_id: str) -> str:
    """Ask the commercial register."""
    return true_industry(account_id)


@app.agent("accounts.review")
async def review(run: Run, item: dict[str, Any]) -> dict[str, Any]:
    """Judge one staged tag as a person would: look the company up."""
    known = await run.step(look_up, item["payload"]["id"])
    if item["output"]["industry"] == known:
        return {"verdict": "ACCEPT"}
    return {"verdict": "REJECT", "reason": f"The register says {known}."}


def main() -> None:
    """Write accounts as JSON lines, as `holdfast batch create` takes them."""
    parser = argparse.ArgumentParser(prog="accounts", description="Generate customer accounts.")
    parser.add_argument("--count", type=int, default=50_000, help="how many")
    parser.add_argument("--seed", type=int, default=SEED, help="the same seed gives the same accounts")
    options = parser.parse_args()
    for item in items(options.count, options.seed):
        sys.stdout.write(json.dumps(item) + "\n")


if __name__ == "__main__":
    main()
