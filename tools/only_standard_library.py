"""An import contract: the named packages import themselves and the standard library, nothing else."""

import sys
from typing import Any, cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyStandardLibrary(Contract):
    """Keep a pure package pure: whatever it imports can be neither ours nor a third party's."""

    packages = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:  # noqa: ARG002, FBT001 — its signature
        """Compare every import of the packages' modules with themselves and the standard library."""
        strangers = [
            f"{module} imports {imported}"
            for package in cast("list[str]", self.packages)
            for module in sorted({package, *graph.find_descendants(package)})
            for imported in sorted(graph.find_modules_directly_imported_by(module))
            if not _is_within(imported, package) and imported.split(".")[0] not in sys.stdlib_module_names
        ]
        return ContractCheck(kept=not strangers, metadata={"strangers": strangers})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line for each import that does not belong."""
        metadata: dict[str, Any] = check.metadata
        for line in metadata["strangers"]:
            output.print_error(line)


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
