"""The examples of pages: their blocks of Python, run as they stand, and what their comments say that they print."""

import contextlib
import io
import pathlib
import re
import shutil
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "shared/demo-model/sample"
PAGES = ("README.md", "deploy/docs/coming-from.md")
# As the pages call them, and what they are among the samples.
PICTURES = {"chart.jpg": "001.jpg", "a.jpg": "013a.jpg", "b.jpg": "013b.jpg"}
# Where the pages say that the gateway is.
ADDRESS = "localhost:50051"


@dataclass(frozen=True)
class Block:
    """A block of Python, with its page and the heading under which it stands."""

    page: str
    heading: str
    code: str

    @property
    def is_of_triton(self) -> bool:
        """Its client wants other versions of packages than the others', so it runs by itself."""
        return "tritonclient" in self.code

    @property
    def says(self) -> list[str]:
        """What it prints, by the comments behind its calls of `print`."""
        return re.findall(r"^ *print\(.*\)  # (.+)$", self.code, re.MULTILINE)


def blocks() -> list[Block]:
    """All blocks, in order."""
    return [block for page in PAGES for block in blocks_of(page)]


def blocks_of(page: str) -> list[Block]:
    """Those of a page."""
    found, heading = [], ""
    text = (ROOT / page).read_text()
    for part in re.split(r"^(#+ [^\n]+|```python\n.*?^```)$", text, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("#"):
            heading = part.lstrip("# ")
        elif part.startswith("```python\n"):
            found.append(Block(page, heading, part.removeprefix("```python\n").removesuffix("```")))
    return found


def pictures(folder):
    """Puts the pictures that the pages name into a folder."""
    for name, sample in PICTURES.items():
        shutil.copy(SAMPLES / sample, folder / name)


def run(block: Block, gateway, names: dict) -> list[str]:
    """Runs a block with what those before it left; returns what it printed, line by line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code.replace(ADDRESS, gateway.address), block.heading, "exec"), names)  # noqa: S102
    return printed.getvalue().splitlines()
