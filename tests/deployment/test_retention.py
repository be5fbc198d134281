"""Which installed releases go: never one that is needed, and no more than there must."""

from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.deployment.retention import releases_to_prune

NAMES = st.lists(st.sampled_from([f"v1.{number}.0" for number in range(12)]), unique=True)


def test_the_newest_stay():
    installed = ["v1.6.0", "v1.5.0", "v1.4.0", "v1.3.0", "v1.2.0", "v1.1.0"]
    assert releases_to_prune(installed, {"v1.6.0"}, 5) == ("v1.1.0",)


def test_a_protected_one_stays_however_old_and_counts():
    installed = ["v1.6.0", "v1.5.0", "v1.4.0", "v1.3.0", "v1.2.0", "v1.1.0"]
    assert releases_to_prune(installed, {"v1.6.0", "v1.1.0"}, 5) == ("v1.2.0",)


@given(
    installed=NAMES,
    protected=st.sets(st.sampled_from([f"v1.{number}.0" for number in range(12)])),
    keep=st.integers(2, 8),
)
def test_nothing_that_is_needed_goes_and_enough_stays(installed, protected, keep):
    gone = releases_to_prune(installed, protected, keep)
    left = [name for name in installed if name not in gone]
    assert not set(gone) & protected
    assert len(left) >= min(keep, len(installed))
    assert len(left) <= max(keep, len(protected & set(installed)))
    # What goes is older than what stays, protected ones aside.
    unprotected = [name for name in installed if name not in protected]
    assert unprotected[len(unprotected) - len(gone) :] == list(gone)
