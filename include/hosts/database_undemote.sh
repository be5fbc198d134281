# database_undemote.sh STATE_DIR ENVIRONMENT TOKEN HOLDER DATA: takes database_demote.sh back: at its next start it is a primary.
fence "$1" "$2" "$3" "$4"
rm -f "$5/standby.signal"
# The guard (database-guard.sh) lets its next start be, also when the other site is silent: the run knows who is the primary.
: >"$1/start-alone"
sync "$5"
