"""The network: deadlines, proxies and one HTTP client, for all handlers.

============  ========================================================================
module        holds
============  ========================================================================
`deadline`    `Deadline`, and sockets each of whose waits ends with one
`http`        `Client`, `Target`, `Answer`: POST over kept connections
`proxies`     `proxy_for`: the one rule for ``HTTPS_PROXY``, ``NO_PROXY`` and their kin
`webhook`     `sign`: the headers of Standard Webhooks
`otlp`        `Exporter`: spans to an OpenTelemetry receiver
============  ========================================================================
"""
