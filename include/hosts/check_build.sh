# check_build.sh REPOSITORY NODE_BIN_DIR: the build host's repository and programs. Changes nothing.
printf '== git\n'
git --version 2>&1 || echo '!missing'
printf '== repository\n'
if _tags=$(git --git-dir "$1" tag --list 'v*' 2>&1); then printf 'tags %s\n' "$(printf '%s' "$_tags" | grep -c . || :)"; else printf '!error %s\n' "$_tags"; fi
printf '== node\n'
"$2/node" --version 2>&1 || echo '!missing'
printf '== npm\n'
PATH=$2:$PATH npm --version 2>&1 || echo '!missing'
