#!/usr/bin/env bash
# Installs segray on one host of cluster.yaml, by the pins of constraints.txt. `ray up` runs it on every host; it may be
# run by hand and again: what is there already is left alone. Settings: ~/segray/node.env, which
# cluster.yaml writes, and ~/segray/host.env of the host's own.
set -euo pipefail
shopt -s inherit_errexit

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for settings in "$HOME/segray/node.env" "$HOME/segray/host.env"; do # of all hosts, and of this one
  if [[ -f $settings ]]; then . "$settings"; fi
done
VENV=${SEGRAY_VENV:-$HOME/segray/venv}
PACKAGE=${SEGRAY_PACKAGE:-$SOURCE}
TOKEN=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
STAMP=$VENV/.segray

die() { echo "$(hostname): $*" >&2; exit 1; }

check_token() {
  [[ -s $TOKEN ]] || die "$TOKEN is not there. Run \`ray get-auth-token --generate\` where you run \`ray up\`."
  chmod 600 "$TOKEN" # Ray writes it readable by all
}

check_shared() { # a host that cannot write there would fail hours later
  local shared=${SEGRAY_SHARED:-} probe
  if [[ -z $shared || $shared == *://* ]]; then return 0; fi
  [[ -d $shared ]] || die "the shared folder $shared is not there. Mount it, or change SEGRAY_SHARED in cluster.yaml."
  probe=$shared/.segray-$(hostname)-$$
  (: >"$probe") 2>/dev/null || die "$(id -un) cannot write to $shared. Change its owner or the export's options."
  rm -f "$probe"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

make_venv() {
  local python=${SEGRAY_PYTHON:-python3.11}
  if [[ -x $VENV/bin/python ]]; then
    if [[ -n ${SEGRAY_PYTHON:-} ]] && ! command -v "$python" >/dev/null; then
      echo "$(hostname): SEGRAY_PYTHON is $python, which is not installed; $VENV stays as it is." >&2
      return 0
    fi
    if [[ -z ${SEGRAY_PYTHON:-} || $(version_of "$python") == "$(version_of "$VENV/bin/python")" ]]; then return 0; fi
    die "$VENV has Python $(version_of "$VENV/bin/python"), and SEGRAY_PYTHON is $python." \
      "Name another SEGRAY_VENV in cluster.yaml, or remove that folder on every host."
  fi
  command -v "$python" >/dev/null ||
    die "$python is not installed. Install it, or change SEGRAY_PYTHON in cluster.yaml."
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than Python 3.11."
  "$python" -m venv "$VENV" || die "$python has no venv module. On Debian and Ubuntu: apt-get install $python-venv"
}

fingerprint() { # of all that decides what pip would install
  {
    echo "$PACKAGE ${SEGRAY_PIP_ARGS:-} $("$VENV/bin/python" --version)"
    cat "$SOURCE/constraints.txt"
    if [[ -f $PACKAGE ]]; then cat "$PACKAGE"; else
      cat "$PACKAGE/pyproject.toml"
      find "$PACKAGE/segray" "$PACKAGE/tune_spaces" -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 cat
    fi
  } | sha256sum | cut -d' ' -f1
}

install() {
  local wanted arguments
  [[ -e $PACKAGE ]] || die "$PACKAGE is not there. Change SEGRAY_PACKAGE in cluster.yaml."
  make_venv
  wanted=$(fingerprint)
  if [[ -f $STAMP && $(<"$STAMP") == "$wanted" ]]; then echo "segray is up to date in $VENV"; return 0; fi
  read -ra arguments <<<"${SEGRAY_PIP_ARGS:-}"
  rm -f "$STAMP"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q -c "$SOURCE/constraints.txt" \
    ${arguments[@]+"${arguments[@]}"} --force-reinstall --no-deps "$PACKAGE"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q -c "$SOURCE/constraints.txt" \
    ${arguments[@]+"${arguments[@]}"} "$PACKAGE"
  echo "$wanted" >"$STAMP"
}

greet_shells() { # `ray stop`, `ray down`, `ray exec` and a person find the programs, and talk with the token
  local line="export PATH=$VENV/bin:\$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0"
  if [[ -n ${SEGRAY_TLS:-} ]]; then # else `ray status` is hung up on
    line+=" RAY_USE_TLS=1 RAY_TLS_CA_CERT=$SEGRAY_TLS/ca.crt"
    line+=" RAY_TLS_SERVER_CERT=$SEGRAY_TLS/node.crt RAY_TLS_SERVER_KEY=$SEGRAY_TLS/node.key"
  fi
  line+=" # segray"
  touch "$HOME/.bashrc"
  if grep -qxF "$line" "$HOME/.bashrc"; then return 0; fi
  sed -i '/^export PATH=.* # segray$/d' "$HOME/.bashrc"
  echo "$line" >>"$HOME/.bashrc"
}

check_token
check_shared
if [[ $PACKAGE != none ]]; then install; fi
"$VENV/bin/python" -c 'import segray' || die "segray cannot be imported in $VENV."
greet_shells
echo "$(hostname): segray is ready in $VENV"
