"""Run the recipes of docs/howto/ci similarly to their CI systems.

The shell steps, the installation, `e3-event` and the mail server are real. The systems' files, variables and artifacts
are simulated, and so are `make` and `docker`. `python3 -m venv` creates an environment that uses another one's pip.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from typing import NamedTuple

from helpers import environments, pages
from servers.process import free_port
from servers.smtp import PASSWORD, smtp_server

PAGES = pages.CHECKOUT / "docs" / "howto" / "ci"


def block(page, kind):
    """Return the only fenced block of a kind on a page."""
    (found,) = (text for shown, text, _ in pages.blocks(PAGES / f"{page}.md") if shown == kind)
    return found


class Done(NamedTuple):
    """The result of a command."""

    status: int
    output: str


class Machine:
    """A machine with a home directory, a checkout that contains wheels, and a Python without `e3-event`.

    :param directory: the directory of all its files
    :param wheels: the directory of wheels
    :param programs: the directory of the programs of an environment with pip
    """

    def __init__(self, directory, wheels, programs):
        self.directory = directory
        self.home, self.checkout = directory / "home", directory / "checkout"
        self.home.mkdir(parents=True)
        (self.checkout / "ci").mkdir(parents=True)
        (self.checkout / "ci" / "wheels").symlink_to(wheels)
        python = environments.create_layer(programs, directory / "python")
        self.programs = directory / "programs"
        self.programs.mkdir()
        self.path = f"{self.programs}:{python}:/usr/local/bin:/usr/bin:/bin"
        make = f'exec "{python}/python" "{environments.__file__}" "{programs}" "$3"'
        self.program("python3", f'[ "$1 $2" = "-m venv" ] && {make}\nexec "{python}/python" "$@"')
        self.set_status(0)

    def program(self, name, script):
        """Install a shell script as a program."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def set_status(self, status):
        """Set the exit status of `make`, `docker` and the nightly job."""
        for name in ("make", "docker", "nightly"):
            self.program(name, f'echo "{name} has run"; exit {status}')

    def run(self, *command, **variables):
        """Run a command in the checkout, with these environment variables and few others."""
        home = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / ".local" / "state"), **environments.QUICK_PIP}
        done = subprocess.run(
            command,
            cwd=self.checkout,
            env={**home, "PATH": self.path, "LC_ALL": "C.UTF-8", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout)

    def waiting(self, outbox=None):
        """Return the number of waiting entries in an outbox, by default in the user's outbox."""
        outbox = outbox or self.home / ".local" / "state" / "e3-event" / "outbox"
        return len(list(outbox.glob("waiting/*/*")))


class Mail:
    """A mail server that requires a password. It runs only inside a block ``with mail.up()``.

    :ivar secrets: the variables that a user of the recipes stores in the CI system
    :ivar mailbox: the `Mailbox` of the last block
    """

    def __init__(self):
        self.holder, self.port = free_port()
        handlers = f"smtp=Build,ci@corp.test,dev@corp.test,smtp://ci:env:SMTP_PASSWORD@127.0.0.1:{self.port}"
        self.secrets = {"E3_EVENT_HANDLERS": handlers, "SMTP_PASSWORD": PASSWORD}
        self.mailbox = None

    @contextmanager
    def up(self):
        """Run the server; yield its `Mailbox`."""
        with smtp_server(port=self.port, auth_required=True) as self.mailbox:
            yield self.mailbox
            assert set(self.mailbox.logins) <= {("ci", PASSWORD)}


def mailed(mailbox):
    """Return the sorted names of the events in a mailbox."""
    return sorted(_event_of(envelope.content)["name"] for envelope in mailbox.envelopes)


def _event_of(content):
    (data,) = (part for part in email.message_from_bytes(content).walk() if part.get_filename() == "event")
    return json.loads(data.get_payload(decode=True))


# GitHub Actions

_INPUTS = {
    "actions/checkout@v4": set(),
    "actions/setup-python@v5": {"python-version"},
    "actions/upload-artifact@v4": {"name", "path"},
    "actions/download-artifact@v4": {"pattern", "path", "merge-multiple"},
}
_SHELLS = {
    None: ["bash", "-e"],
    "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
    "python": ["python"],
}
_JOB_KEYS = {"needs", "if", "continue-on-error", "runs-on", "env", "outputs", "steps"}
_STEP_KEYS = {"id", "if", "name", "uses", "with", "run", "shell", "env"}


class GitHub:
    """Runs the jobs of a workflow, each on its own machine. The artifacts are kept for the next attempt.

    :param new_machine: creates a machine
    :param secrets: the secrets of the repository; empty for a fork's pull request
    """

    def __init__(self, workflow, new_machine, secrets):
        assert {"name", "jobs"} <= set(workflow)
        self.jobs = workflow["jobs"]
        self.new_machine = new_machine
        self.secrets = secrets
        self.artifacts = {}
        self.outputs = {}
        self.attempt = 0

    def run(self, *names):
        """Run all jobs, or run some of them again; return name -> Job of the jobs that were not skipped."""
        self.attempt += 1
        jobs = {}
        for name, job in self.jobs.items():
            assert set(job) <= _JOB_KEYS
            needs = job.get("needs", [])
            needed = {other: self.outputs[other] for other in ([needs] if type(needs) is str else needs)}
            context = {
                f"needs.{other}.outputs.{key}": value for other in needed for key, value in needed[other].items()
            }
            if (names and name not in names) or not self.is_true(job.get("if", "always()"), context, failed=False):
                self.outputs.setdefault(name, {})
                continue
            jobs[name] = Job(self, name, job).run()
            self.outputs[name] = {
                key: self.expand(text, jobs[name].context) for key, text in job.get("outputs", {}).items()
            }
        return jobs

    def expand(self, text, context):
        """Replace the expressions in a text by their values. An unknown expression is an error."""
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: self.value(found[1], context), str(text))

    def value(self, expression, context):
        kind, _, name = expression.partition(".")
        if kind == "secrets":
            return self.secrets.get(name, "")
        if kind in {"steps", "needs"}:
            return context.get(expression, "")
        return {"strategy.job-index": "0", "github.run_attempt": str(self.attempt), **context}[expression]

    def is_true(self, condition, context, *, failed):
        """Return whether the condition of a step or a job is true.

        :param failed: whether an earlier step has failed
        """
        terms = str(condition).split(" && ")
        if "always()" not in terms and failed:
            return False
        return all(term == "always()" or self.value(term, context) for term in terms)


class Job:
    """A job on its machine.

    :ivar status: the exit status of the first failed step, or 0
    :ivar output: the output of the shell steps
    :ivar summary: the job summary
    """

    def __init__(self, system, name, job):
        self.system, self.name, self.job = system, name, job
        self.machine = system.new_machine()
        self.context = {"github.job": name}
        self.status = 0
        self.output = self.summary = ""

    def run(self):
        for step in self.job["steps"]:
            assert set(step) <= _STEP_KEYS
            assert ("uses" in step) != ("run" in step)
            if self.system.is_true(step.get("if", "true"), {**self.context, "true": "true"}, failed=self.status != 0):
                self.run_action(step) if "uses" in step else self.run_shell(step)
        return self

    def expand(self, text):
        """Replace the expressions in a text by their values, and /tmp by a directory of the machine."""
        return self.system.expand(text, self.context).replace("/tmp/", f"{self.machine.directory}/tmp/")

    def run_shell(self, step):
        script, output, summary = (self.machine.directory / name for name in ("script", "output", "summary"))
        script.write_text(self.expand(step["run"]), encoding="utf-8")
        output.write_text("", encoding="utf-8")
        variables = {key: self.expand(value) for key, value in self.job.get("env", {}).items()}
        files = {
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            "GITHUB_ACTIONS": "true",
            "CI": "true",
        }
        done = self.machine.run(*_SHELLS[step.get("shell")], str(script), **variables, **files)
        self.output += done.output
        self.status = self.status or done.status
        for line in output.read_text(encoding="utf-8").splitlines():
            key, value = line.split("=")
            self.context[f"steps.{step['id']}.outputs.{key}"] = value
        if summary.exists():
            self.summary = summary.read_text(encoding="utf-8")

    def run_action(self, step):
        action = step["uses"]
        inputs = {key: self.expand(value) for key, value in step.get("with", {}).items()}
        assert set(inputs) <= _INPUTS[action]
        if "upload" in action:
            assert inputs["name"] not in self.system.artifacts
            self.system.artifacts[inputs["name"]] = read_files(inputs["path"])
        elif "download" in action:
            assert inputs["merge-multiple"] == "True"
            for name, files in self.system.artifacts.items():
                if name.startswith(inputs["pattern"].removesuffix("*")):
                    write_files(files, self.machine.checkout / inputs["path"])


def read_files(directory):
    """Return relative path -> content. As in an artifact, modes and empty directories are omitted."""
    paths = (os.path.join(top, name) for top, _, names in os.walk(directory) for name in names)
    found = {}
    for path in paths:
        with open(path, "rb") as file:
            found[os.path.relpath(path, directory)] = file.read()
    return found


def write_files(files, directory):
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# GitLab

_GITLAB_JOB_KEYS = {"stage", "script", "after_script", "artifacts", "when", "allow_failure", "before_script"}


class GitLab:
    """Runs the jobs of a pipeline, each on its own machine. Each job gets the artifacts of the earlier ones.

    :param variables: the variables of the project; empty for a fork
    """

    def __init__(self, pipeline, new_machine, variables):
        self.default = pipeline["default"]
        self.variables = {**pipeline["variables"], **variables}
        self.jobs = {name: job for name, job in pipeline.items() if name not in {"default", "variables"}}
        self.new_machine = new_machine
        self.artifacts = []
        self.job_id = 0

    def run(self, name):
        """Run a job; return the exit status of its script, and the output."""
        job = self.jobs[name]
        assert set(job) <= _GITLAB_JOB_KEYS
        machine = self.new_machine()
        for path, files in self.artifacts:
            shutil.copytree(files, machine.checkout / path)
        self.job_id += 1
        own = {"$CI_PROJECT_DIR": str(machine.checkout), "$CI_JOB_ID": str(self.job_id)}
        variables = {key: _expand(value, own) for key, value in self.variables.items()}
        script = "\n".join(self.default["before_script"] + job["script"])
        done = machine.run("sh", "-xe", "-c", script, GITLAB_CI="true", CI="true", **variables)
        after = machine.run("sh", "-xe", "-c", "\n".join(job.get("after_script", [])), CI="true", **variables)
        for path in job.get("artifacts", {}).get("paths", []):
            assert job["artifacts"]["when"] == "always"
            if (artifact := machine.checkout / _expand(path, own)).exists():
                self.artifacts.append((_expand(path, own), artifact))
        return Done(done.status, done.output + after.output)


def _expand(text, variables):
    for name, value in variables.items():
        text = text.replace(name, value)
    return text


# systemd


def service(text):
    """Return the settings in the section [Service] of a unit file."""
    section = re.search(r"^\[Service\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)[1]
    return dict(line.split("=", 1) for line in section.splitlines() if line)


def start_service(machine, text):
    """Run the command of a unit with the variables of its environment file, if that exists."""
    keys = service(text)
    assert set(keys) <= {"Type", "User", "StateDirectory", "Environment", "EnvironmentFile", "ExecStart"}
    lines = [keys["Environment"]] if "Environment" in keys else []
    file = keys["EnvironmentFile"].removeprefix("-")
    if os.path.exists(file):
        with open(file, encoding="utf-8") as opened:
            lines += opened.read().splitlines()
    return machine.run(*keys["ExecStart"].split(), **dict(line.split("=", 1) for line in lines))
