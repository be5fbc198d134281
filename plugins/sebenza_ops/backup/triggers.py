"""The passive wait of a backup, in the triggerer: until a detached job on a database host has ended."""

from __future__ import annotations

from sebenza_ops.systems.host_script_wait import HostScriptWait


class JobEndedTrigger(HostScriptWait):
    """Waits until dump_status.sh no longer says "running". A host that can't be asked is asked again."""

    def missing(self, answers: dict[str, str | None]) -> list[str]:
        """The hosts on which the job works, or that do not answer."""
        return [
            f"{name}: {'no answer' if text is None else 'it works'}"
            for name, text in answers.items()
            if text is None or text.partition("\n")[0] in {"running", ""}
        ]
