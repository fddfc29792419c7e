"""Make docs/answer.png anew, the picture in the README: python -m docs.picture [--out FILE] [--width PIXELS]

Needs Pillow and a Chromium that runs without a screen, such as Debian's package of that name.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from homer import Answer, HomerModel, read_documents
from homer.demo import DOCUMENTS

QUESTION = "What is the cutover date for the Orrin migration?"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TALLEST, _WIDTH, _MARGIN = 4000, 1085, 20  # pixels


def ask() -> Answer:
    """The answer that the README's example draws."""
    return HomerModel.from_pretrained("mini").ask(QUESTION, read_documents([DOCUMENTS]))


def photograph(source: str, out: Path, width: int) -> None:
    """Save a page as a browser shows it, so many pixels wide and without the empty part below.

    Raises:
        SystemExit: no browser is there.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium here: apt-get install chromium, or give one of " + ", ".join(BROWSERS))
    with tempfile.TemporaryDirectory() as folder:
        file, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        file.write_text(source, encoding="utf-8")
        # a frame, since a browser without a screen has windows of 500 pixels at least
        frame = Path(folder) / "frame.html"
        frame.write_text(
            f'<body style="margin:0"><iframe src="page.html" width={width} height={_TALLEST} '
            f'style="border:0;display:block"></iframe>'
        )
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        size = f"--window-size={max(width, 500)},{_TALLEST}"
        command = [browser, *options, size, f"--screenshot={shot}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            _trimmed(image.convert("RGB").crop((0, 0, width, _TALLEST))).save(out, optimize=True)


def without_documents(source: str) -> str:
    """A drawn answer that ends with its tree."""
    head, _, rest = source.partition("<h3>The documents</h3>")
    return head + rest[rest.rindex("</main>") :]


def _trimmed(image: Image.Image) -> Image.Image:
    paper = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
    box = ImageChops.difference(image, paper).getbbox()
    bottom = image.height if box is None else min(image.height, box[3] + _MARGIN)
    return image.crop((0, 0, image.width, bottom))


def main() -> None:
    """Ask, draw and save."""
    parser = argparse.ArgumentParser(prog="python -m docs.picture", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "answer.png")
    parser.add_argument("--width", type=int, default=_WIDTH, help="in pixels; about 390 for a phone")
    arguments = parser.parse_args()
    photograph(without_documents(ask()._page(whole=True)), arguments.out, arguments.width)


if __name__ == "__main__":
    main()
