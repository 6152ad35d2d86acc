"""Fifty thousand accounts in small: staged, sampled, reviewed, applied to a CRM once each, and taken back."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from examples import accounts
from examples.standins.crm import Crm
from holdfast.client import (
    ApplyEffect,
    Batch,
    BatchInput,
    BatchItemStatus,
    BatchSpec,
    BatchStatus,
    Client,
    Destination,
    Invocation,
    ItemReview,
    Person,
    ReviewPolicy,
)
from holdfast.dev import Suite

on_the_modules_loop = pytest.mark.asyncio(loop_scope="module")
COUNT = 120
ANN = Person("ann")


@dataclass(frozen=True)
class Office:
    suite: Suite
    client: Client
    crm: Crm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office() -> AsyncIterator[Office]:
    async with (
        Crm() as crm,
        Suite(["examples.accounts:app"]) as suite,
        Client(suite.invoker_addresses[0], dispatcher=suite.addresses["dispatcher"]) as client,
    ):
        for name, path in (("crm", "tag"), ("crm-undo", "untag")):
            await client.outbox.put_destination(Destination(name, f"{crm.url}/{path}"))
        yield Office(suite, client, crm)


async def staged(client: Client, **more: object) -> Batch:
    """Create the batch, and wait until all accounts are tagged."""
    spec = BatchSpec(
        Invocation("accounts.tag"),
        label_field="industry",
        confidence_field="confidence",
        start_when_uploaded=True,
        apply=ApplyEffect("crm", "crm-undo"),
        **more,  # type: ignore[arg-type]
    )
    sent = [BatchInput(each["payload"], each["key"], each["current"]) for each in accounts.items(COUNT)]
    batch = await client.batches.create(spec, sent)
    return await stands_at(client, batch.batch_id, BatchStatus.IN_REVIEW)


async def stands_at(client: Client, batch_id: str, *statuses: BatchStatus) -> Batch:
    async with asyncio.timeout(120), client.batches.watch(batch_id, interval=0.1) as updates:
        async for batch, _ in updates:
            if batch.status in statuses:
                return batch
    raise AssertionError("it has ended elsewhere")


def test_the_data_are_the_same_for_a_seed_and_the_classifier_is_good_but_not_perfect() -> None:
    found = [accounts.generated(number) for number in range(2000)]
    assert found == [accounts.generated(number) for number in range(2000)]
    assert set(Counter(industry for _, industry in found)) == set(accounts.WORDS)
    right = sum(
        asyncio.run(accounts.classify(account.description)).industry == industry
        for account, industry in found[:400]
    )
    assert 0.85 < right / 400 < 0.99


@on_the_modules_loop
async def test_nothing_reaches_the_crm_before_people_have_looked_and_all_of_it_can_be_taken_back(
    office: Office,
) -> None:
    client, crm = office.client, office.crm
    batch_id = (await staged(client)).batch_id
    assert not crm.industries, "what is staged has touched nothing"
    strata = await client.batches.sample(batch_id, 40, seed=1, by_label=True)
    assert sum(len(stratum.items) for stratum in strata) == 40
    assert await client.batches.sample(batch_id, 40, seed=1, by_label=True) == strata
    reviews = []
    for item in (item for stratum in strata for item in stratum.items):
        (change,) = [each for each in item.changes if each.path == "industry"]
        assert change.before == "unknown"
        known = accounts.true_industry(item.key)
        edited = None if item.output["industry"] == known else {"industry": known, "confidence": 1}
        reviews.append(ItemReview(item.index, accepted=True, edited=edited))
    reviews[0] = ItemReview(reviews[0].index, accepted=False, reason="ask them first")
    done = await client.batches.review(batch_id, reviews, rest=True, reviewer=ANN)
    assert (done.judged, done.accepted) == (40, 39)
    assert (await client.batches.apply(batch_id))[1] == COUNT - 1
    await stands_at(client, batch_id, BatchStatus.APPLIED)
    assert set(crm.changes.values()) == {1}
    assert len(crm.changes) == COUNT - 1
    found = {item.key: item async for item in client.batches.items(batch_id)}
    for key, item in found.items():
        if item.status is BatchItemStatus.REJECTED:
            assert key not in crm.industries
            continue
        assert item.review is not None
        wanted = item.output if item.review.edited is None else item.review.edited
        assert crm.industries[key] == wanted["industry"]
    first = crm.order.copy()
    await client.batches.rollback(batch_id, "the wrong taxonomy")
    await stands_at(client, batch_id, BatchStatus.ROLLED_BACK)
    assert set(crm.industries.values()) == {"unknown"}
    assert set(crm.changes.values()) == {2}
    assert set(first) == set(crm.order[len(first) :])
    assert crm.repeated == 0


@on_the_modules_loop
async def test_a_reviewing_agent_lets_the_batch_apply_itself(office: Office) -> None:
    office.crm.changes.clear()
    policy = ReviewPolicy(0.7, 40, "accounts.review", apply_when_met=True)
    batch_id = (await staged(office.client, review=policy)).batch_id
    await stands_at(office.client, batch_id, BatchStatus.APPLIED)
    _, progress = await office.client.batches.get(batch_id)
    said = [item.review async for item in office.client.batches.items(batch_id) if item.review]
    judged = [each for each in said if each.reviewer]
    assert len(judged) == 40
    assert progress.counts[BatchItemStatus.APPLIED] == sum(each.accepted for each in said)
    assert set(office.crm.changes.values()) == {1}


@on_the_modules_loop
async def test_the_commands_of_the_example_do_it(office: Office, tmp_path: Path) -> None:
    async def holdfast(*words: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.cli",
            *words,
            env=os.environ
            | {
                "HOLDFAST_ADDRESS": office.suite.invoker_addresses[0],
                "HOLDFAST_DISPATCHER_ADDRESS": office.suite.addresses["dispatcher"],
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode().splitlines()

    office.crm.changes.clear()
    file = tmp_path / "accounts.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in accounts.items(30)))
    words = ("--start", "--label-field", "industry", "--apply-to", "crm", "--undo-to", "crm-undo")
    (made,) = await holdfast("batch", "create", "accounts.tag", str(file), *words, "-o", "json")
    batch_id = json.loads(made)["batch_id"]
    await holdfast("batch", "watch", batch_id)
    drawn = await holdfast("batch", "sample", batch_id, "--size", "10", "--by-label", "-o", "json")
    judged = [json.loads(line) | {"verdict": "accept"} for line in drawn]
    judged[0] |= {"verdict": "reject", "reason": "no"}
    said = tmp_path / "said.jsonl"
    said.write_text("".join(json.dumps(each) + "\n" for each in judged))
    (done,) = await holdfast(
        "batch", "review", batch_id, "--as", "ann", "--file", str(said), "--rest", "accept", "-o", "json"
    )
    assert json.loads(done)["judged"] == 10
    assert "SURE" in (await holdfast("batch", "sample", batch_id, "--size", "3"))[0]
    *_, last = await holdfast("batch", "apply", batch_id, "--watch")
    assert last.startswith("APPLIED")
    assert set(office.crm.changes.values()) == {1}
    assert len(office.crm.changes) == 29
    *_, last = await holdfast("batch", "rollback", batch_id, "--reason", "wrong", "--watch")
    assert last.startswith("ROLLED_BACK")
    assert set(office.crm.changes.values()) == {2}
