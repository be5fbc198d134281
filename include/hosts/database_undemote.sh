# database_undemote.sh STATE_DIR ENVIRONMENT TOKEN HOLDER DATA: takes database_demote.sh back: at its next start it is a primary.
fence "$1" "$2" "$3" "$4"
rm -f "$5/standby.signal"
sync "$5"
