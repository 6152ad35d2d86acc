"""A loan: documents, a score, a hold on the money, two people's yes, the payout; and back again if not.

    holdfast dev --agents examples.loan:app
    holdfast outbox put-destination lending http://127.0.0.1:8765/lending     # whoever is to be told
    holdfast invoke loan.originate --shape workflow -d @examples/loan.json    # says the run's id

    holdfast approvals list
    holdfast approvals approve APPROVAL_ID --as uma --group underwriters --reason "good standing"
    holdfast runs timeline RUN_ID

An underwriter has 24 hours, or `review_hours` of the application. After a sixth of that the heads of lending
may decide as well; when all of it is over, an administrator is told. Where it is denied, nobody decides,
somebody cancels or the payout fails, whatever was done is undone, the newest first. `LOAN_BANK` names the
file in which this bank keeps its books; without it they are in memory.
"""

import json
import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from holdfast.agent import App, Escalate, Permanent, Run, step

log = logging.getLogger("loan")
app = App("lending", version="1")


@dataclass(frozen=True)
class Application:
    """What an applicant asks for; `review_hours` is how long underwriters have."""

    id: str
    applicant: str
    cents: int
    monthly_income: int
    review_hours: float = 24.0


@dataclass(frozen=True)
class Documents:
    """What is known of the applicant."""

    payslips: int
    defaults: int


class Denied(Permanent):
    """People said no, or nobody said anything: the reason why a run ends COMPENSATED."""


# The bank: money is held, and paid out or let go, each under a key, so that asking twice is asking once.


class Bank:
    """Books in a file, or in memory."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._books: dict[str, str] = {}

    def book(self, key: str, what: str) -> None:
        """Write an entry, once."""
        if self._path is not None and self._path.exists():
            self._books = json.loads(self._path.read_text())
        if key in self._books:
            return
        self._books[key] = what
        log.info("%s", what)
        if self._path is not None:
            self._path.write_text(json.dumps(self._books, indent=2))


BANK = Bank(os.environ.get("LOAN_BANK"))


async def gather_documents(applicant: str) -> Documents:
    """Read what is known of an applicant: safe to do again."""
    return Documents(payslips=3, defaults=1 if "default" in applicant else 0)


async def score(application: Application, documents: Documents) -> int:
    """Score an application, from 0 to 100."""
    bearable = application.monthly_income * documents.payslips / max(1, application.cents)
    return max(0, min(100, round(100 * bearable) - 50 * documents.defaults))


async def release(application: Application, undoes: str) -> None:
    """Let the money go that was held under a key, if it was."""
    BANK.book(f"{undoes}/released", f"released {application.cents} for {application.id}")


@step(undo=release)
async def hold(application: Application, idempotency_key: str = "") -> None:
    """Set the money aside."""
    BANK.book(idempotency_key, f"held {application.cents} for {application.id}")


async def reverse(application: Application, undoes: str) -> None:
    """Take a payout back."""
    BANK.book(f"{undoes}/reversed", f"reversed {application.cents} for {application.id}")


@step(undo=reverse, attempts=5)
async def pay_out(application: Application, idempotency_key: str = "") -> str:
    """Pay the money out, and return the receipt."""
    BANK.book(idempotency_key, f"paid {application.cents} to {application.applicant}")
    return f"receipt {application.id}"


# The agent reads from top to bottom, in the order in which things happen.


@app.agent("loan.originate", undo_on=("failure", "cancel", "exhausted"), undo_within=timedelta(days=1))
async def originate(run: Run, application: Application) -> str:
    """Originate a loan, or leave everything as it was."""
    documents = await run.step(gather_documents, application.applicant)
    points = await run.step(score, application, documents)
    run.say(f"{application.applicant} scores {points} of 100")

    await run.step(hold, application)
    review = timedelta(hours=application.review_hours)
    verdict = await run.approval(
        "underwriter_review",
        title=f"Loan {application.id}: {application.cents / 100:.2f} for {application.applicant}",
        payload={"application": application.id, "cents": application.cents, "score": points},
        approvers=["group:underwriters"],
        timeout=review,
        escalate=[Escalate(review / 6, ("group:heads",), message="No underwriter has looked at it yet.")],
        admin="lending",
    )
    if not verdict.approved:
        reason = verdict.reason or "Nobody decided in time."
        run.send("lending", {"letter": "rejected", "application": application.id, "reason": reason})
        raise Denied(reason)

    receipt = await run.step(pay_out, application)
    run.send("lending", {"letter": "approved", "application": application.id, "receipt": receipt})
    return f"{receipt}, as {', '.join(verdict.by)} decided"
