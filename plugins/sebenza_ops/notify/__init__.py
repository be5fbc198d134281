"""Who is told: messages from runs to people, over Slack, PagerDuty, email and webhooks.

`routing` decides who, `messages` what, `outbox` keeps and delivers; one module a channel knows how.
"""
