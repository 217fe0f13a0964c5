"""Detect the CI system, and read its data about the build from the environment variables.

Each system documents its variables:

- GitHub Actions: https://docs.github.com/actions/reference/variables-reference; Gitea and Forgejo set the same ones,
  and one of their own
- GitLab: https://docs.gitlab.com/ci/variables/predefined_variables/
- Jenkins, and its plugin for Git: https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables
- Buildkite: https://buildkite.com/docs/pipelines/configure/environment-variables
- CircleCI: https://circleci.com/docs/variables/
- Azure Pipelines: https://learn.microsoft.com/azure/devops/pipelines/build/variables
- Travis CI: https://docs.travis-ci.com/user/environment-variables/
- Bitbucket Pipelines: https://support.atlassian.com/bitbucket-cloud/docs/variables-and-secrets/
- TeamCity: https://www.jetbrains.com/help/teamcity/predefined-build-parameters.html
- Drone: https://docs.drone.io/pipeline/environment/reference/
- Woodpecker: https://woodpecker-ci.org/docs/usage/environment
- AWS CodeBuild: https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-env-vars.html
- AppVeyor: https://www.appveyor.com/docs/environment-variables/
- Semaphore: https://docs.semaphoreci.com/reference/env-vars
- Bamboo: https://confluence.atlassian.com/bamboo/bamboo-variables-289277087.html
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def build(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the CI system's data about the build.

    The keys are ``system``, ``build_url``, ``branch``, ``commit``, ``job``, ``attempt``, ``pull_request`` (its number)
    and ``actor`` (the user who started the build, or else the commit's author). Values that the system does not provide
    are left out. Outside of CI, the dict is empty.

    For a pull request, ``branch`` and ``commit`` are those of its head, not of the temporary merge commit.
    """
    for name, variables in SYSTEMS.items():
        mark, equals, value = variables["mark"].partition("=")
        if environ.get(mark) == value if equals else environ.get(mark):
            values = {key: _value(key, source, environ) for key, source in variables.items() if key != "mark"}
            if mark.endswith("_ACTIONS"):
                values |= _of_github_payload(environ)
            return {"system": name, **{key: value for key, value in values.items() if value}}
    return {}


# The order matters: a system that also sets the variables of another comes before it. Jenkins comes last, since its
# agents may inherit the environment of another system.
#
# `mark` is the variable, or NAME=VALUE, that identifies the system. `build_url` has {NAME} for a variable. The other
# keys have the names of variables, of which the first one that is set is used.
#
# Jenkins sets BUILD_USER_ID only with its plugin "build user vars". Travis CI and TeamCity provide no actor.
_GITHUB = {
    "build_url": "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
    "branch": "GITHUB_HEAD_REF GITHUB_REF_NAME",
    "commit": "GITHUB_SHA",
    "job": "GITHUB_JOB",
    "attempt": "GITHUB_RUN_ATTEMPT",
    "actor": "GITHUB_ACTOR",
}
SYSTEMS: dict[str, dict[str, str]] = {
    "forgejo": {"mark": "FORGEJO_ACTIONS", **_GITHUB},
    "gitea": {"mark": "GITEA_ACTIONS", **_GITHUB},
    "github": {"mark": "GITHUB_ACTIONS", **_GITHUB},
    "gitlab": {
        "mark": "GITLAB_CI",
        "build_url": "{CI_JOB_URL}",
        "branch": "CI_COMMIT_BRANCH CI_MERGE_REQUEST_SOURCE_BRANCH_NAME CI_COMMIT_REF_NAME",
        "commit": "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA CI_COMMIT_SHA",
        "job": "CI_JOB_NAME",
        "pull_request": "CI_MERGE_REQUEST_IID",
        "actor": "GITLAB_USER_LOGIN",
    },
    "buildkite": {
        "mark": "BUILDKITE",
        "build_url": "{BUILDKITE_BUILD_URL}",
        "branch": "BUILDKITE_BRANCH",
        "commit": "BUILDKITE_COMMIT",
        "job": "BUILDKITE_LABEL BUILDKITE_STEP_KEY",
        "attempt": "BUILDKITE_RETRY_COUNT",
        "pull_request": "BUILDKITE_PULL_REQUEST",
        "actor": "BUILDKITE_BUILD_CREATOR",
    },
    "circleci": {
        "mark": "CIRCLECI",
        "build_url": "{CIRCLE_BUILD_URL}",
        "branch": "CIRCLE_BRANCH",
        "commit": "CIRCLE_SHA1",
        "job": "CIRCLE_JOB",
        "pull_request": "CIRCLE_PULL_REQUEST",
        "actor": "CIRCLE_USERNAME",
    },
    "azure": {
        "mark": "TF_BUILD",
        "build_url": "{SYSTEM_TEAMFOUNDATIONCOLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
        "branch": "SYSTEM_PULLREQUEST_SOURCEBRANCH BUILD_SOURCEBRANCH",
        "commit": "SYSTEM_PULLREQUEST_SOURCECOMMITID BUILD_SOURCEVERSION",
        "job": "SYSTEM_JOBDISPLAYNAME SYSTEM_JOBNAME",
        "attempt": "SYSTEM_JOBATTEMPT",
        "pull_request": "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER SYSTEM_PULLREQUEST_PULLREQUESTID",
        "actor": "BUILD_REQUESTEDFOR",
    },
    "travis": {
        "mark": "TRAVIS",
        "build_url": "{TRAVIS_JOB_WEB_URL}",
        "branch": "TRAVIS_PULL_REQUEST_BRANCH TRAVIS_BRANCH",
        "commit": "TRAVIS_PULL_REQUEST_SHA TRAVIS_COMMIT",
        "job": "TRAVIS_JOB_NAME TRAVIS_JOB_NUMBER",
        "pull_request": "TRAVIS_PULL_REQUEST",
    },
    "bitbucket": {
        "mark": "BITBUCKET_BUILD_NUMBER",
        "build_url": "https://bitbucket.org/{BITBUCKET_REPO_FULL_NAME}/pipelines/results/{BITBUCKET_BUILD_NUMBER}",
        "branch": "BITBUCKET_BRANCH",
        "commit": "BITBUCKET_COMMIT",
        "attempt": "BITBUCKET_STEP_RUN_NUMBER",
        "pull_request": "BITBUCKET_PR_ID",
    },
    "teamcity": {
        "mark": "TEAMCITY_VERSION",
        "build_url": "{BUILD_URL}",
        "commit": "BUILD_VCS_NUMBER",
        "job": "TEAMCITY_BUILDCONF_NAME",
    },
    "woodpecker": {
        "mark": "CI=woodpecker",
        "build_url": "{CI_PIPELINE_URL}",
        "branch": "CI_COMMIT_SOURCE_BRANCH CI_COMMIT_BRANCH",
        "commit": "CI_COMMIT_SHA",
        "job": "CI_STEP_NAME",
        "pull_request": "CI_COMMIT_PULL_REQUEST",
        "actor": "CI_PIPELINE_AUTHOR CI_COMMIT_AUTHOR",
    },
    "drone": {
        "mark": "DRONE",
        "build_url": "{DRONE_BUILD_LINK}",
        "branch": "DRONE_SOURCE_BRANCH DRONE_COMMIT_BRANCH",
        "commit": "DRONE_COMMIT_SHA",
        "job": "DRONE_STEP_NAME",
        "pull_request": "DRONE_PULL_REQUEST",
        "actor": "DRONE_COMMIT_AUTHOR",
    },
    "codebuild": {
        "mark": "CODEBUILD_BUILD_ID",
        "build_url": "{CODEBUILD_BUILD_URL}",
        "branch": "CODEBUILD_WEBHOOK_HEAD_REF",
        "commit": "CODEBUILD_RESOLVED_SOURCE_VERSION",
        "actor": "CODEBUILD_INITIATOR",
    },
    "appveyor": {
        "mark": "APPVEYOR",
        "build_url": "{APPVEYOR_URL}/project/{APPVEYOR_ACCOUNT_NAME}/{APPVEYOR_PROJECT_SLUG}"
        "/builds/{APPVEYOR_BUILD_ID}",
        "branch": "APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH APPVEYOR_REPO_BRANCH",
        "commit": "APPVEYOR_PULL_REQUEST_HEAD_COMMIT APPVEYOR_REPO_COMMIT",
        "job": "APPVEYOR_JOB_NAME",
        "pull_request": "APPVEYOR_PULL_REQUEST_NUMBER",
        "actor": "APPVEYOR_REPO_COMMIT_AUTHOR",
    },
    "semaphore": {
        "mark": "SEMAPHORE",
        "build_url": "{SEMAPHORE_ORGANIZATION_URL}/workflows/{SEMAPHORE_WORKFLOW_ID}",
        "branch": "SEMAPHORE_GIT_PR_BRANCH SEMAPHORE_GIT_WORKING_BRANCH SEMAPHORE_GIT_BRANCH",
        "commit": "SEMAPHORE_GIT_PR_SHA SEMAPHORE_GIT_SHA",
        "job": "SEMAPHORE_JOB_NAME",
        "pull_request": "SEMAPHORE_GIT_PR_NUMBER",
        "actor": "SEMAPHORE_GIT_COMMIT_AUTHOR",
    },
    "bamboo": {
        "mark": "bamboo_buildKey",
        "build_url": "{bamboo_buildResultsUrl}",
        "branch": "bamboo_repository_pr_sourceBranch bamboo_planRepository_branchName",
        "commit": "bamboo_planRepository_revision",
        "job": "bamboo_shortJobName",
        "pull_request": "bamboo_repository_pr_key",
        "actor": "bamboo_ManualBuildTriggerReason_userName",
    },
    "jenkins": {
        "mark": "JENKINS_URL",
        "build_url": "{BUILD_URL}",
        "branch": "CHANGE_BRANCH BRANCH_NAME GIT_BRANCH",
        "commit": "GIT_COMMIT",
        "job": "JOB_NAME",
        "pull_request": "CHANGE_ID",
        "actor": "BUILD_USER_ID CHANGE_AUTHOR",
    },
}
_MAX_PAYLOAD = 1 << 20  # bytes; GitHub's are smaller


def _value(key: str, source: str, environ: Mapping[str, str]) -> str:
    if key == "build_url":
        return _fill_url(source, environ)
    value = next((environ[name] for name in source.split() if environ.get(name)), "")
    if key == "branch":
        for prefix in ("refs/heads/", "refs/tags/", "origin/"):  # of Git references, and of Jenkins' Git plugin
            value = value.removeprefix(prefix)
    elif key == "pull_request":
        value = "" if value == "false" else value.rpartition("/")[2]  # CircleCI has a URL
    return value


def _of_github_payload(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a pull request's commit and number from GitHub's event file: GITHUB_SHA is a temporary merge commit."""
    path = environ.get("GITHUB_EVENT_PATH")
    if not path:
        return {}
    import json

    from event import _files

    try:
        content = _files.read_regular(path, limit=_MAX_PAYLOAD)
        pull_request: Any = json.loads(content)["pull_request"]
        return {"commit": str(pull_request["head"]["sha"]), "pull_request": str(pull_request["number"])}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}  # not a pull request


def _fill_url(pattern: str, environ: Mapping[str, str]) -> str:
    """Return a URL with each ``{NAME}`` replaced by the variable; empty if one of them is not set."""
    try:
        url = pattern.format_map({name: value for name, value in environ.items() if value})
    except KeyError:
        return ""
    # A project's name may contain a space. Other characters remain, since a variable may contain a URL.
    return url.replace(" ", "%20")
