#!/bin/sh
# Makes a virtual environment from hashed constraints, usually by `make setup`:
# sh deploy/setup.sh .venv [constraints.txt]
# Says what is missing and what to type when it can not.
set -eu
venv=$1
constraints=${2:-constraints.txt}
python=${PYTHON:-python3}

fail() { echo "setup: $1" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python here. Type: sudo apt-get install -y python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old, 3.11 is needed. Type: make PYTHON=python3.11 setup"

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "setup: bringing $venv up to date"
    pip() { "$venv/bin/python" -m pip "$@"; }
elif "$python" -c 'import ensurepip' 2>/dev/null; then
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
    pip() { "$venv/bin/python" -m pip "$@"; }
elif "$python" -m pip --version >/dev/null 2>&1; then
    # Debian without python3-venv: an environment can be made, only its own pip is missing.
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --clear --without-pip "$venv"
    pip() { "$python" -m pip --python "$venv/bin/python" "$@"; }
else
    fail "this Python has neither ensurepip nor pip. Type: sudo apt-get install -y python3-venv"
fi

# The files are complete, so nothing is left to resolve.
hashed() { pip install -qq --disable-pip-version-check --no-deps --require-hashes -r "$1"; }
# uv takes a third of pip's time. Where it fails, or pip was told of a mirror, of which uv does not know, pip does it all.
with_uv() {
    case "$(pip config list)" in *.index-url=*) return 1 ;; esac
    sed -n '/^uv==/,/[^\\]$/p' constraints.txt >"$venv/uv.txt"
    hashed "$venv/uv.txt" && "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
        --no-deps --require-hashes --compile-bytecode -r "$constraints"
}

echo "setup: installing $(grep -c '^[a-z]' "$constraints") packages, each checked against its hash (up to two minutes)"
with_uv 2>/dev/null || hashed "$constraints" ||
    fail "pip could not install them; its reason stands above. Is there a network? Behind a mirror, type: PIP_INDEX_URL=https://… make setup"
pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
echo "setup: done"
