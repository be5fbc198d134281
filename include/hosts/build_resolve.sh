# build_resolve.sh REPOSITORY REF: "SHA VERSION" of a tag, branch or commit. Exit 3: no such ref.
git --git-dir "$1" rev-parse --git-dir >/dev/null || fail "$1 is no git repository that this login can read"
for _name in "refs/tags/$2" "refs/heads/$2" "$2"; do
  if _sha=$(git --git-dir "$1" rev-parse --verify --quiet --end-of-options "$_name^{commit}"); then
    # A tag may hold nearly every character; only plain ones make a version.
    _version=$(git --git-dir "$1" tag --points-at "$_sha" --list 'v*' --sort=version:refname |
      LC_ALL=C grep -xE 'v[A-Za-z0-9._/+-]{1,127}' | head -n 1) || :
    printf '%s %s\n' "$_sha" "${_version:-0.0.0-$(printf %.12s "$_sha")}"
    exit 0
  fi
done
exit 3
