#!/usr/bin/env bash
# Run the tests, in halves: `test.sh test|mutation|e2e|soak [PYTEST ARGUMENT…]`. Root runs everything that is not a
# plain user's alone, then, as a user made for it, what is marked `user`. Anybody else runs all that needs no root.
# The end of the output is one summary of both: skips with reasons, and "N passed, N failed, N skipped".
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
exec </dev/null
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES ARGS # a test may run make itself

suite=$1
shift
case $suite in
  test) selection="not e2e and not soak and not mutation" ;;
  mutation | e2e | soak) selection=$suite ;;
  *) echo "test.sh: unknown suite $suite" >&2; exit 2 ;;
esac
# Files side by side: most tests wait for processes. Mutants and long counts have the machine to themselves.
workers=$(nproc)
[ "$suite" = test ] && options=(-n "$((workers < 4 ? workers : 4))" --dist loadfile) || options=()
# what is counted for hours is not stuck: no stacks every so often
[ "$suite" != soak ] || options+=(-o faulthandler_timeout=0)
limit=${ALCOVE_TEST_LIMIT:-$([ "$suite" = soak ] && echo 21600 || echo 1500)} # seconds for a half

[ "$suite" != test ] || scripts/test-setup.sh
scripts/setup.sh dev
VENV=$(realpath -m "${VENV:-.venv}")
export VENV
python=$VENV/bin/python
results=$PWD/build/results/$suite-$$ # two runs in one checkout do not meet
mkdir -p "$results"
run=$(mktemp -d /tmp/alcove-run.XXXXXX) # of the plain user's half
status=0

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  rm -rf --one-file-system "$run"
  [ -n "${CI:-}" ] || rm -rf "$results" # .ci/run adds up what each suite left
}
trap clean_up EXIT

note() { # a half's exit code; "no tests collected" is for the summary to judge
  case $2 in
    0 | 5) return ;;
    124 | 137) echo "the $1 half did not end within $limit s" ;;
    *) echo "the $1 half ended with pytest's exit code $2" ;;
  esac
  status=1
}

half_here() {
  local name=$1 code=0
  shift
  echo "== $suite: as $(id -un)"
  timeout --foreground --kill-after=30 "$limit" "$python" -m pytest -m "$selection" "${options[@]}" \
    --junitxml="$results/$name.xml" "$@" || code=$?
  note "$name" "$code"
}

prepare_user() { # before the root half, whose tests also run things as that user
  local place
  ALCOVE_TEST_USER=$(scripts/plain-user.sh)
  place=$(scripts/user-python.sh "$ALCOVE_TEST_USER")
  { read -r user_tree && read -r ALCOVE_TEST_USER_PYTHON; } <<<"$place"
  export ALCOVE_TEST_USER ALCOVE_TEST_USER_PYTHON
}

user_environment() { # nothing of root's, but how this machine reaches its package indexes, and what tests are told
  local name
  chmod 755 "$run"
  mkdir -m 700 "$run"/{home,config,data,state,cache,runtime,tmp,builds,results}
  chown -R "$ALCOVE_TEST_USER:" "$run"/*
  theirs=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
    USER="$ALCOVE_TEST_USER" LOGNAME="$ALCOVE_TEST_USER" HOME="$run/home" TMPDIR="$run/tmp"
    XDG_CONFIG_HOME="$run/config" XDG_DATA_HOME="$run/data" XDG_STATE_HOME="$run/state" XDG_CACHE_HOME="$run/cache"
    XDG_RUNTIME_DIR="$run/runtime" NATIVE_BUILDS="$run/builds" PYTHONDONTWRITEBYTECODE=1
    VENV="$(dirname "$(dirname "$ALCOVE_TEST_USER_PYTHON")")")
  for name in $(compgen -e); do
    case $name in
      CI | ALCOVE_TEST_NATIVE | ALCOVE_TEST_LEAKS | PIP_* | SSL_CERT_* | *_CA_BUNDLE | *_proxy | *_PROXY)
        theirs+=("$name=${!name}") ;;
    esac
  done
}

half_as_user() {
  local code=0 theirs
  user_environment
  echo "== $suite: as $ALCOVE_TEST_USER, with $ALCOVE_TEST_USER_PYTHON"
  (
    cd "$user_tree"
    exec timeout --foreground --kill-after=30 "$limit" \
      setpriv --reuid "$ALCOVE_TEST_USER" --regid "$(id -g "$ALCOVE_TEST_USER")" --init-groups --inh-caps=-all \
      env -i "${theirs[@]}" "$ALCOVE_TEST_USER_PYTHON" -m pytest -m "user and ($selection)" "${options[@]}" \
      -o cache_dir="$run/cache/pytest" --basetemp="$run/tmp/pytest" --junitxml="$run/results/user.xml" "$@"
  ) || code=$?
  [ ! -f "$run/results/user.xml" ] || cp -P "$run/results/user.xml" "$results/user.xml"
  note user "$code"
}

export ALCOVE_TEST_LEAKS=${ALCOVE_TEST_LEAKS:-fail}
if [ "$(id -u)" = 0 ]; then
  prepare_user
  half_here root "$@"
  half_as_user "$@"
  halves="root user"
else
  half_here user "$@"
  echo "not root: the root half was not run"
  halves=user
fi
# Every suite must run something; `make test`, unless tests were picked by hand, in each half.
picked=()
[ $# = 0 ] && [ "$suite" = test ] || picked=(--selected)
"$python" scripts/test_summary.py --expect "$halves" "${picked[@]}" "$results" || status=1
exit $status
