import html
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lgnn_jax import analysis

ROOT = Path(__file__).parents[1]
TAGS = "a blockquote code div em h1 h2 h3 h6 input label li main p pre section span strong ul wbr"
TAGS += " dl dt dd h5"  # of members that are inherited
SECTIONS = {"Arguments", "Attributes", "Example", "Raises", "Reference", "Returns"}


def test_reference_has_every_public_name_and_reads_well(tmp_path):
    """One test, for the pages take seconds to build."""
    command = "docs/build.py"
    assert f"&& .venv/bin/python {command}\n" in (ROOT / "README.md").read_text()
    built = subprocess.run(
        [sys.executable, "-W", "error", command, tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout == f"{tmp_path / 'index.html'}\n"
    pages = {
        ".".join(page.relative_to(tmp_path).with_suffix("").parts): main_part(page.read_text())
        for page in tmp_path.rglob("*.html")
        if page != tmp_path / "index.html"
    }

    packages = pkgutil.iter_modules(analysis.__path__, "lgnn_jax.analysis.")
    for module in ["lgnn_jax", *(package.name for package in packages)]:
        names = public_names(importlib.import_module(module))
        assert names, module
        missing = names - set(re.findall(r'id="([^"]*)"', pages[module]))
        assert not missing, module

    faults = {module: faults_of(page) for module, page in pages.items()}
    assert {module: found for module, found in faults.items() if found} == {}


def main_part(page):
    """The page without its navigation, styles and scripts."""
    page = page[page.index("<main") : page.index("</main>")]
    return re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)


def public_names(module):
    """What a module says it offers, or else what it defines."""
    own = {
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    return set(getattr(module, "__all__", own))


def faults_of(page):
    """What on a page is not as its docstrings mean it."""
    text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"(?s)<pre>.*?</pre>", "", page)))
    return [
        *(set(re.findall(r"<([a-z]\w*)", page)) - set(TAGS.split())),  # from "<" without backticks
        *re.findall(r"<em>.*?</em>", page),  # from "_" or "*" without backticks
        *re.findall(r"`.*|>>> .*|:math:|\\\(", text),  # left as it is in the docstring
        *(set(re.findall(r"<h6[^>]*>(.*?):</h6>", page)) - SECTIONS),  # a sentence taken for one
        *re.findall(r"jaxlib|\b_src\b|numpy\.bool, |Alias for field", text),  # spelt-out types
        *re.findall(r"<code>(lgnn_jax\.[\w.]+)", page),  # a name that has no page to link to
    ]


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "docs/method.md", "docs/any_network.md", "docs/settling.md"],
)
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_links_within_the_readme_name_a_heading():
    text = (ROOT / "README.md").read_text()
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.+)$", text)}
    pages = [text, (ROOT / "docs" / "method.md").read_text()]
    named = re.findall(r"\]\((?:\.\./README\.md)?#([^)]+)\)", "".join(pages))
    assert named
    assert set(named) <= headings
