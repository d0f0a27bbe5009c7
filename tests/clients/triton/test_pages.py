"""The examples of the README and of `deploy/docs/coming-from.md` by Triton's client, as it stands."""

import pytest
from page import blocks, pictures, run

BLOCKS = [block for block in blocks() if block.is_of_triton]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}: {block.heading}")
def test_a_block_prints_what_it_says(block, gateway, tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert block.says, "a block without a comment behind a print shows nothing"
    assert run(block, gateway, {"__name__": "page"}) == block.says


def test_the_pages_have_their_blocks():
    assert len(BLOCKS) >= 2
