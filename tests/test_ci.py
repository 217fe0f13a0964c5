"""What each CI system says of its build. The values are of the shape that the systems' documentation shows."""

from __future__ import annotations

import pytest

from event._process import ci

SHA = "ffac537e6cbbf934b08745a378932722df287a53"
GITHUB = {
    "CI": "true",
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "octocat/Hello-World",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_REF_NAME": "main",
    "GITHUB_HEAD_REF": "",
    "GITHUB_SHA": SHA,
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_JOB_URL": "https://gitlab.example.com/a/b/-/jobs/50",
    "CI_COMMIT_REF_NAME": "v1",
    "CI_COMMIT_SHA": SHA,
}
JENKINS = {
    "JENKINS_URL": "https://ci.example.com/",
    "BUILD_URL": "https://ci.example.com/job/x/7/",
    "GIT_BRANCH": "origin/main",
    "GIT_COMMIT": SHA,
}
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": "https://dev.azure.com/fabrikam/",
    "SYSTEM_TEAMPROJECT": "My Project",
    "BUILD_BUILDID": "25",
    "BUILD_SOURCEBRANCH": "refs/heads/release/1.0",
    "BUILD_SOURCEVERSION": SHA,
}
TRAVIS = {
    "TRAVIS": "true",
    "TRAVIS_JOB_WEB_URL": "https://app.travis-ci.com/a/b/jobs/3",
    "TRAVIS_BRANCH": "main",
    "TRAVIS_PULL_REQUEST_BRANCH": "",
    "TRAVIS_COMMIT": SHA,
}


@pytest.mark.parametrize(
    ("environ", "system", "url", "branch"),
    [
        pytest.param(
            GITHUB, "github", "https://github.com/octocat/Hello-World/actions/runs/1658821493", "main", id="GitHub"
        ),
        pytest.param(
            {**GITHUB, "GITHUB_HEAD_REF": "fix", "GITHUB_REF_NAME": "5/merge"},
            "github",
            "https://github.com/octocat/Hello-World/actions/runs/1658821493",
            "fix",
            id="GitHub, pull request",
        ),
        pytest.param(GITLAB, "gitlab", "https://gitlab.example.com/a/b/-/jobs/50", "v1", id="GitLab, tag"),
        pytest.param(
            {
                **GITLAB,
                "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "fix",
                "CI_COMMIT_REF_NAME": "refs/merge-requests/1/head",
            },
            "gitlab",
            "https://gitlab.example.com/a/b/-/jobs/50",
            "fix",
            id="GitLab, merge request",
        ),
        pytest.param(JENKINS, "jenkins", "https://ci.example.com/job/x/7/", "main", id="Jenkins"),
        pytest.param(
            {**JENKINS, "CHANGE_BRANCH": "fix", "BRANCH_NAME": "PR-4"},
            "jenkins",
            "https://ci.example.com/job/x/7/",
            "fix",
            id="Jenkins, pull request",
        ),
        pytest.param(
            {
                "BUILDKITE": "true",
                "BUILDKITE_BUILD_URL": "https://buildkite.com/a/b/builds/1514",
                "BUILDKITE_BRANCH": "main",
                "BUILDKITE_COMMIT": SHA,
            },
            "buildkite",
            "https://buildkite.com/a/b/builds/1514",
            "main",
            id="Buildkite",
        ),
        pytest.param(
            {
                "CIRCLECI": "true",
                "CIRCLE_BUILD_URL": "https://circleci.com/gh/a/b/22",
                "CIRCLE_BRANCH": "main",
                "CIRCLE_SHA1": SHA,
            },
            "circleci",
            "https://circleci.com/gh/a/b/22",
            "main",
            id="CircleCI",
        ),
        pytest.param(
            AZURE,
            "azure",
            "https://dev.azure.com/fabrikam/My%20Project/_build/results?buildId=25",
            "release/1.0",
            id="Azure",
        ),
        pytest.param(
            {**AZURE, "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/fix", "BUILD_SOURCEBRANCH": "refs/pull/1/merge"},
            "azure",
            "https://dev.azure.com/fabrikam/My%20Project/_build/results?buildId=25",
            "fix",
            id="Azure, pull request",
        ),
        pytest.param(TRAVIS, "travis", "https://app.travis-ci.com/a/b/jobs/3", "main", id="Travis"),
        pytest.param(
            {**TRAVIS, "TRAVIS_PULL_REQUEST_BRANCH": "fix", "TRAVIS_COMMIT": "0" * 40, "TRAVIS_PULL_REQUEST_SHA": SHA},
            "travis",
            "https://app.travis-ci.com/a/b/jobs/3",
            "fix",
            id="Travis, pull request",
        ),
        pytest.param(
            {
                "BITBUCKET_BUILD_NUMBER": "9",
                "BITBUCKET_REPO_FULL_NAME": "a/b",
                "BITBUCKET_BRANCH": "main",
                "BITBUCKET_COMMIT": SHA,
            },
            "bitbucket",
            "https://bitbucket.org/a/b/pipelines/results/9",
            "main",
            id="Bitbucket",
        ),
        pytest.param({**JENKINS, **GITLAB}, "gitlab", "https://gitlab.example.com/a/b/-/jobs/50", "v1", id="two"),
    ],
)
def test_a_system_tells_its_build(environ, system, url, branch):
    assert ci.build(environ) == {"system": system, "build_url": url, "branch": branch, "commit": SHA}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="none"),
        pytest.param({"CI": "true"}, id="a system that we do not know"),
        pytest.param({"GITHUB_ACTIONS": "", "GITHUB_SHA": SHA}, id="an empty mark"),
    ],
)
def test_outside_of_a_known_system_nothing_is_told(environ):
    assert ci.build(environ) == {}


def test_what_a_system_does_not_tell_is_left_out():
    """A URL with a hole in it leads nowhere."""
    assert ci.build({"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com"}) == {"system": "github"}
    assert ci.build({"JENKINS_URL": "x", "GIT_COMMIT": SHA}) == {"system": "jenkins", "commit": SHA}
