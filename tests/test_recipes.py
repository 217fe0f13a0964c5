"""Each CI recipe works as its page describes: with the mail server down, then up, and without secrets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml

from helpers import environments, pages, recipes
from helpers.once import create_once
from helpers.recipes import GitHub, GitLab, Machine, Mail, block, mailed, start_service
from servers.smtp import PASSWORD

pytestmark = pytest.mark.server

RECIPES = {"github", "gitlab", "jenkins", "docker", "cron", "systemd", "shell", "powershell"}
NOTHING_SENT = "nothing is sent: E3_EVENT_HANDLERS names no handler"
# Installing the package on a machine takes two seconds of CPU time.
STATUS = pytest.mark.parametrize("status", [pytest.param(0, marks=pytest.mark.long), 3])


@pytest.fixture(scope="session")
def wheels(programs, tmp_path_factory):
    """Return the directory of wheels that the install page creates. It is created once per run."""

    def make(directory):
        directory.mkdir()
        (directory / "event").symlink_to(pages.CHECKOUT)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        building = {"PATH": path, "PIP_NO_BUILD_ISOLATION": "no", **environments.QUICK_PIP}
        made = subprocess.run(
            ["sh", "-ec", block("install", "sh")],
            cwd=directory,
            env={**os.environ, **building},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout + made.stderr

    directory = create_once(tmp_path_factory, "install", make)
    names = sorted(path.name.partition("-")[0] for path in (directory / "ci" / "wheels").iterdir())
    assert names == ["e3_event", "typing_extensions"]
    return directory / "ci" / "wheels"


@pytest.fixture
def new_machine(wheels, bare_programs, tmp_path):
    made = []

    def new():
        made.append(Machine(tmp_path / f"machine{len(made)}", wheels, bare_programs))
        return made[-1]

    return new


@pytest.fixture
def machine(new_machine):
    return new_machine()


@pytest.fixture
def mail():
    mail = Mail()
    with mail.holder:
        yield mail


def failing(new_machine):
    """Return a function that makes machines on which a step exits with status 3."""

    def new():
        machine = new_machine()
        machine.set_status(3)
        return machine

    return new


def test_every_recipe_has_an_indexed_page_that_links_to_the_install_page():
    index = (recipes.PAGES.parent / "ci.md").read_text("utf-8")
    assert {page.stem for page in recipes.PAGES.glob("*.md")} == RECIPES | {"install"}
    for name in sorted(RECIPES):
        assert f"[](ci/{name}.md)" in index
        text = (recipes.PAGES / f"{name}.md").read_text("utf-8")
        assert "](install.md)" in text
        assert re.search(r"install (--quiet )?--no-index --find-links \S*wheels e3-event\b", text, re.MULTILINE)
        assert "**What is not delivered" in text


def test_powershell_recipe_is_marked_as_untested():
    assert "This recipe is untested" in (recipes.PAGES / "powershell.md").read_text("utf-8")


# GitHub Actions


def workflow():
    return yaml.safe_load(block("github", "yaml"))


def test_github_delivers_a_failed_step_when_the_mail_server_is_back(new_machine, mail):
    run = GitHub(workflow(), failing(new_machine), mail.secrets)
    jobs = run.run()
    assert jobs["test"].status == 3
    assert "refused" in jobs["test"].output
    assert "| tests | failure | 0 |" in jobs["test"].summary
    assert "\n~~~text\nmake has run\n~~~\n" in jobs["test"].summary
    assert list(run.artifacts) == ["e3-event-outbox-test-0-1"]
    assert jobs["deliver"].status == 1  # does not fail the workflow:
    assert run.jobs["deliver"]["continue-on-error"] is True
    with mail.up() as mailbox:
        assert run.run("deliver")["deliver"].status == 0
        assert mailed(mailbox) == ["tests"]


@STATUS
def test_github_needs_no_second_job_if_the_mail_server_is_up(status, new_machine, mail):
    run = GitHub(workflow(), failing(new_machine) if status else new_machine, mail.secrets)
    with mail.up() as mailbox:
        jobs = run.run()
        assert mailed(mailbox) == ["tests"]
    assert {name: job.status for name, job in jobs.items()} == {"test": status}
    assert run.artifacts == {}


@STATUS
def test_github_runs_a_forks_pull_request_without_secrets(status, new_machine):
    run = GitHub(workflow(), failing(new_machine) if status else new_machine, {})
    jobs = run.run()
    assert {name: job.status for name, job in jobs.items()} == {"test": status}
    assert run.artifacts == {}
    assert f"| tests | {'failure' if status else 'success'} | 0 |" in jobs["test"].summary


def test_github_writes_a_summary_if_no_step_has_sent_an_event(new_machine):
    def without_pip():
        machine = new_machine()
        machine.program("pip", "exit 1")
        return machine

    job = GitHub(workflow(), without_pip, {}).run()["test"]
    assert job.status == 1
    assert job.summary == "| step | outcome | seconds |\n|---|---|---|\n"


# GitLab


def pipeline():
    return yaml.safe_load(block("gitlab", "yaml"))


def test_gitlab_delivers_a_failed_step_when_the_mail_server_is_back(new_machine, mail):
    run = GitLab(pipeline(), failing(new_machine), mail.secrets)
    test = run.run("test")
    assert test.status == 3
    assert "0 of 1 delivered; 1 waiting in " in test.output
    assert run.run("deliver events").status == 1
    assert run.jobs["deliver events"]["allow_failure"] is True
    with mail.up() as mailbox:
        assert run.run("deliver events").status == 0
        assert mailed(mailbox) == ["tests"]


def test_gitlab_delivers_the_events_of_several_jobs_once(new_machine, mail):
    """A job of a later stage gets the artifacts of earlier jobs, but does not deliver their events."""
    run = GitLab(pipeline(), failing(new_machine), mail.secrets)
    assert [run.run("test").status for _ in range(2)] == [3, 3]
    with mail.up() as mailbox:
        assert run.run("deliver events").status == 0
        assert mailed(mailbox) == ["tests", "tests"]


@STATUS
def test_gitlab_runs_a_fork_without_secrets(status, new_machine):
    run = GitLab(pipeline(), failing(new_machine) if status else new_machine, {})
    done = run.run("test")
    assert done.status == status
    assert NOTHING_SENT in done.output
    assert run.run("deliver events").status == 0


def test_gitlab_stores_the_event_if_only_the_password_is_missing(new_machine, mail):
    """This happens if SMTP_PASSWORD is a protected variable and E3_EVENT_HANDLERS is not."""
    run = GitLab(pipeline(), new_machine, {"E3_EVENT_HANDLERS": mail.secrets["E3_EVENT_HANDLERS"]})
    with mail.up() as mailbox:
        done = run.run("test")
        assert done.status == 0
        assert "env:SMTP_PASSWORD is not set or empty" in done.output
        run.variables |= mail.secrets
        assert run.run("deliver events").status == 0
        assert mailed(mailbox) == ["tests"]


# Jenkins


def jenkins_steps():
    """Return (stage, commands, has secrets) for each stage of the Jenkinsfile."""
    text = block("jenkins", "groovy")
    assert text.count("{") == text.count("}")
    assert re.search(r"pipeline \{\n  agent any\n  stages \{\n", text)
    stages = re.findall(
        r"^    stage\('(\w+)'\) \{\n      steps \{\n(.*?)^      \}\n    \}\n", text, re.MULTILINE | re.DOTALL
    )
    return [(name, re.findall(r"\bsh '([^']*)'", body), "withEvents {" in body) for name, body in stages]


def jenkins_build(machine, secrets):
    """Run the stages; return the status of the first command that failed, or 0, and the output."""
    output = ""
    for _, commands, with_secrets in jenkins_steps():
        for command in commands:
            variables = secrets if with_secrets else {}
            done = machine.run("sh", "-xe", "-c", command, JENKINS_URL="http://jenkins.corp.test/", **variables)
            output += done.output
            if done.status:
                return done.status, output
    return 0, output


def test_jenkins_asks_for_its_credentials_unless_a_fork_is_built():
    text = block("jenkins", "groovy")
    assert re.search(r"if \(env\.CHANGE_FORK\) \{\n    steps\(\)\n  \} else \{\n    withCredentials\(", text)
    assert set(re.findall(r"variable: '(\w+)'", text)) == {"E3_EVENT_HANDLERS", "SMTP_PASSWORD"}
    assert [(name, with_secrets) for name, _, with_secrets in jenkins_steps()] == [("install", False), ("test", True)]


def test_jenkins_delivers_the_event_with_the_next_build_on_the_agent(machine, mail):
    machine.set_status(3)
    assert jenkins_build(machine, mail.secrets)[0] == 3
    assert machine.waiting() == 1
    shutil.rmtree(machine.checkout / ".e3-event")  # Jenkins cleans the workspace
    machine.set_status(0)
    with mail.up():
        assert jenkins_build(machine, mail.secrets)[0] == 0
        assert_all_delivered(machine, mail, machine.checkout / ".e3-event/bin/e3-event", ["tests", "tests"])


def test_jenkins_builds_a_fork_without_secrets(machine):
    for status in (0, 3):
        machine.set_status(status)
        exit_status, output = jenkins_build(machine, {})
        assert exit_status == status
        assert NOTHING_SENT in output


def assert_all_delivered(machine, mail, program, names, outbox=None):
    """Deliver the entries that were not due yet, and check that each event was mailed once."""
    done = machine.run(str(program), "deliver", "--all", *([str(outbox)] if outbox else []), **mail.secrets)
    assert done.status == 0
    assert mailed(mail.mailbox) == names
    assert machine.waiting(outbox) == 0


# Docker


def test_a_docker_build_is_reported_by_the_machine_that_starts_it(machine, mail):
    machine.set_status(3)
    script = block("docker", "sh")
    done = machine.run("sh", "-ec", script, **mail.secrets)
    assert done.status == 3
    assert "docker has run\n" in done.output
    assert machine.waiting() == 1
    with mail.up():
        machine.set_status(0)
        assert machine.run("sh", "-ec", script, **mail.secrets).status == 0
        assert_all_delivered(machine, mail, machine.checkout / ".e3-event/bin/e3-event", ["image", "image"])


def test_a_docker_build_is_run_without_secrets(machine):
    for status in (0, 3):
        machine.set_status(status)
        done = machine.run("sh", "-ec", block("docker", "sh"))
        assert done.status == status
        assert NOTHING_SENT in done.output


def image_build(machine, secrets):
    """Run the RUN steps of the Dockerfile with their secret mounts, and return the result of the last one."""
    text = block("docker", "dockerfile").replace("\\\n", " ")
    assert re.findall(r"^([A-Z]+) ", text, re.MULTILINE) == ["FROM", "COPY", "RUN", "WORKDIR", "COPY", "RUN"]
    (machine.directory / "tmp").mkdir(exist_ok=True)
    shutil.copytree(machine.checkout / "ci/wheels", machine.directory / "tmp/wheels", dirs_exist_ok=True)
    for step in re.findall(r"^RUN (.*)", text, re.MULTILINE):
        mounts = re.findall(r"--mount=(\S+)", step)
        secret_mounts = {
            mount[1]: mount[2] for mount in (re.match(r"type=secret,id=(\S+),env=(\S+)", m) for m in mounts) if mount
        }
        assert secret_mounts in ({}, {"e3-event-handlers": "E3_EVENT_HANDLERS", "smtp-password": "SMTP_PASSWORD"})
        command = re.sub(r"--mount=\S+", "", step)
        for path in ("/tmp/", "/var/cache/"):
            command = command.replace(path, f"{machine.directory}{path}")
        (machine.directory / "var/cache/e3-event").mkdir(parents=True, exist_ok=True)  # the cache mount
        done = machine.run("sh", "-c", command, **(secrets if secret_mounts else {}))
        if done.status:
            break
    return done


def test_a_step_within_a_docker_build_keeps_its_event_in_the_cache_mount(machine, mail):
    outbox = machine.directory / "var/cache/e3-event/outbox"
    machine.set_status(3)
    assert image_build(machine, mail.secrets).status == 3
    assert machine.waiting(outbox) == 1
    with mail.up():
        machine.set_status(0)
        assert image_build(machine, mail.secrets).status == 0
        assert_all_delivered(machine, mail, "e3-event", ["tests", "tests"], outbox)


def test_a_step_within_a_docker_build_runs_without_secrets(machine):
    for status in (0, 3):
        machine.set_status(status)
        done = image_build(machine, {})
        assert done.status == status
        assert NOTHING_SENT in done.output


# cron


def crontab(machine, mail):
    """Return the variables and the commands of the crontab, with the paths and the port of the test."""
    install(machine, "cron", "/home/ci", machine.home)
    variables, commands = {}, []
    for line in block("cron", "text").replace("/home/ci", str(machine.home)).splitlines():
        if found := re.fullmatch(r"((?:[\d*/]+ ){5})(.*)", line):
            assert "%" not in found[2]  # cron ends the command there
            commands.append(found[2])
        else:
            name, value = line.split("=", 1)
            variables[name] = value.replace("smtps://", "smtp://").replace("mail.example.com", f"127.0.0.1:{mail.port}")
    machine.program("logger", "cat >&2")
    (machine.home / "nightly.sh").write_text("#!/bin/sh\nexec nightly\n", encoding="utf-8")
    (machine.home / "nightly.sh").chmod(0o755)
    return variables, commands


def install(machine, page, shown, real):
    done = machine.run("sh", "-ec", block(page, "sh").replace(shown, str(real)))
    assert done.status == 0, done.output


def test_cron_delivers_the_event_when_the_mail_server_is_back(machine, mail):
    variables, (nightly, deliver) = crontab(machine, mail)
    (machine.home / ".smtp-password").write_text(PASSWORD, encoding="utf-8")
    machine.set_status(3)
    assert machine.run("/bin/sh", "-c", nightly, **variables).status == 3
    assert machine.waiting() == 1
    with mail.up() as mailbox:
        make_due(machine, machine.home / "e3-event/bin/e3-event")
        done = machine.run("/bin/sh", "-c", deliver, **variables)
        assert done.status == 0, done.output
        assert mailed(mailbox) == ["nightly"]
    assert machine.waiting() == 0


def make_due(machine, program, *outbox):
    """Make all waiting entries due now."""
    listed = machine.run(str(program), "outbox", "list", *outbox)
    for entry in re.findall(r"^([0-9a-f-]{36}) ", listed.output, re.MULTILINE):
        assert machine.run(str(program), "outbox", "retry", entry, *outbox).status == 0


def test_cron_runs_the_job_without_the_password(machine, mail):
    variables, (nightly, deliver) = crontab(machine, mail)
    for count, status in enumerate((0, 3), 1):
        machine.set_status(status)
        done = machine.run("/bin/sh", "-c", nightly, **variables)
        assert done.status == status
        assert "kept" in done.output
        assert machine.run("/bin/sh", "-c", deliver, **variables).status == 0
        assert machine.waiting() == count


# systemd


def units(machine):
    """Return the text of each systemd unit, with the machine's own paths."""
    install(machine, "systemd", "/opt/", f"{machine.directory}/opt/")
    found = {}
    for kind, text, _ in pages.blocks(recipes.PAGES / "systemd.md"):
        if kind == "ini":
            name = re.match(r"# /etc/systemd/system/(\S+)\n", text)[1]
            for path in ("/opt/", "/var/lib/", "/etc/e3-event.env"):
                text = text.replace(path, f"{machine.directory}{path}")  # noqa: PLW2901
            found[name] = text.replace("/usr/local/bin/nightly", str(machine.programs / "nightly"))
    (machine.directory / "var/lib/e3-event").mkdir(parents=True)  # the StateDirectory
    (machine.directory / "etc").mkdir()
    return found


def test_systemd_delivers_the_event_when_the_mail_server_is_back(machine, mail):
    made = units(machine)
    program = machine.directory / "opt/e3-event/bin/e3-event"
    outbox = machine.directory / "var/lib/e3-event/outbox"
    lines = "".join(f"{name}={value}\n" for name, value in mail.secrets.items())
    (machine.directory / "etc/e3-event.env").write_text(lines, encoding="utf-8")
    machine.set_status(3)
    assert start_service(machine, made["nightly.service"]).status == 3
    make_due(machine, program, "--outbox", str(outbox))
    assert start_service(machine, made["e3-event-deliver.service"]).status == 1
    assert machine.waiting(outbox) == 1
    with mail.up() as mailbox:
        make_due(machine, program, "--outbox", str(outbox))
        done = start_service(machine, made["e3-event-deliver.service"])
        assert done.status == 0, done.output
        assert mailed(mailbox) == ["nightly"]
    assert machine.waiting(outbox) == 0


def test_systemd_runs_the_job_without_secrets(machine):
    made = units(machine)
    for status in (0, 3):
        machine.set_status(status)
        done = start_service(machine, made["nightly.service"])
        assert done.status == status
        assert NOTHING_SENT in done.output
        assert start_service(machine, made["e3-event-deliver.service"]).status == 0


def test_the_units_are_well_formed(machine, tmp_path):
    made = units(machine)
    assert set(made) == {"nightly.service", "e3-event-deliver.service", "e3-event-deliver.timer"}
    for name, text in made.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert re.match(r"# \S+\n\[Unit\]\nDescription=.*\n", text)
    if not shutil.which("systemd-analyze"):
        return  # only systemd-analyze can check more
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in made)],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in done.stderr.splitlines() if any(name in line for name in made)]
    assert about == [], done.stderr


# Shell


def test_shell_script_has_the_status_of_its_step_and_sends_later(machine, mail):
    (machine.checkout / "build.sh").write_text(block("shell", "bash"), encoding="utf-8")
    lines = "".join(f"{name}='{value}'\n" for name, value in mail.secrets.items())
    (machine.home / ".e3-event.env").write_text(lines, encoding="utf-8")
    machine.set_status(3)
    done = machine.run("bash", "build.sh")
    assert done.status == 3
    assert not (machine.checkout / "release.uid").exists()
    assert machine.waiting() == 1
    machine.set_status(0)
    assert machine.run("bash", "build.sh").status == 0  # the server is down, the events are kept
    assert machine.waiting() == 4
    with mail.up():
        assert machine.run("bash", "build.sh").status == 0
        names = ["package", "package", "release", "release", "tests", "tests", "tests"]
        assert_all_delivered(machine, mail, machine.checkout / ".e3-event/bin/e3-event", names)


def test_the_shell_script_runs_without_secrets(machine):
    (machine.checkout / "build.sh").write_text(block("shell", "bash"), encoding="utf-8")
    for status in (0, 3):
        machine.set_status(status)
        done = machine.run("bash", "build.sh")
        assert done.status == status
        assert NOTHING_SENT in done.output
        assert machine.waiting() == 0
