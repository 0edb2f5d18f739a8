"""A private file is whole or as it was, also after the machine crashed, and only its owner can read it."""

import os
import stat

from shared.runtime.private_files import write_private


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    file = tmp_path / "secrets.json"
    file.write_text("old")
    file.chmod(0o644)
    synced: list[tuple[int, str]] = []
    monkeypatch.setattr(os, "fsync", lambda opened: synced.append((os.fstat(opened).st_ino, file.read_text())))

    write_private(file, "new")

    assert synced == [(file.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.json"]
