"""The formats that events travel in.

============= ========================================================================
module        holds
============= ========================================================================
`address`     `Mailbox`, `parse_mailboxes`, `format_mailboxes`: mail addresses
`attachments` `fit`: which attachments a mail has room for, and in which form
`mail`        `Mail`: an event as a mail
`cloudevents` `as_cloudevent`, `as_cdevent`, `as_json`: an event as JSON for HTTP
============= ========================================================================
"""
