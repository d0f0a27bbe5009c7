"""Prints the manifest of the package that is named, from `cargo metadata` on standard input."""

import json
import sys

packages = json.load(sys.stdin)["packages"]
found = [package["manifest_path"] for package in packages if package["name"] == sys.argv[1]]
if len(found) != 1:
    sys.exit(f"{sys.argv[1]} is there {len(found)} times")
print(found[0])
