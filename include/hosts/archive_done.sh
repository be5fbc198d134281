# archive_done.sh STATE_DIR ENVIRONMENT TOKEN HOLDER USER WORK_DIR RUN: removes what was unpacked beside; what was moved aside stays.
fence "$1" "$2" "$3" "$4"
chown "$5:" "$1/fence-$2" "$1/fence-$2.lock"
exec 8>>"$6/lock"
flock -w 5 8 || exit 0
rm -rf "${6:?}/${7:?}"
