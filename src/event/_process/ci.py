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

    :param environ: the environment variables
    """
    for name, (mark, url, *sources) in SYSTEMS.items():
        if _matches(mark, environ):
            values = {"build_url": _fill_url(url, environ), **_values(sources, environ)}
            if mark.endswith("_ACTIONS"):
                values |= _of_github_payload(environ)
            return {"system": name, **{key: value for key, value in values.items() if value}}
    return {}


# The order matters: a system that also sets the variables of another comes before it. Jenkins comes last, since its
# agents may inherit the environment of another system.
#
# For each system: the variable, or NAME=VALUE, that identifies it; the build's URL, with {NAME} for a variable; then
# the variables of the branch, commit, job, attempt, pull request and actor. The first one that is set is used.
#
# Jenkins sets BUILD_USER_ID only with its plugin "build user vars". Travis CI and TeamCity provide no actor.
_GITHUB = (
    "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
    "GITHUB_HEAD_REF GITHUB_REF_NAME",
    "GITHUB_SHA",
    "GITHUB_JOB",
    "GITHUB_RUN_ATTEMPT",
    "",
    "GITHUB_ACTOR",
)
SYSTEMS = {
    "forgejo": ("FORGEJO_ACTIONS", *_GITHUB),
    "gitea": ("GITEA_ACTIONS", *_GITHUB),
    "github": ("GITHUB_ACTIONS", *_GITHUB),
    "gitlab": (
        "GITLAB_CI",
        "{CI_JOB_URL}",
        "CI_COMMIT_BRANCH CI_MERGE_REQUEST_SOURCE_BRANCH_NAME CI_COMMIT_REF_NAME",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA CI_COMMIT_SHA",
        "CI_JOB_NAME",
        "",
        "CI_MERGE_REQUEST_IID",
        "GITLAB_USER_LOGIN",
    ),
    "buildkite": (
        "BUILDKITE",
        "{BUILDKITE_BUILD_URL}",
        "BUILDKITE_BRANCH",
        "BUILDKITE_COMMIT",
        "BUILDKITE_LABEL BUILDKITE_STEP_KEY",
        "BUILDKITE_RETRY_COUNT",
        "BUILDKITE_PULL_REQUEST",
        "BUILDKITE_BUILD_CREATOR",
    ),
    "circleci": (
        "CIRCLECI",
        "{CIRCLE_BUILD_URL}",
        "CIRCLE_BRANCH",
        "CIRCLE_SHA1",
        "CIRCLE_JOB",
        "",
        "CIRCLE_PULL_REQUEST",
        "CIRCLE_USERNAME",
    ),
    "azure": (
        "TF_BUILD",
        "{SYSTEM_TEAMFOUNDATIONCOLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
        "SYSTEM_PULLREQUEST_SOURCEBRANCH BUILD_SOURCEBRANCH",
        "SYSTEM_PULLREQUEST_SOURCECOMMITID BUILD_SOURCEVERSION",
        "SYSTEM_JOBDISPLAYNAME SYSTEM_JOBNAME",
        "SYSTEM_JOBATTEMPT",
        "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER SYSTEM_PULLREQUEST_PULLREQUESTID",
        "BUILD_REQUESTEDFOR",
    ),
    "travis": (
        "TRAVIS",
        "{TRAVIS_JOB_WEB_URL}",
        "TRAVIS_PULL_REQUEST_BRANCH TRAVIS_BRANCH",
        "TRAVIS_PULL_REQUEST_SHA TRAVIS_COMMIT",
        "TRAVIS_JOB_NAME TRAVIS_JOB_NUMBER",
        "",
        "TRAVIS_PULL_REQUEST",
        "",
    ),
    "bitbucket": (
        "BITBUCKET_BUILD_NUMBER",
        "https://bitbucket.org/{BITBUCKET_REPO_FULL_NAME}/pipelines/results/{BITBUCKET_BUILD_NUMBER}",
        "BITBUCKET_BRANCH",
        "BITBUCKET_COMMIT",
        "",
        "BITBUCKET_STEP_RUN_NUMBER",
        "BITBUCKET_PR_ID",
        "",
    ),
    "teamcity": ("TEAMCITY_VERSION", "{BUILD_URL}", "", "BUILD_VCS_NUMBER", "TEAMCITY_BUILDCONF_NAME", "", "", ""),
    "woodpecker": (
        "CI=woodpecker",
        "{CI_PIPELINE_URL}",
        "CI_COMMIT_SOURCE_BRANCH CI_COMMIT_BRANCH",
        "CI_COMMIT_SHA",
        "CI_STEP_NAME",
        "",
        "CI_COMMIT_PULL_REQUEST",
        "CI_PIPELINE_AUTHOR CI_COMMIT_AUTHOR",
    ),
    "drone": (
        "DRONE",
        "{DRONE_BUILD_LINK}",
        "DRONE_SOURCE_BRANCH DRONE_COMMIT_BRANCH",
        "DRONE_COMMIT_SHA",
        "DRONE_STEP_NAME",
        "",
        "DRONE_PULL_REQUEST",
        "DRONE_COMMIT_AUTHOR",
    ),
    "codebuild": (
        "CODEBUILD_BUILD_ID",
        "{CODEBUILD_BUILD_URL}",
        "CODEBUILD_WEBHOOK_HEAD_REF",
        "CODEBUILD_RESOLVED_SOURCE_VERSION",
        "",
        "",
        "",
        "CODEBUILD_INITIATOR",
    ),
    "appveyor": (
        "APPVEYOR",
        "{APPVEYOR_URL}/project/{APPVEYOR_ACCOUNT_NAME}/{APPVEYOR_PROJECT_SLUG}/builds/{APPVEYOR_BUILD_ID}",
        "APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH APPVEYOR_REPO_BRANCH",
        "APPVEYOR_PULL_REQUEST_HEAD_COMMIT APPVEYOR_REPO_COMMIT",
        "APPVEYOR_JOB_NAME",
        "",
        "APPVEYOR_PULL_REQUEST_NUMBER",
        "APPVEYOR_REPO_COMMIT_AUTHOR",
    ),
    "semaphore": (
        "SEMAPHORE",
        "{SEMAPHORE_ORGANIZATION_URL}/workflows/{SEMAPHORE_WORKFLOW_ID}",
        "SEMAPHORE_GIT_PR_BRANCH SEMAPHORE_GIT_WORKING_BRANCH SEMAPHORE_GIT_BRANCH",
        "SEMAPHORE_GIT_PR_SHA SEMAPHORE_GIT_SHA",
        "SEMAPHORE_JOB_NAME",
        "",
        "SEMAPHORE_GIT_PR_NUMBER",
        "SEMAPHORE_GIT_COMMIT_AUTHOR",
    ),
    "bamboo": (
        "bamboo_buildKey",
        "{bamboo_buildResultsUrl}",
        "bamboo_repository_pr_sourceBranch bamboo_planRepository_branchName",
        "bamboo_planRepository_revision",
        "bamboo_shortJobName",
        "",
        "bamboo_repository_pr_key",
        "bamboo_ManualBuildTriggerReason_userName",
    ),
    "jenkins": (
        "JENKINS_URL",
        "{BUILD_URL}",
        "CHANGE_BRANCH BRANCH_NAME GIT_BRANCH",
        "GIT_COMMIT",
        "JOB_NAME",
        "",
        "CHANGE_ID",
        "BUILD_USER_ID CHANGE_AUTHOR",
    ),
}
_MAX_PAYLOAD = 1 << 20  # bytes; GitHub's are smaller


def _matches(mark: str, environ: Mapping[str, str]) -> bool:
    name, equals, value = mark.partition("=")
    return environ.get(name) == value if equals else bool(environ.get(name))


def _values(sources: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    branch, commit, job, attempt, pull_request, actor = (_first(names, environ) for names in sources)
    number = pull_request.rpartition("/")[2]  # CircleCI has a URL
    return {
        "branch": _short_branch(branch),
        "commit": commit,
        "job": job,
        "attempt": attempt,
        "pull_request": "" if number == "false" else number,
        "actor": actor,
    }


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


def _first(names: str, environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in names.split() if environ.get(name)), "")


def _fill_url(pattern: str, environ: Mapping[str, str]) -> str:
    """Return a URL with each ``{NAME}`` replaced by the variable; empty if one of them is not set."""
    text = ""
    for part in pattern.split("{"):
        name, brace, rest = part.partition("}")
        value = environ.get(name, "") if brace else name
        if brace and not value:
            return ""
        # A project's name may contain a space. Other characters remain, since a variable may contain a URL.
        text += value.replace(" ", "%20") + rest
    return text


def _short_branch(branch: str) -> str:
    """Return a branch without the prefixes of Git references and of Jenkins' Git plugin."""
    for prefix in ("refs/heads/", "refs/tags/", "origin/"):
        branch = branch.removeprefix(prefix)
    return branch
