"""Build data from the environment of each CI system. The values follow the systems' documentation."""

from __future__ import annotations

import pytest

from event._formats.notice import notice_of
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
        pytest.param(
            {**JENKINS, **GITLAB}, "gitlab", "https://gitlab.example.com/a/b/-/jobs/50", "v1", id="two systems"
        ),
    ],
)
def test_build_is_read_from_the_environment_of_each_system(environ, system, url, branch):
    assert ci.build(environ) == {"system": system, "build_url": url, "branch": branch, "commit": SHA}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="none"),
        pytest.param({"CI": "true"}, id="an unknown system"),
        pytest.param({"GITHUB_ACTIONS": "", "GITHUB_SHA": SHA}, id="an empty variable"),
    ],
)
def test_no_build_is_found_outside_a_known_system(environ):
    assert ci.build(environ) == {}


def test_missing_build_variables_are_omitted():
    """This includes the parts of a URL: an incomplete URL is useless."""
    assert ci.build({"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com"}) == {"system": "github"}
    assert ci.build({"JENKINS_URL": "x", "GIT_COMMIT": SHA}) == {"system": "jenkins", "commit": SHA}


ACTIONS = "https://github.com/octocat/Hello-World/actions/runs/1658821493"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param(
            {**GITHUB, "GITHUB_JOB": "test", "GITHUB_RUN_ATTEMPT": "2"},
            {"system": "github", "build_url": ACTIONS, "branch": "main", "commit": SHA, "job": "test", "attempt": "2"},
            id="GitHub",
        ),
        pytest.param({**GITHUB, "GITEA_ACTIONS": "true"}, {"system": "gitea", "commit": SHA}, id="Gitea"),
        pytest.param({**GITHUB, "FORGEJO_ACTIONS": "true"}, {"system": "forgejo", "commit": SHA}, id="Forgejo"),
        pytest.param(
            {
                **GITLAB,
                "CI_COMMIT_SHA": "0" * 40,
                "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": SHA,
                "CI_JOB_NAME": "unit",
                "CI_MERGE_REQUEST_IID": "7",
            },
            {"system": "gitlab", "commit": SHA, "job": "unit", "pull_request": "7"},
            id="GitLab, merged result",
        ),
        pytest.param(
            {
                **AZURE,
                "BUILD_SOURCEVERSION": "0" * 40,
                "SYSTEM_PULLREQUEST_SOURCECOMMITID": SHA,
                "SYSTEM_JOBDISPLAYNAME": "Unit tests",
                "SYSTEM_JOBATTEMPT": "1",
                "SYSTEM_PULLREQUEST_PULLREQUESTID": "12",
            },
            {"system": "azure", "commit": SHA, "job": "Unit tests", "attempt": "1", "pull_request": "12"},
            id="Azure, pull request",
        ),
        pytest.param(
            {**TRAVIS, "TRAVIS_PULL_REQUEST": "false"}, {"system": "travis", "pull_request": None}, id="Travis, branch"
        ),
        pytest.param(
            {"CIRCLECI": "true", "CIRCLE_JOB": "b", "CIRCLE_PULL_REQUEST": "https://github.com/a/b/pull/9"},
            {"system": "circleci", "job": "b", "pull_request": "9"},
            id="CircleCI, pull request",
        ),
        pytest.param(
            {"TEAMCITY_VERSION": "2025.1", "BUILD_VCS_NUMBER": SHA, "TEAMCITY_BUILDCONF_NAME": "Unit"},
            {"system": "teamcity", "commit": SHA, "job": "Unit"},
            id="TeamCity",
        ),
        pytest.param(
            {
                "CI": "woodpecker",
                "CI_PIPELINE_URL": "https://ci.example.com/repos/1/pipeline/8",
                "CI_COMMIT_SOURCE_BRANCH": "fix",
                "CI_COMMIT_BRANCH": "main",
                "CI_COMMIT_SHA": SHA,
                "CI_COMMIT_PULL_REQUEST": "3",
            },
            {
                "system": "woodpecker",
                "build_url": "https://ci.example.com/repos/1/pipeline/8",
                "branch": "fix",
                "commit": SHA,
                "pull_request": "3",
            },
            id="Woodpecker",
        ),
        pytest.param(
            {"DRONE": "true", "DRONE_BUILD_LINK": "https://drone.example.com/a/b/4", "DRONE_COMMIT_SHA": SHA},
            {"system": "drone", "build_url": "https://drone.example.com/a/b/4", "commit": SHA},
            id="Drone",
        ),
        pytest.param(
            {
                "CODEBUILD_BUILD_ID": "p:1",
                "CODEBUILD_WEBHOOK_HEAD_REF": "refs/heads/fix",
                "CODEBUILD_RESOLVED_SOURCE_VERSION": SHA,
            },
            {"system": "codebuild", "branch": "fix", "commit": SHA},
            id="CodeBuild",
        ),
        pytest.param(
            {
                "APPVEYOR": "True",
                "APPVEYOR_URL": "https://ci.appveyor.com",
                "APPVEYOR_ACCOUNT_NAME": "a",
                "APPVEYOR_PROJECT_SLUG": "b",
                "APPVEYOR_BUILD_ID": "5",
                "APPVEYOR_REPO_COMMIT": "0" * 40,
                "APPVEYOR_PULL_REQUEST_HEAD_COMMIT": SHA,
                "APPVEYOR_PULL_REQUEST_NUMBER": "6",
            },
            {
                "system": "appveyor",
                "build_url": "https://ci.appveyor.com/project/a/b/builds/5",
                "commit": SHA,
                "pull_request": "6",
            },
            id="AppVeyor, pull request",
        ),
        pytest.param(
            {"SEMAPHORE": "true", "SEMAPHORE_GIT_SHA": "0" * 40, "SEMAPHORE_GIT_PR_SHA": SHA},
            {"system": "semaphore", "commit": SHA},
            id="Semaphore, pull request",
        ),
        pytest.param(
            {"bamboo_buildKey": "A-B-JOB1", "bamboo_planRepository_revision": SHA, "bamboo_shortJobName": "Unit"},
            {"system": "bamboo", "commit": SHA, "job": "Unit"},
            id="Bamboo",
        ),
    ],
)
def test_build_details_are_read_from_the_environment_of_each_system(environ, expected):
    found = ci.build(environ)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        pytest.param(GITHUB, "GITHUB_ACTOR", id="GitHub"),
        pytest.param({**GITHUB, "FORGEJO_ACTIONS": "true"}, "GITHUB_ACTOR", id="Forgejo"),
        pytest.param(GITLAB, "GITLAB_USER_LOGIN", id="GitLab"),
        pytest.param({"BUILDKITE": "true"}, "BUILDKITE_BUILD_CREATOR", id="Buildkite"),
        pytest.param({"CIRCLECI": "true"}, "CIRCLE_USERNAME", id="CircleCI"),
        pytest.param(AZURE, "BUILD_REQUESTEDFOR", id="Azure"),
        pytest.param({"CI": "woodpecker", "CI_COMMIT_AUTHOR": "bob"}, "CI_PIPELINE_AUTHOR", id="Woodpecker"),
        pytest.param({"DRONE": "true"}, "DRONE_COMMIT_AUTHOR", id="Drone"),
        pytest.param({"CODEBUILD_BUILD_ID": "p:1"}, "CODEBUILD_INITIATOR", id="CodeBuild"),
        pytest.param({"APPVEYOR": "True"}, "APPVEYOR_REPO_COMMIT_AUTHOR", id="AppVeyor"),
        pytest.param({"SEMAPHORE": "true"}, "SEMAPHORE_GIT_COMMIT_AUTHOR", id="Semaphore"),
        pytest.param({"bamboo_buildKey": "A-B-JOB1"}, "bamboo_ManualBuildTriggerReason_userName", id="Bamboo"),
        pytest.param({**JENKINS, "CHANGE_AUTHOR": "bob"}, "BUILD_USER_ID", id="Jenkins, with the plugin"),
        pytest.param(JENKINS, "CHANGE_AUTHOR", id="Jenkins, pull request"),
    ],
)
def test_user_who_started_the_build_is_its_actor(environ, variable):
    assert ci.build({**environ, variable: "ann"})["actor"] == "ann"


def test_the_notice_shows_who_started_the_build():
    notice = notice_of({"name": "tests", "ci": ci.build({**GITHUB, "GITHUB_ACTOR": "ann"})})
    assert ("by", "ann") in notice.facts


def test_the_commit_of_a_pull_request_on_github_is_its_heads(tmp_path):
    payload = tmp_path / "event.json"
    payload.write_text(f'{{"pull_request": {{"number": 5, "head": {{"sha": "{SHA}"}}}}}}')
    found = ci.build({**GITHUB, "GITHUB_SHA": "0" * 40, "GITHUB_EVENT_PATH": str(payload)})
    assert (found["commit"], found["pull_request"]) == (SHA, "5")


@pytest.mark.parametrize("payload", ["", "[]", "{}", '{"pull_request": {"head": 1}}', "[" * 9000])
def test_a_payload_without_a_pull_request_changes_nothing(tmp_path, payload):
    path = tmp_path / "event.json"
    path.write_text(payload)
    found = ci.build({**GITHUB, "GITHUB_EVENT_PATH": str(path)})
    assert (found["commit"], found.get("pull_request")) == (SHA, None)
