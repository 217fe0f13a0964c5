"""The network: deadlines, proxies and one HTTP client, for all handlers.

============= ========================================================================
module        holds
============= ========================================================================
`deadline`    `Deadline`, and sockets each of whose waits ends with one
`hostname`    `to_ascii`: a host name as DNS knows it (IDNA 2008)
`apprise_service` `AppriseService`: a service that Apprise knows, which gets one message
`guarded_requests` `guard`: the package requests, in the services of Apprise, under our rules
`http`        `Client`, `Target`, `Response`: POST over kept connections
`proxies`     `proxy_for`: the one rule for ``HTTPS_PROXY``, ``NO_PROXY`` and their kin
`mail_server` `MailServer`: an SMTP server's address, encryption and account
`smtp`        `hand_over`: one SMTP session
`s3`          `Store`: objects in S3, stored, fetched and checked
`s3_transport` `S3Transport`: how the client of `s3` sends its requests
`webhook`     `sign`: the headers of Standard Webhooks
`otlp`        `Exporter`: spans to an OpenTelemetry receiver
============= ========================================================================
"""
