"""`forecaster check` and SECURITY.md list the same rights."""

from __future__ import annotations

from pathlib import Path

from forecaster.app.rights import needed_rights
from forecaster.settings import load_settings

SECURITY = Path(__file__).parents[3] / "SECURITY.md"


def test_check_and_security_list_the_same_rights() -> None:
    group = "KAFKA__GROUP_ID"
    settings = load_settings(kafka={"bootstrap_servers": "none", "group_id": group}, topics={"input": "<input>"})
    rows = [line.strip("| ").split(" | ") for line in SECURITY.read_text().splitlines() if line.startswith("| ")]
    listed = {row[0]: row[1] for row in rows[1:]}
    for on, rights in needed_rights(settings):
        kind, name = on.split()[0].rstrip("s"), on.split()[-1]
        (place,) = [row for row in listed if row.startswith(kind) and (f"`{name}`" in row or f"with {name}" in row)]
        assert listed[place] == rights
        listed[place.replace(f"`{name}`", "")] = listed.pop(place)
    assert not [place for place in listed if "`" in place], "SECURITY.md lists no other topics"
