"""Why there is no backup, in words for the person on call."""

from __future__ import annotations


class BackupRefusedError(Exception):
    """No backup can be begun as things are; nothing was started. The message says what to mend."""


class BackupFailedError(Exception):
    """A part of the backup has failed. What was there before is there still; another try may do."""


class BackupDamagedError(Exception):
    """What was backed up can't be restored from: it was read back and is not right. Another try is no help."""
