"""The examples of the README and of `deploy/docs/coming-from.md` by OpenAI's client and the Python package, as they stand."""

import collections

import pytest
from page import blocks, pictures, run

BLOCKS = [block for block in blocks() if not block.is_of_triton]


@pytest.fixture(scope="module")
def names():
    """By page, what its blocks before left to the next: it is read from its top."""
    return collections.defaultdict(lambda: {"__name__": "page"})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's pictures, where the blocks run."""
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}: {block.heading}")
def test_a_block_prints_what_it_says(block, gateway, names, folder):
    assert block.says, "a block without a comment behind a print shows nothing"
    assert run(block, gateway, names[block.page]) == block.says


def test_the_pages_have_their_blocks():
    assert len(BLOCKS) >= 10 and len(blocks()) > len(BLOCKS)
