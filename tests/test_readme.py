"""The commands of the README work in a new environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from helpers import pages

README = pages.CHECKOUT / "README.md"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="platform: the commands use a POSIX shell")


def marked(name):
    """Return the code block after the HTML comment with this name."""
    return re.search(rf"<!-- {name} -->\n```sh\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)[1]


@pytest.mark.server
def test_main_job_runs_in_a_fresh_checkout(tmp_path):
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (pages.CHECKOUT / name).is_dir() else shutil.copy
        copy(pages.CHECKOUT / name, tmp_path / name)
    done = subprocess.run(["sh", "-ec", marked("main job")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^events/compile-[0-9a-f-]{36}/pyproject\.toml$", done.stdout, re.MULTILINE)
    assert re.search(r"^events/compile-[0-9a-f-]+\.json$", done.stdout, re.MULTILINE)
    assert '"target": "arm"' in done.stdout
    assert "file: delivered" in done.stderr
    (attached,) = (tmp_path / "events").glob("compile-*/pyproject.toml")
    assert attached.read_bytes() == (tmp_path / "pyproject.toml").read_bytes()


def test_test_command_equals_that_of_ci():
    script = pages.CHECKOUT / ".ci" / "run"
    if not script.exists():
        pytest.skip("no .ci here: this is an unpacked sdist")
    assert "<!-- test command -->" in script.read_text("utf-8")
    assert marked("test command").strip().endswith("tox")


def test_examples_of_the_readme_print_what_it_shows(own_programs, tmp_path, monkeypatch):
    directory = tmp_path / "page"
    directory.mkdir()
    monkeypatch.chdir(directory)
    assert pages.run(README, directory, own_programs) == 5


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (pages.CHECKOUT / link).exists()]
    assert missing == []
