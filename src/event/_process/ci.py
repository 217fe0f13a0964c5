"""The CI system that runs us, and what it says of its build: pure functions of the environment.

Each system documents its variables:

- GitHub Actions (Gitea's and Forgejo's set the same): https://docs.github.com/actions/reference/variables-reference
- GitLab: https://docs.gitlab.com/ci/variables/predefined_variables/
- Jenkins, and its plugin for Git: https://www.jenkins.io/doc/book/pipeline/jenkinsfile/#using-environment-variables
- Buildkite: https://buildkite.com/docs/pipelines/configure/environment-variables
- CircleCI: https://circleci.com/docs/variables/
- Azure Pipelines: https://learn.microsoft.com/azure/devops/pipelines/build/variables
- Travis CI: https://docs.travis-ci.com/user/environment-variables/
- Bitbucket Pipelines: https://support.atlassian.com/bitbucket-cloud/docs/variables-and-secrets/
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def build(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the ``system``, ``build_url``, ``branch`` and ``commit`` of the build that runs us.

    What the system does not tell is left out; outside of CI, the dict is empty. For a pull request, ``branch`` is the
    one that it would merge, where the system tells it.

    :param environ: the environment variables
    """
    for system, (mark, url, branch, commit) in _SYSTEMS.items():
        if environ.get(mark):
            told = {
                "system": system,
                "build_url": _fill_url(url, environ),
                "branch": _short_branch(_first(branch, environ)),
                "commit": _first(commit, environ),
            }
            return {key: value for key, value in told.items() if value}
    return {}


# By which variable a system is known, its build's URL, and where the branch and the commit stand: the first of these
# that is set. Jenkins comes last, since its agents may run in an environment that another system has left.
_SYSTEMS = {
    "github": (
        "GITHUB_ACTIONS",
        "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
        "GITHUB_HEAD_REF GITHUB_REF_NAME",
        "GITHUB_SHA",
    ),
    "gitlab": (
        "GITLAB_CI",
        "{CI_JOB_URL}",
        "CI_COMMIT_BRANCH CI_MERGE_REQUEST_SOURCE_BRANCH_NAME CI_COMMIT_REF_NAME",
        "CI_COMMIT_SHA",
    ),
    "buildkite": ("BUILDKITE", "{BUILDKITE_BUILD_URL}", "BUILDKITE_BRANCH", "BUILDKITE_COMMIT"),
    "circleci": ("CIRCLECI", "{CIRCLE_BUILD_URL}", "CIRCLE_BRANCH", "CIRCLE_SHA1"),
    "azure": (
        "TF_BUILD",
        "{SYSTEM_TEAMFOUNDATIONCOLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
        "SYSTEM_PULLREQUEST_SOURCEBRANCH BUILD_SOURCEBRANCH",
        "BUILD_SOURCEVERSION",
    ),
    "travis": (
        "TRAVIS",
        "{TRAVIS_JOB_WEB_URL}",
        "TRAVIS_PULL_REQUEST_BRANCH TRAVIS_BRANCH",
        "TRAVIS_PULL_REQUEST_SHA TRAVIS_COMMIT",
    ),
    "bitbucket": (
        "BITBUCKET_BUILD_NUMBER",
        "https://bitbucket.org/{BITBUCKET_REPO_FULL_NAME}/pipelines/results/{BITBUCKET_BUILD_NUMBER}",
        "BITBUCKET_BRANCH",
        "BITBUCKET_COMMIT",
    ),
    "jenkins": ("JENKINS_URL", "{BUILD_URL}", "CHANGE_BRANCH BRANCH_NAME GIT_BRANCH", "GIT_COMMIT"),
}


def _first(names: str, environ: Mapping[str, str]) -> str:
    return next((environ[name] for name in names.split() if environ.get(name)), "")


def _fill_url(pattern: str, environ: Mapping[str, str]) -> str:
    """Return a URL, each ``{NAME}`` replaced by the variable; empty where one of them is not set."""
    text = ""
    for part in pattern.split("{"):
        name, brace, rest = part.partition("}")
        value = environ.get(name, "") if brace else name
        if brace and not value:
            return ""
        # A project's name may hold a space; what is a URL already stays one.
        text += value.replace(" ", "%20") + rest
    return text


def _short_branch(branch: str) -> str:
    """Return a branch without what Git's references and Jenkins' plugin for Git put before it."""
    for prefix in ("refs/heads/", "refs/tags/", "origin/"):
        branch = branch.removeprefix(prefix)
    return branch
