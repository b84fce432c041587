"""The directory of contracts: one JSON file for each version of each workflow, kept beside the code and never edited.

workflow-contracts/customer.onboarding.v2.contract.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from chimpbase._app.contracts import Comparison, compare, contract_of, hash_of
from chimpbase._app.definitions import Workflow
from chimpbase._core.errors import UsageError

Standing = Literal["unchanged", "new", "refused"]
DIRECTORY = "workflow-contracts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one version of a workflow stands to its file. `why` is empty when there is nothing to say.

    "new" has no file yet and may be written; "refused" needs a change of the code.
    """

    name: str
    version: int
    file: Path
    standing: Standing
    why: str
    verdict: str | None = None


def check_contracts(
    workflows: Iterable[Workflow[Any, Any]], directory: Path, *, allow_breaking: bool = False
) -> list[Finding]:
    """Compare workflows with their files; nothing is written.

    Raises:
        UsageError: a file is not a contract.
    """
    found: list[Finding] = []
    known: dict[str, dict[int, Mapping[str, Any]]] = {}
    for workflow in sorted(workflows, key=lambda one: (one.name, one.version)):
        files = known.setdefault(workflow.name, _read_all(directory, workflow.name))
        finding = _judge(workflow, files, _file(directory, workflow.name, workflow.version), allow_breaking)
        found.append(finding)
        if finding.standing == "new":  # the next version is judged as if this one were written
            files[workflow.version] = contract_of(workflow)
    return found


def write_contracts(
    workflows: Iterable[Workflow[Any, Any]], directory: Path, *, allow_breaking: bool = False
) -> list[Finding]:
    """Write the contracts of versions that have none, unless anything is refused; then nothing is written.

    Raises:
        UsageError: a file is not a contract.
    """
    taken = list(workflows)
    found = check_contracts(taken, directory, allow_breaking=allow_breaking)
    if any(one.standing == "refused" for one in found):
        return found
    contracts = {(one.name, one.version): contract_of(one) for one in taken}
    for one in found:
        if one.standing == "new":
            directory.mkdir(parents=True, exist_ok=True)
            text = json.dumps(contracts[one.name, one.version], indent=2, sort_keys=True, ensure_ascii=False)
            one.file.write_text(f"{text}\n", encoding="utf-8")
    return found


def _judge(
    workflow: Workflow[Any, Any], files: Mapping[int, Mapping[str, Any]], file: Path, allow_breaking: bool
) -> Finding:
    contract, version = contract_of(workflow), workflow.version

    def finding(standing: Standing, why: str = "", verdict: str | None = None) -> Finding:
        return Finding(name=workflow.name, version=version, file=file, standing=standing, why=why, verdict=verdict)

    if version in files:
        if hash_of(files[version]) == hash_of(contract):
            return finding("unchanged", verdict="identical")
        why = f"it changed, but its version did not: give it version {max(files) + 1}"
        return finding("refused", f"{why} ({_reasons(compare(files[version], contract))})")
    before = max((one for one in files if one < version), default=None)
    if before is None:
        return (
            finding("new", verdict="additive")
            if version == 1 or not files
            else finding("refused", f"version {min(files)} has a contract, and this older one has none")
        )
    if version != before + 1:
        return finding("refused", f"the version after {before} is {before + 1}")
    change = compare(files[before], contract)
    if change.verdict in ("requires_migration", "breaking") and not allow_breaking:
        return finding("refused", f"it is {change.verdict}: {_reasons(change)}", change.verdict)
    return finding("new", _reasons(change), change.verdict)


def _reasons(change: Comparison) -> str:
    return "; ".join(change.reasons)


def _file(directory: Path, name: str, version: int) -> Path:
    return directory / f"{quote(name, safe='')}.v{version}.contract.json"


def _read_all(directory: Path, name: str) -> dict[int, Mapping[str, Any]]:
    pattern = re.compile(re.escape(quote(name, safe="")) + r"\.v([1-9][0-9]*)\.contract\.json")
    files = {int(match[1]): file for file in _files(directory) if (match := pattern.fullmatch(file.name))}
    return {version: _read(file) for version, file in files.items()}


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _read(file: Path) -> Mapping[str, Any]:
    try:
        contract = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no contract: {error}. Restore it from version control.") from None
    fields = {"name", "version", "mode", "steps", "input", "result", "signals"}
    if not isinstance(contract, dict) or not fields <= cast("dict[str, Any]", contract).keys():
        raise UsageError(f"{file} is no contract: it lacks fields. Restore it from version control.")
    return cast("Mapping[str, Any]", contract)
