"""Folders and files to documents: what is read, under which titles, and what is said of the rest."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from homer import InputError, read_documents

TEXT = "Prüfung: the north gate closes at dusk. "


def write(folder: Path, **files: str | bytes) -> None:
    """Files by name, `__` for a folder and `_` for the dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(*paths: Path, **options: object) -> dict[str, str]:
    documents = read_documents(paths, report=lambda line: None, **options)
    found = {document["title"]: document["text"] for document in documents}
    assert len(found) == len(documents)  # all titles differ
    return found


def test_titles_tell_files_apart(tmp_path: Path) -> None:
    write(tmp_path, a__README_md="one", a__b__README_md="two", c__README_md="three", c__d__x_txt="four")
    assert read(tmp_path) == {"a/README.md": "one", "a/b/README.md": "two", "c/README.md": "three", "c/d/x.txt": "four"}
    named = read(tmp_path / "a", tmp_path / "c")
    assert named == {"a/README.md": "one", "b/README.md": "two", "c/README.md": "three", "d/x.txt": "four"}
    files = [tmp_path / name for name in ("a/README.md", "a/b/README.md", "c/d/x.txt")]
    assert read(*files) == {"a/README.md": "one", "b/README.md": "two", "x.txt": "four"}
    folders = [tmp_path / "a" / "b", tmp_path / "x" / "b"]
    write(folders[1], README_md="five")
    assert read(*folders) == {"a/b/README.md": "two", "x/b/README.md": "five"}


def test_a_file_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one", b__c_txt="two")
    (tmp_path / "link.txt").symlink_to("a.txt")
    os.link(tmp_path / "a.txt", tmp_path / "b" / "hard.txt")
    assert read(tmp_path) == {"a.txt": "one", "b/c.txt": "two"}
    again = [tmp_path / "b" / "c.txt", tmp_path, tmp_path / "b", tmp_path / "b" / ".." / "a.txt"]
    assert read(*again) == {"c.txt": "two", "a.txt": "one"}


def test_hidden_files_and_stores_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one", _git__desc_txt="hidden", _env_txt="hidden", b___c_md="hidden")
    write(tmp_path / "store", **{"homer-store_txt": "mark", "sources__a_json": "{}"})
    assert read(tmp_path, strict=True) == {"a.txt": "one"}
    assert read(tmp_path / ".git") == {"desc.txt": "hidden"}  # which was asked for
    assert read(tmp_path / ".env.txt") == {".env.txt": "hidden"}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".yaml", ".toml", ".rst", ".log", ".XML", ".tex"])
def test_text_of_many_kinds(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_text("a,1")
    assert read(tmp_path) == {f"a{suffix}": "a,1"}


def test_what_is_skipped_is_said_in_one_line_and_strict_refuses_it(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one", b_jpg=b"\xff\xd8", c_jpg=b"\xff", d_exe=b"MZ", e_bin=b"0", latin_txt=b"caf\xe9")
    write(tmp_path, zero_txt=b"a\0b", bad_pdf=b"no pdf", half_txt=TEXT.encode("utf-16-le"), sub__x_txt="two")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sub2").symlink_to(tmp_path / "sub")
    os.mkfifo(tmp_path / "pipe.txt")
    lines: list[str] = []
    documents = read_documents([tmp_path], report=lines.append)
    assert [document["title"] for document in documents] == ["a.txt", "sub/x.txt"]
    (line,) = lines
    assert "\n" not in line
    assert line.startswith("skipped 11 files: ")
    for words in (
        "b.jpg, ", "and 1 more - is of a kind that is not read", "latin.txt - is no UTF-8 text (byte 3)",
        "zero.txt - holds a zero at character 1", "bad.pdf - cannot be read as a PDF", "half.txt - ",
        "gone.txt - cannot be read (No such file", "sub2 - is a link to a folder", "pipe.txt - is no regular file",
    ):  # fmt: skip
        assert words in line
    with pytest.raises(InputError, match="skipped 11 files: .*: leave them out, mend them, or do without strict"):
        read_documents([tmp_path], strict=True)
    with pytest.raises(InputError, match=r"no files with text: .*; skipped 1 file: .*b.jpg - is of a kind"):
        read(write_only(tmp_path / "pictures"))


def write_only(folder: Path) -> Path:
    write(folder, b_jpg=b"\xff")
    return folder


def test_an_unreadable_folder_or_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a_txt="one", locked_txt="two", closed__b_txt="three")
    scandir, read_bytes = os.scandir, Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "locked.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    def list_folder(path: str) -> object:
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(os, "scandir", list_folder)
    lines: list[str] = []
    assert len(read_documents([tmp_path], report=lines.append)) == 1
    assert "closed - cannot be read (Permission denied)" in lines[0]
    assert "locked.txt - cannot be read (Permission denied)" in lines[0]
    with pytest.raises(InputError, match="locked.txt cannot be read .Permission denied.: check the path and its perm"):
        read(tmp_path / "locked.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read(tmp_path / "a.txt") == {"a.txt": TEXT}


@pytest.mark.parametrize(
    "content",
    [TEXT.encode("utf-16-le"), TEXT.encode("utf-16-be"), b"a\0", b"\0", b"\xff\xfea\0\0\0", b"\xff\xfe\0\xd8", b"\x80"],
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.txt .*convert it to"):
        read(tmp_path / "a.txt")


def test_web_pages_lose_their_tags(tmp_path: Path) -> None:
    html = (
        "<html><head><style>p {}</style>{}<script>var x</script></head><body><h1>Gate</h1><p>é <b>dusk</b></p></body>"
    )
    latin = html.replace("{}", '<meta charset="iso-8859-1">', 2).encode("latin-1")
    write(tmp_path, a_html=html, b_htm=latin, c_html=html.encode("utf-16"))
    assert set(read(tmp_path).values()) == {"# Gate\n\né **dusk**"}
    assert read(tmp_path / "a.html") == {"a.html": "# Gate\n\né **dusk**"}
    write(tmp_path, d_html=b"<p>caf\xe9</p>", e_html=b'<meta charset="none-such"><p>a</p>')
    assert read(tmp_path / "e.html")["e.html"] == "a"
    with pytest.raises(InputError, match="d.html is no UTF-8 text"):
        read(tmp_path / "d.html")


def docx(text: str) -> bytes:
    """The least that a Word document is."""
    kinds = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    document = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{kinds}"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{document}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{word}"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>'
        "</w:document>",
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def test_office_documents(tmp_path: Path) -> None:
    from openpyxl import Workbook
    from pptx import Presentation

    write(tmp_path, a_docx=docx(TEXT))
    book = Workbook()
    book.active.append(["gate", "code"])
    book.active.append(["north", 48213])
    book.save(tmp_path / "b.xlsx")
    show = Presentation()
    show.slides.add_slide(show.slide_layouts[0]).shapes.title.text = TEXT
    show.save(tmp_path / "c.pptx")
    found = read(tmp_path)
    assert found["a.docx"] == TEXT.strip()
    assert "| north | 48213 |" in found["b.xlsx"]
    assert TEXT.strip() in found["c.pptx"]
    for name in found:
        (tmp_path / name).write_bytes(b"PK\x03\x04 broken")
        with pytest.raises(InputError, match=f"{name} cannot be read as {Path(name).suffix}"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("package", "extra", "name"), [("markitdown", "documents", "a.html"), ("pypdf", "pdf", "a.pdf")]
)
def test_without_its_extra_a_kind_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str, name: str
) -> None:
    for module in [package, *(m for m in sys.modules if m.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_text("<p>a</p>")
    with pytest.raises(InputError, match=rf"{name} is .*pip install homer-integrations\[{extra}\]"):
        read(tmp_path / name)


def test_a_damaged_pdf_is_an_error_whatever_it_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> object:
        raise KeyError("/Root")

    monkeypatch.setattr("pypdf.PdfReader", fail)
    write(tmp_path, a_pdf=b"%PDF-1.4")
    with pytest.raises(InputError, match="a.pdf cannot be read as a PDF"):
        read(tmp_path / "a.pdf")


def test_standard_input_and_pipes(tmp_path: Path) -> None:
    script = "import sys, homer; print(homer.read_documents(sys.argv[1:]))"
    (tmp_path / "-").write_text("a file")
    command = ["bash", "-c", f"{sys.executable} -c '{script}' - <(echo from a pipe) ./- -"]
    done = subprocess.run(command, input=TEXT.encode(), capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [(document["title"], document["text"]) for document in eval(done.stdout)]
    assert found[0] == ("stdin", TEXT)
    assert found[1][1] == "from a pipe\n"
    assert found[2] == ("-", "a file")
    assert len(found) == 3


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path in ("none.txt", "a\0b", "\ud800.txt", "x" * 5000):
        with pytest.raises(InputError, match="no file at"):
            read_documents([tmp_path / path])
    for single in (str(tmp_path), tmp_path):
        with pytest.raises(InputError, match="give a list of paths"):
            read_documents(single)
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("a")
    assert read(tmp_path) == {"caf\ufffd.txt": "a"}
