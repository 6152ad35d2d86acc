#!/bin/sh
# Installs Holdfast, and what the locks here name by hash, into a virtual environment: build.sh FOLDER [LOCK]
# Only wheels are taken, so nothing is compiled; pip stays outside, so the result cannot install anything.
set -eu
cd "$(dirname "$0")/../.."
folder=${1:?"Say into which folder: build.sh FOLDER [LOCK]"}
lock=${2:-runtime.lock}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tools"
pip() { "$work/tools/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet "$@"; }
pip install --require-hashes --only-binary :all: -r deploy/docker/build.lock
pip wheel --no-deps --no-build-isolation --wheel-dir "$work" .

"$python" -m venv --without-pip "$folder"
pip --python "$folder/bin/python" install --require-hashes --only-binary :all: -r "deploy/docker/$lock"
pip --python "$folder/bin/python" install --no-deps --no-index "$work"/holdfast-*.whl
