# build_audit.sh REPOSITORY SHA NODE_BIN_DIR: npm's audit of a commit's dependencies, as JSON. Installs nothing.
_work=$(mktemp -d)
trap 'rm -rf "$_work"' EXIT
git --git-dir "$1" archive "$2" package.json package-lock.json | tar -x -C "$_work"
PATH=$3:$PATH
export PATH
cd "$_work"
# It exits 1 for vulnerabilities and for a registry that has no audit alike: what it says decides.
npm audit --package-lock-only --omit=dev --json --cache "$_work/cache" --fetch-retries 1 --fetch-timeout 20000 2>/dev/null || true
