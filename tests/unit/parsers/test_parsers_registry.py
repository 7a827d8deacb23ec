"""Parsers are found by looking in their folder."""

from __future__ import annotations

import sys
from datetime import UTC
from pathlib import Path

import pytest

import exporter.parsers as package
from exporter.parsers import parsers
from exporter.records import Parsed


def test_every_module_with_a_kind_is_found() -> None:
    found = parsers()
    assert set(found) == {
        "sacct",
        "squeue",
        "seff",
        "lumi-allocations",
        "csc-projects",
        "csc-workspaces",
        "lumi-workspaces",
    }
    parsed = found["squeue"]("JOBID\n", timezone=UTC)
    assert isinstance(parsed, Parsed)


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"exporter.parsers.{name}", raising=False)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def test_a_new_parser_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, extra_one="KIND = 'new'\ndef parse(text, *, timezone=None): return text\n")
    assert "new" in parsers()


def test_two_parsers_of_one_kind_are_an_error_that_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, extra_two="KIND = 'sacct'\ndef parse(text, *, timezone=None): return text\n")
    with pytest.raises(RuntimeError, match="extra_two and sacct both claim the kind 'sacct'"):
        parsers()


def test_a_kind_without_a_parser_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, extra_three="KIND = 'nothing'\n")
    with pytest.raises(TypeError, match="extra_three"):
        parsers()
