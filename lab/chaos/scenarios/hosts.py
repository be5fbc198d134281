"""Application hosts: a full disk, a cut in the middle of an installation; markers and map files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab import faults, paths
from lab.chaos.drill import Drill
from lab.chaos.run import Run
from lab.chaos.scenario import Live, Scenario


def _disk_full(drill: Drill) -> None:
    version = drill.stage.next_version(drill.before)
    drill.stage.remove_release("app2", version)
    drill.breaks(faults.fill_disk("app2"))
    run = drill.deploy(version)
    drill.ends(run, "failed")
    drill.expect("disk" in run.errors() or "space" in run.errors(), f"the disk is not named: {run.errors()}")


def _reach_install(drill: Drill) -> Run:
    """A deployment in the middle of unpacking its release on app2."""
    version = drill.stage.next_version(drill.before)
    drill.stage.remove_release("app2", version)
    releases = paths.host_files("app2") / "srv/sebenza/releases"
    leftovers = set(releases.glob(".install-*"))
    run = drill.deploy(version)
    run.until(lambda: bool(set(releases.glob(".install-*")) - leftovers), "the release is being installed on app2")
    return run


def _ssh_cut_in_install(drill: Drill) -> None:
    run = _reach_install(drill)
    drill.breaks(faults.cut("app2", "ssh", reset=True))
    drill.ends(run, "failed")


def _ssh_lost_in_install(drill: Drill) -> None:
    run = _reach_install(drill)
    fault = drill.breaks(faults.cut("app2", "ssh", reset=True))
    faults.mend(fault)
    drill.ends(run, "success")


def _corrupted(target: str, how: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        drill.breaks(faults.corrupt("lb1", target, how))
        if target == "marker":
            drill.breaks(faults.corrupt("app1", target, how))
        run = drill.deploy()
        drill.ends(run, "success")
        drill.expect(
            any("repaired" in text for text in run.timeline()),
            f"the {target} of lb1 was not repaired before the switch",
        )

    return play


MARKERS: Final = ("missing", "empty", "garbage", "wrong")

SCENARIOS: Final = (
    *(
        Scenario(
            name=f"marker-{how}",
            fault=f"the marker is {how} on lb1 and app1 before the deployment",
            expects="the load balancers are asked, the marker is repaired, the run succeeds",
            play=_corrupted("marker", how),
            live=Live.NEW,
        )
        for how in MARKERS
    ),
    *(
        Scenario(
            name=f"map-file-{how}",
            fault=f"HAProxy's map file is {how} on lb1 before the deployment; the running map is right",
            expects="the running map counts, the file is repaired, the run succeeds",
            play=_corrupted("map", how),
            live=Live.NEW,
        )
        for how in ("garbage", "wrong")
    ),
    Scenario(
        name="disk-full-on-app2",
        fault="not a byte is free for releases on app2",
        expects="the run fails before traffic is touched and names the disk",
        play=_disk_full,
        live=Live.OLD,
    ),
    Scenario(
        name="ssh-cut-while-a-release-is-installed",
        fault="SSH to app2 is cut in the middle of the installation, for good",
        expects="the run fails before traffic is touched",
        play=_ssh_cut_in_install,
        live=Live.OLD,
    ),
    Scenario(
        name="ssh-lost-while-a-release-is-installed",
        fault="the SSH connection to app2 breaks in the middle of the installation",
        expects="the step is tried again, and the run succeeds",
        play=_ssh_lost_in_install,
        live=Live.NEW,
    ),
)
