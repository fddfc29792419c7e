"""Where a model lies."""

from pathlib import Path

import pytest

from homer import ConfigError
from homer.backends.source import locate


def test_a_folder_is_where_it_is(tmp_path: Path) -> None:
    source = locate(tmp_path, {})
    assert (source.path, source.gguf_file, source.adapter) == (str(tmp_path), None, None)


def test_several_gguf_files_must_be_told_apart(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"gguf_file"):
        locate(tmp_path, {})
