# repository_close.sh WORK_DIR JOB: removes what repository_open.sh has made. Prints "closed" or "absent".
case $2 in '' | */* | .*) fail "'$2' is no job" ;; esac
[ -e "$1/$2/pgbackrest.conf" ] || { echo absent; exit 0; }
rm -rf "$1/$2/pgbackrest.conf" "$1/$2/pg"
echo closed
