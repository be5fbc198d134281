# build_log.sh REPOSITORY OLD_SHA NEW_SHA: the commits between two releases, newest first, one line each.
git --git-dir "$1" log --no-color --max-count=100 --format='%h %an: %s' "$2..$3" --
