"""The reader of the documents: what it must not miss."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import markdown

TEXT = """\
# A *first* `heading`: it's here

See [this](other.md#part), ![that](images/a.svg) and `[not](a-link.md)`.

```sh
one \\
  two
```

<!-- not run: needs Docker -->

- in a list

  ~~~~python
  if 1:
      ```
  ~~~~

## Part

## Part
"""


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.md").write_text(text)
    return tmp_path / "a.md"


def test_blocks_and_what_is_around_them(tmp_path: Path) -> None:
    document = markdown.read(write(tmp_path, TEXT.replace("\n- in a list\n", "")))
    first, second = document.blocks
    assert (first.line, first.language, first.text, first.not_run) == (6, "sh", "one \\\n  two\n", None)
    assert (second.language, second.text, second.not_run) == ("python", "if 1:\n    ```\n", "needs Docker")
    assert document.path.read_text().splitlines()[second.line - 1].strip() == "if 1:"
    assert document.anchors() == {"a-first-heading-its-here", "part", "part-1"}
    assert document.links() == ["other.md#part", "images/a.svg"]
    assert "heading" in set(document.code()) and len(document.prose.splitlines()) == len(TEXT.splitlines()) - 2


@pytest.mark.parametrize("text", [TEXT, "```sh\nls\n", "text\n\n<!-- not run: why -->\n"])
def test_what_is_not_well_formed_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"a\.md"):
        markdown.read(write(tmp_path, text))
