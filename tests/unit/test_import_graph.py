"""The arrows between the parts of exporter/ go one way, as the design has it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "exporter"

# Each part, lowest first, and the parts that it may import. What reads sites is below what acts, and what shows is
# beside it: collectors know the store and nothing that could ask a site.
MAY_IMPORT = {
    "errors": set(),
    "records": set(),
    "data": set(),
    "dates": set(),
    "job_names": set(),
    "states": {"records"},
    "efficiency": {"records"},
    "yamlfile": {"errors"},
    "budgets": {"yamlfile"},
    "sites": set(),
    "parsers": {"errors", "records"},
    "archive_settings": {"yamlfile"},
    "vm_settings": {"yamlfile"},
    "whole_files": set(),
    "config": {"archive_settings", "budgets", "errors", "sites", "vm_settings", "yamlfile"},
    "config_files": {"config"},
    "store": {"config", "errors", "job_names", "records", "states", "whole_files"},
    "client": {"config", "dates", "errors"},
    "billing": {"records", "sites"},
    "funds": {"billing", "config", "records", "store"},
    "explain": {"billing", "config", "efficiency", "errors", "parsers", "records", "sites", "states", "store"},
    "practice": set(),
    "tunnels": {"config", "errors", "store"},
    "launch": {
        "billing",
        "budgets",
        "client",
        "config",
        "data",
        "dates",
        "errors",
        "job_names",
        "sites",
        "store",
        "tunnels",
        "vm_settings",
        "yamlfile",
    },
    "campaigns": {"budgets", "config", "errors", "launch", "store", "yamlfile"},
    "probes": {
        "billing",
        "client",
        "config",
        "efficiency",
        "errors",
        "job_names",
        "launch",
        "parsers",
        "records",
        "sites",
        "states",
        "store",
    },
    "archive": {
        "archive_settings",
        "client",
        "config",
        "errors",
        "job_names",
        "parsers",
        "probes",
        "records",
        "store",
        "whole_files",
    },
    "owner": {
        "archive",
        "billing",
        "budgets",
        "campaigns",
        "client",
        "config",
        "errors",
        "job_names",
        "launch",
        "parsers",
        "probes",
        "store",
        "tunnels",
        "yamlfile",
    },
    "doctor": {
        "archive",
        "client",
        "config",
        "dates",
        "config_files",
        "errors",
        "owner",
        "probes",
        "store",
        "tunnels",
        "vm_settings",
    },
    "metrics": {"config", "efficiency", "errors", "funds", "states", "store"},
    "web": {"config", "dates", "efficiency", "errors", "explain", "funds", "metrics", "records", "store"},
    "cli": {
        "archive",
        "archive_settings",
        "billing",
        "campaigns",
        "config",
        "config_files",
        "data",
        "doctor",
        "efficiency",
        "errors",
        "explain",
        "funds",
        "job_names",
        "launch",
        "metrics",
        "owner",
        "parsers",
        "practice",
        "records",
        "sites",
        "store",
        "tunnels",
        "vm_settings",
        "web",
        "whole_files",
        "yamlfile",
    },
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where an arrow goes"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "exporter" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("exporter.")}
    return found


def graph() -> dict[str, set[str]]:
    arrows: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        if part == "__init__":
            continue
        arrows.setdefault(part, set()).update(imported_parts(path) - {part, "__version__"})
    return arrows


def test_every_part_is_in_the_design_and_every_arrow_is_allowed() -> None:
    arrows = graph()
    assert set(arrows) == set(MAY_IMPORT)
    forbidden = {f"{part} -> {target}" for part, targets in arrows.items() for target in targets - MAY_IMPORT[part]}
    assert forbidden == set()


def test_what_is_allowed_has_no_cycle() -> None:
    seen: set[str] = set()
    for part, targets in MAY_IMPORT.items():
        assert targets <= seen, f"{part} may import {targets - seen}, which stands above it"
        seen.add(part)


def test_an_arrow_against_the_direction_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("def late():\n    from exporter.client.client import SiteClient\n    import exporter.store.db\n")
    assert imported_parts(source) == {"client", "store"}
