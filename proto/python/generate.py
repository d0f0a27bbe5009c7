"""Build hook: generates the messages and stubs of the contract into the package. Nothing of that is kept in git."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: What clients speak; the rest of the contract is between the services.
PROTOS = ("tessera/embedding/v1/embedding.proto", "tessera/gateway/v1/gateway.proto")


class GenerateHook(BuildHookInterface):  # type: ignore[misc]
    """Runs protoc before the wheel is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Puts what protoc makes into the wheel; into the sources where these are installed as they are (`pip -e`)."""
        root = Path(self.root)
        source = contract(root)
        if version == "editable":
            generate(source, root / "src")
            return
        self.folder = tempfile.mkdtemp(prefix="tessera-client-")
        generate(source, Path(self.folder))
        for file in Path(self.folder).rglob("*.py*"):
            build_data["force_include"][str(file)] = str(file.relative_to(self.folder))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Removes what is in the wheel by now."""
        if version != "editable":
            shutil.rmtree(self.folder)


def contract(root: Path) -> Path:
    """Returns the folder that the contract's files are named from."""
    for folder in (root / "proto", root.parent):
        if all((folder / name).is_file() for name in PROTOS):
            return folder
    message = (
        f"{PROTOS[0]} is neither in {root / 'proto'} nor in {root.parent}: build from a checkout of the whole "
        "repository (with pip 21.3 or newer, which builds in place) or from a source distribution"
    )
    raise FileNotFoundError(message)


def generate(source: Path, target: Path) -> None:
    """Writes Python modules, their types and the stubs for the contract's files."""
    from grpc_tools import protoc  # noqa: PLC0415 - the build has it, who reads this file may not

    outputs = [f"--{kind}={target}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    failed = protoc.main(["protoc", f"--proto_path={source}", *outputs, *PROTOS])
    if failed:
        raise RuntimeError(f"protoc ended with {failed}")
    for name in PROTOS:
        for folder in (target / name).parents:
            if folder in (target, target / "tessera"):
                break
            folder.joinpath("__init__.py").write_text('"""Generated from the contract."""\n', encoding="utf-8")
