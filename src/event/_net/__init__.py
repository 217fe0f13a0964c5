"""The network: deadlines, proxies, and the clients of HTTP, SMTP, S3 and OTLP, for all handlers.

================== ===================================================================
module             contents
================== ===================================================================
`deadline`         `Deadline`, and sockets whose waits end at a deadline
`hostname`         `to_ascii`: convert a host name for DNS (IDNA 2008)
`proxies`          `proxy_for`: the one rule for ``HTTPS_PROXY``, ``NO_PROXY`` and others
`http`             `Client`, `Target`, `Response`: POST over persistent connections
`webhook`          `sign`: the headers of Standard Webhooks
`apprise_service`  `AppriseService`: send a message to a service that Apprise supports
`guarded_requests` `guard`: apply the rules of our HTTP client to Apprise's requests
`mail_server`      `MailServer`: an SMTP server's address, encryption and account
`smtp`             `hand_over`: one SMTP session
`s3`               `Store`: upload, download and check objects in S3
`s3_transport`     `S3Transport`: send the requests of boto3
`otlp`             `make_span`, `export`: send spans to an OpenTelemetry receiver
================== ===================================================================
"""
