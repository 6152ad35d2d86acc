"""The reference tells all of the contract, is as it would be written now, and its links lead somewhere."""

import re

import pytest

from tests.contract.description import PACKAGE, ROOT, elements
from tools import reference

PAGES = {path.name: path.read_text() for path in (ROOT / "docs/reference").glob("*.md")}
LINK = re.compile(r"\]\((\w+\.md)(?:#([\w-]+))?\)")


def test_the_pages_are_what_would_be_written_now(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_element_is_told_with_its_comment() -> None:
    told = " ".join(" ".join(PAGES.values()).split())
    plain = re.sub(r"\[(`[^`]*`)\]\([^)]*\)", r"\1", told)
    missing = []
    for element in elements():
        name = element.name.removeprefix(f"{PACKAGE}.").split(".")[-1]
        comment = element.comment.replace("|", "\\|")
        if name not in told or comment[1:] not in plain:  # a oneof's comment begins in lower case
            missing.append(element.name)
    assert missing == []


def test_every_link_leads_to_a_heading() -> None:
    headings = {
        name: {line.lstrip("# ").lower() for line in page.splitlines() if line.startswith("#")}
        for name, page in PAGES.items()
    }
    links = {(page, anchor) for text in PAGES.values() for page, anchor in LINK.findall(text)}
    assert len(links) > 200
    assert [
        link for link in links if link[0] not in PAGES or (link[1] and link[1] not in headings[link[0]])
    ] == []


def test_a_page_that_is_stale_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "PAGES", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "docs/reference/run.md is stale" in capsys.readouterr().err
