"""The formats in which events are sent.

============= ========================================================================
module        contents
============= ========================================================================
`address`     `Mailbox`, `parse_mailboxes`, `format_mailboxes`: mail addresses
`attachments` `fit`: choose the attachments that fit into a mail, and their form
`notice`      `Notice`: an event's content for a recipient
`notice_html` a notice as HTML
`digest`      `digest_of`: one notice about many events
`chat`        `ChatMessage`: a notice for chat services
`mentions`    `without_mentions`: event data that mentions no one in a chat
`template`    `fill`: templates for titles and bodies
`mail`        `Mail`: a notice as a mail
`cloudevents` `as_cloudevent`, `as_cdevent`, `as_json`: an event as JSON for HTTP
============= ========================================================================
"""
