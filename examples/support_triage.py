"""A support agent: reads a ticket, plans, looks two things up, drafts an answer, updates the ticket system.

The same code answers a person who waits for it and an event nobody waits for:

    holdfast dev --agents examples.support_triage:app
    holdfast converse support.triage -d @examples/ticket.json
    holdfast events publish -d @examples/ticket_events.jsonl

The model is the one named by OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.
"""

import logging
from dataclasses import dataclass

from holdfast.agent import App, Dimension, Message, Permanent, Run

log = logging.getLogger("support")
app = App("support", version="1")


# What comes in and what goes out. A payload that does not fit is refused, naming the field.


@dataclass(frozen=True)
class Ticket:
    """What a customer wrote."""

    id: str
    customer_id: str
    subject: str
    body: str


@dataclass(frozen=True)
class Customer:
    """Who wrote it."""

    id: str
    name: str
    plan: str
    since: int


@dataclass(frozen=True)
class Article:
    """A page of the help centre."""

    title: str
    advice: str


@dataclass(frozen=True)
class Triage:
    """What the agent made of it."""

    ticket_id: str
    plan: str
    answer: str
    articles: list[str]


class UnknownCustomer(Permanent):
    """Nobody has this id: trying again cannot help, and the run ends FAILED with this reason."""


# The tools are plain async functions: here over two small tables, with you over HTTP or a database.

CUSTOMERS = {
    "cus_001": Customer("cus_001", "Ada Ashby", "Team", 2021),
    "cus_002": Customer("cus_002", "Ben Okafor", "Business", 2019),
    "cus_003": Customer("cus_003", "Chiyo Tanaka", "Free", 2024),
}
ARTICLES = (
    Article("Signing in fails after a password reset", "Old sessions are void: sign out everywhere."),
    Article("An invoice shows the wrong VAT number", "Correct it under Billing; the invoice is issued anew."),
    Article("An export stops at 10,000 rows", "Large exports arrive by mail: choose Send to me."),
    Article("Inviting a colleague", "Owners invite under Members; an invitation is good for seven days."),
)
COMMON_WORDS = {"a", "an", "the", "at", "in", "to", "after", "my", "our"}


async def lookup_customer(customer_id: str) -> Customer:
    """Return who a customer is."""
    log.info("lookup_customer %s", customer_id)
    if customer_id not in CUSTOMERS:
        raise UnknownCustomer(f"There is no customer {customer_id}.")
    return CUSTOMERS[customer_id]


async def search_articles(query: str) -> list[Article]:
    """Return the help articles with a word of the query in their title, at most two."""
    log.info("search_articles %s", query)
    words = set(query.lower().split()) - COMMON_WORDS
    return [article for article in ARTICLES if words & set(article.title.lower().split())][:2]


# The agent reads from top to bottom, in the order in which things happen.

SYSTEM = Message("system", "You are a support engineer: brief, kind, exact. Promise only what you know.")


def what_was_managed(_run: Run, dimension: Dimension) -> str:
    """Say something useful when a limit of the budget is reached: the result of a run that ends PARTIAL."""
    return f"Left to a person: this run has spent its budget of {dimension.name.lower()}."


@app.agent("support.triage", on_exhausted=what_was_managed)
async def triage(run: Run, ticket: Ticket) -> Triage:
    """Answer a ticket."""
    run.say(f"Reading ticket {ticket.id}: {ticket.subject}")
    asked = Message("user", f"Subject: {ticket.subject}\n{ticket.body}\nPlan your answer in two sentences.")
    plan = await run.model([SYSTEM, asked], name="plan")

    customer = await run.tool(lookup_customer, customer_id=ticket.customer_id)
    articles = await run.tool(search_articles, query=ticket.subject)

    known = [f"{customer.name} is on the {customer.plan} plan since {customer.since}."]
    known += [f"{article.title}: {article.advice}" for article in articles]
    facts = Message("user", "Now write the answer to the customer. This is known:\n- " + "\n- ".join(known))
    draft = await run.model([SYSTEM, asked, plan.message(), facts], name="draft")

    # Committed together with the run's end, delivered once, in order for each ticket.
    run.send("tickets", {"ticket": ticket.id, "reply": draft.content}, ordering_key=ticket.id)
    return Triage(ticket.id, plan.content, draft.content, [article.title for article in articles])
