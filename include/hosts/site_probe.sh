# site_probe.sh SECONDS HOSTNAME TARGET...: what this host reaches; one line each: "TARGET yes|no". Changes nothing.
# TARGET is tcp:ADDRESS:PORT (a connection is enough), or https:ADDRESS:PORT:PATH (HOSTNAME's page answers below 500:
# a load balancer takes connections when nothing is behind it). Certificates are not what is looked at here.
_seconds=$1 _name=$2
shift 2
case $_seconds in '' | *[!0-9]*) fail "'$_seconds' is no number of seconds" ;; esac
_dir=$(mktemp -d)
trap 'rm -rf "$_dir"' EXIT
look() {
  _rest=${1#*:}
  _address=${_rest%%:*}
  _rest=${_rest#*:}
  _port=${_rest%%:*}
  case $1 in
    tcp:*)
      # curl stays connected to the end of its time; when it has connected counts.
      _took=$(curl -s -o /dev/null --max-time "$_seconds" -w '%{time_connect}' "telnet://$_address:$_port" </dev/null) || :
      case ${_took:-0} in 0 | 0.000000) echo no ;; *) echo yes ;; esac
      ;;
    https:*)
      _path=${_rest#*:}
      _status=$(curl -s -k -o /dev/null --max-time "$_seconds" -w '%{http_code}' \
        --connect-to "::$_address:$_port" "https://$_name:$_port$_path") || :
      case ${_status:-000} in [1-4][0-9][0-9]) echo yes ;; *) echo no ;; esac
      ;;
    *) echo no ;;
  esac
}
_number=0
for _target in "$@"; do
  _number=$((_number + 1))
  look "$_target" >"$_dir/$_number" &
done
wait
_number=0
for _target in "$@"; do
  _number=$((_number + 1))
  printf '%s %s\n' "$_target" "$(cat "$_dir/$_number")"
done
