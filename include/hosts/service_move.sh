# STATE_DIR ENVIRONMENT TOKEN HOLDER COMMAND...: runs the service manager's command, unless a later change holds the host.
fence "$1" "$2" "$3" "$4"
shift 4
# Without the lock's descriptor: what it starts must not keep the next change out.
"$@" 9>&-
