"""Makes the table of what each client was seen to do, from the suites' notes.

`table.py NOTES PAGE` fails where the page has another table; `table.py --write NOTES PAGE` writes it. The page holds it between two comments.
"""

import argparse
import difflib
import json
import pathlib
import re
import sys

BEGIN = "<!-- what clients were seen to do: written by tests/clients/run --write -->"
END = "<!-- end of what clients were seen to do -->"
NOT_TESTED = "—"
# A version of what the system brings, which no file here pins: it stands in brackets.
UNPINNED = re.compile(r"\(([^()|]*)\)")


def table(notes: list[dict]) -> list[str]:
    """The lines of the table: a row for each feature, a column for each client, both as they came."""
    clients: dict[str, str] = {}
    cells: dict[str, dict[str, bool]] = {}
    for note in notes:
        client, feature = note["client"], note["feature"]
        clients[client] = note["version"] if note["pinned"] else f"({note['version']})"
        row = cells.setdefault(feature, {})
        row[client] = row.get(client, True) and note["passed"]
    word = {True: "yes", False: "no", None: NOT_TESTED}
    rows = [["", *clients], ["---"] * (len(clients) + 1), ["version", *clients.values()]]
    rows += [[feature, *(word[row.get(client)] for client in clients)] for feature, row in cells.items()]
    return [f"| {' | '.join(row)} |" for row in rows]


def split(page: str) -> tuple[list[str], list[str], list[str]]:
    """The lines before the table, its own, and those behind it."""
    lines = page.splitlines()
    if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
        raise SystemExit(f"table: the page needs the lines {BEGIN} and {END}, once and in this order")
    begin, end = lines.index(BEGIN) + 1, lines.index(END)
    return lines[:begin], lines[begin:end], lines[end:]


def same(left: list[str], right: list[str]) -> bool:
    """Whether two tables say the same, apart from versions that nobody pins."""
    unversioned = [
        [UNPINNED.sub("()", line) if line.startswith("| version |") else line for line in side]
        for side in (left, right)
    ]
    return unversioned[0] == unversioned[1]


def main() -> int:
    """Returns the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="write the table instead of comparing it")
    arguments.add_argument("notes", type=pathlib.Path)
    arguments.add_argument("page", type=pathlib.Path)
    given = arguments.parse_args()
    notes = [json.loads(line) for line in given.notes.read_text(encoding="utf-8").splitlines()]
    seen = table(notes)
    before, stands, behind = split(given.page.read_text(encoding="utf-8"))
    if given.write:
        given.page.write_text("\n".join([*before, *seen, *behind]) + "\n", encoding="utf-8")
    elif not same(stands, seen):
        print(
            *difflib.unified_diff(stands, seen, str(given.page), "what was seen", lineterm=""),
            sep="\n",
            file=sys.stderr,
        )
        print("table: run tests/clients/run --write if that is as it should be", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
