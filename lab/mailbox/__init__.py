"""The lab's mailbox: Slack, PagerDuty, webhook and mail endpoints that keep what they got.

It checks what it receives by the real services' published contracts, so that a message
that the real service would refuse is refused here too. `python -m lab.mailbox` runs it,
`lab.mailbox.client.Mailbox` reads it.
"""
