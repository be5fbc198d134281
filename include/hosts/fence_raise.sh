# fence_raise.sh STATE_DIR ENVIRONMENT TOKEN HOLDER: from now on lower tokens fail here.
fence "$@"
cat "$1/fence-$2"
