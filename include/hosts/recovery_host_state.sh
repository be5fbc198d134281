# recovery_host_state.sh WORK_DIR DATA_DIR: room for a restore on a database host, as one line of JSON; changes nothing.
# Run as the owner of the cluster.
mkdir -p "$1"
_work=$(df -Pk "$1" | awk 'NR == 2 {print $1, $4}')
_data=$(df -Pk "$(dirname "$2")" | awk 'NR == 2 {print $1, $4}')
_shared=false
[ "${_work% *}" != "${_data% *}" ] || _shared=true
_may=false
[ ! -w "$(dirname "$2")" ] || _may=true
printf '{"work_free_bytes": %s, "data_free_bytes": %s, "one_disk": %s, "may_write_beside": %s, "now": %s}\n' \
  "$((${_work##* } * 1024))" "$((${_data##* } * 1024))" "$_shared" "$_may" "$(date +%s.%N)"
