"""What `forecaster check` says of rights is what SECURITY.md says."""

from __future__ import annotations

from pathlib import Path

from forecaster.cli.check import needed_rights
from forecaster.settings import load_settings

SECURITY = Path(__file__).parents[3] / "SECURITY.md"


def test_the_rights_are_those_of_the_list() -> None:
    group = "KAFKA__GROUP_ID"
    settings = load_settings(kafka={"bootstrap_servers": "none", "group_id": group}, topics={"input": "<input>"})
    rows = [line.strip("| ").split(" | ") for line in SECURITY.read_text().splitlines() if line.startswith("| ")]
    listed = {row[0]: row[1] for row in rows[1:]}
    for on, rights in needed_rights(settings):
        kind, name = on.split()[0].rstrip("s"), on.split()[-1]
        (place,) = [one for one in listed if one.startswith(kind) and (f"`{name}`" in one or f"with {name}" in one)]
        assert listed[place] == rights
        listed[place.replace(f"`{name}`", "")] = listed.pop(place)
    assert not [place for place in listed if "`" in place], "no more topics are listed"
