"""Load balancers that can't be reached, are reloaded, or are restarted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from lab import faults
from lab.chaos.drill import Drill
from lab.chaos.moments import ALL, BAKING, BETWEEN, STARTS, STEPS, SWITCH_TASK, Moment
from lab.chaos.scenario import IN_WINDOWS, Live, Scenario

_BEFORE: Final = STARTS[STEPS.index(SWITCH_TASK)]
# lb2 could not be told: its files are written when it is back.
_LB2_BEHIND: Final = (("lb2: ", "lb2 can't be told while it is cut off"),)


def _ssh_cut_before(drill: Drill) -> None:
    run = drill.deploy()
    _BEFORE.reach(drill, run)
    drill.breaks(faults.cut("lb2", "ssh"))
    drill.ends(run, "failed")


def _ssh_cut_after_first(drill: Drill) -> None:
    """The command to lb2 is on its way, waits there, and is done after the connection is gone: unknown outcome."""
    run = drill.deploy()
    BETWEEN.reach(drill, run)
    drill.breaks(faults.cut("lb2", "ssh"))
    # The lock of lb2 is let go only at the end: lb2 never switches.
    drill.ends(run, "failed")


def _ssh_cut_and_command_done(drill: Drill) -> None:
    run = drill.deploy()
    BETWEEN.reach(drill, run)
    fault = faults.cut("lb2", "ssh")
    drill.stack.close()
    drill.breaks(fault)
    drill.until(lambda: drill.stage.colors()["lb2"] == drill.new_color, "lb2 switches although nobody hears of it", 20)
    drill.ends(run, "failed")


def _killed_before(drill: Drill) -> None:
    run = drill.deploy()
    _BEFORE.reach(drill, run)
    with drill.window("lb2"):
        fault = drill.breaks(faults.kill("lb2"))
        drill.ends(run, "failed")
        faults.mend(fault, wait_for_health=True)


def _killed_after_first(drill: Drill) -> None:
    run = drill.deploy()
    BETWEEN.reach(drill, run)
    window = drill.window("lb2")
    drill.stack.enter_context(window)
    drill.breaks(faults.kill("lb2"))
    drill.ends(run, "failed")


def _cut_in_bake_and_back(drill: Drill) -> None:
    run = drill.deploy(bake_seconds=10)
    BAKING.reach(drill, run)
    fault = drill.breaks(faults.cut("lb2", "ssh"))
    run.until(lambda: bool(run.progress().get("hold_since")), "the bake holds")
    faults.mend(fault)
    drill.ends(run, "success")


def _cut_in_bake(drill: Drill) -> None:
    run = drill.deploy(bake_seconds=10)
    BAKING.reach(drill, run)
    drill.breaks(faults.cut("lb2", "ssh"))
    drill.ends(run, "failed")


def _at(moment: Moment, action: Callable[[str], None]) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        run = drill.deploy(bake_seconds=8)
        moment.reach(drill, run)
        _do(drill, action, "lb1")
        drill.stack.close()
        drill.ends(run, "success", "failed")

    return play


def _do(drill: Drill, action: Callable[[str], None], name: str) -> None:
    began = time.monotonic()
    with drill.window(name):
        action(name)
    drill.note(f"{name} back after {time.monotonic() - began:.1f} s")


_ACTIONS: Final[dict[str, tuple[Callable[[str], None], str]]] = {
    "reloaded": (faults.reload_haproxy, "is reloaded, as by a certificate renewal,"),
    "restarted": (faults.restart_haproxy, "is restarted, as by a package upgrade,"),
}

_UNREACHABLE: Final = (
    Scenario(
        name="lb2-ssh-cut-before-the-switch",
        fault="SSH to lb2 is cut as the switch task starts",
        expects="nothing is switched; the run fails",
        play=_ssh_cut_before,
        live=Live.OLD,
    ),
    Scenario(
        name="lb2-ssh-cut-after-the-first-switch",
        fault="SSH to lb2 is cut after lb1 has switched; lb2 never gets to switch",
        expects="lb1 is switched back, and lb2's answers prove that it never moved; the run fails",
        play=_ssh_cut_after_first,
        live=Live.OLD,
        may_split=True,
    ),
    Scenario(
        name="lb2-ssh-cut-and-its-command-done",
        fault="SSH to lb2 is cut after lb1 has switched, and lb2 carries the command out later, unheard",
        expects="lb1 is switched back, or the split is declared with what to do",
        play=_ssh_cut_and_command_done,
        live=Live.EITHER,
        may_split=True,
    ),
    Scenario(
        name="lb2-killed-before-the-switch",
        fault="everything on lb2 is killed as the switch task starts",
        expects="nothing is switched; the run fails",
        play=_killed_before,
        live=Live.OLD,
        excuse=IN_WINDOWS,
    ),
    Scenario(
        name="lb2-killed-after-the-first-switch",
        fault="everything on lb2 is killed after lb1 has switched",
        expects="lb1 is switched back; that lb2 can't be reached is declared with what to do",
        play=_killed_after_first,
        live=Live.OLD,
        excuse=IN_WINDOWS,
        may_split=True,
        tolerates=(("lb2", "lb2 is dead"), ("load balancers disagree", "lb2 is dead")),
    ),
    Scenario(
        name="lb2-ssh-cut-in-the-bake-and-back",
        fault="SSH to lb2 is cut in the bake, and comes back while the bake holds",
        expects="the bake holds without data, goes on, and the run succeeds",
        play=_cut_in_bake_and_back,
        live=Live.NEW,
    ),
    Scenario(
        name="lb2-ssh-cut-in-the-bake",
        fault="SSH to lb2 is cut in the bake, for good",
        expects="after the hold time lb1 is switched back, and the split is declared with what to do",
        play=_cut_in_bake,
        live=Live.EITHER,
        may_split=True,
        tolerates=_LB2_BEHIND,
    ),
)

SCENARIOS: Final = (
    *_UNREACHABLE,
    *(
        Scenario(
            name=f"haproxy-{name}-{moment.name}",
            fault=f"HAProxy {words} on lb1, {moment.words}",
            expects="a switch that was lost is made anew, or all is as before and the run fails",
            play=_at(moment, action),
            live=Live.EITHER,
            excuse=IN_WINDOWS,
        )
        for name, (action, words) in _ACTIONS.items()
        for moment in ALL
    ),
)
