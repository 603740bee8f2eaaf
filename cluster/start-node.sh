#!/usr/bin/env bash
# Runs `ray start ...`, given as its arguments, with what this host needs: `start-node.sh ray start --head ...` on the
# head, `start-node.sh ray start --address=HEAD:6379` elsewhere. It counts CPUs and GPUs, sizes the object store, fixes
# the ports that a firewall must let through (docs/security.md), and turns token authentication on.
# SEGRAY_DRY_RUN=1 prints the command and its environment in place of running it.
set -euo pipefail
shopt -s inherit_errexit

set -a
for settings in "$HOME/segray/node.env" "$HOME/segray/host.env"; do # of all hosts, and of this one
  if [[ -f $settings ]]; then . "$settings"; fi
done
set +a
VENV=${SEGRAY_VENV:-$HOME/segray/venv}
PORTS=(
  --object-manager-port=8076 --node-manager-port=8077 --metrics-export-port=8080
  --dashboard-agent-listen-port=52365 --dashboard-agent-grpc-port=52366 --runtime-env-agent-port=52367
  --min-worker-port=10002 --max-worker-port=19999
)
MIB=1048576
# Of the whole cluster, told by the head: a call to a host that has lost its power fails after 40 s. By Ray's own 300 and
# 120 s, tasks that ran there are begun anew only seven minutes after the cut, though the host is given up at once.
# And a process that waits for its next task is kept for a minute: by Ray's own second a host with few CPUs starts one
# for nearly every case that is read or written, which takes longer than a small case does.
CALLS='{"grpc_client_keepalive_time_ms":20000,"grpc_client_keepalive_timeout_ms":20000,"idle_worker_killing_time_threshold_ms":60000}'

say() { echo "$(hostname): $*" >&2; }
die() { say "$@"; exit 1; }

is_head() { [[ " $* " == *" --head "* ]]; }

nvidia_hardware() { # display and 3D controllers (class 03) of NVIDIA (0x10de), seen without any driver
  local device
  for device in "${SEGRAY_PCI:-/sys/bus/pci/devices}"/*; do
    if [[ ! -r $device/vendor || ! -r $device/class ]]; then continue; fi
    if [[ $(<"$device/vendor") == 0x10de && $(<"$device/class") == 0x03* ]]; then return 0; fi
  done
  return 1
}

count_gpus() {
  local found=0
  if command -v nvidia-smi >/dev/null; then
    found=$(nvidia-smi --query-gpu=uuid --format=csv,noheader 2>/dev/null | grep -c '^GPU-' || true)
  fi
  if [[ $found == 0 ]] && nvidia_hardware; then # it would join as a CPU host, and trainings would crawl
    die "there is an NVIDIA GPU, and nvidia-smi sees none. Mend the driver, or set SEGRAY_GPUS=0 in ~/segray/host.env."
  fi
  echo "$found"
}

head_cpus() {
  local told=${SEGRAY_HEAD_CPUS:-0}
  if [[ $told == all ]]; then nproc; else echo "$told"; fi
}

compute() { # the arguments for CPUs and GPUs; a head that takes no work keeps its GPUs out too
  local cpus gpus
  if is_head "$@"; then cpus=$(head_cpus); else cpus=${SEGRAY_CPUS:-$(nproc)}; fi
  if [[ $cpus == 0 ]]; then gpus=0; else gpus=${SEGRAY_GPUS:-$(count_gpus)}; fi
  echo "--num-cpus=$cpus --num-gpus=$gpus"
}

object_store() { # bytes; more than /dev/shm holds would be put on the disk, which is slow
  local total free
  if [[ -n ${SEGRAY_OBJECT_STORE_MIB:-} ]]; then echo $((SEGRAY_OBJECT_STORE_MIB * MIB)); return 0; fi
  total=$(($(awk '/^MemTotal:/ { print $2 }' /proc/meminfo) * 1024))
  free=$(df --output=avail -B1 /dev/shm | tail -1)
  if ((total / 5 < free * 9 / 10)); then echo $((total / 5)); else echo $((free * 9 / 10)); fi
}

own_interface() { # Gloo and NCCL listen where the host's name points to; Debian lets it point to 127.0.1.1
  local own
  if [[ -n ${GLOO_SOCKET_IFNAME:-} ]]; then
    export GLOO_SOCKET_IFNAME NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$GLOO_SOCKET_IFNAME}
    return 0
  fi
  own=$(getent ahostsv4 "$(hostname)" | awk 'NR == 1 { print $1 }' || true)
  if [[ -n $own && $own != 127.* ]]; then return 0; fi
  own=$(ip -o -4 route get "${RAY_HEAD_IP:-8.8.8.8}" 2>/dev/null | sed -n 's/.* dev \([^ ]*\) .*/\1/p' || true)
  if [[ -z $own || $own == lo ]]; then
    say "its name points to 127.* or nowhere, and training on several hosts would fail." \
      "Set GLOO_SOCKET_IFNAME in ~/segray/host.env."
    return 0
  fi
  export GLOO_SOCKET_IFNAME=$own NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$own}
}

encrypt() {
  local file
  if [[ -z ${SEGRAY_TLS:-} ]]; then return 0; fi
  for file in ca.crt node.crt node.key; do
    [[ -r $SEGRAY_TLS/$file ]] ||
      die "$SEGRAY_TLS/$file is not there. Copy the folder that cluster/tls.sh made for this host."
  done
  export RAY_USE_TLS=1 RAY_TLS_CA_CERT=$SEGRAY_TLS/ca.crt
  export RAY_TLS_SERVER_CERT=$SEGRAY_TLS/node.crt RAY_TLS_SERVER_KEY=$SEGRAY_TLS/node.key
}

end_with_ray() { # Ray leaves its log monitor behind where a worker has lost its head, as after every `ray down`
  local raylet monitor
  command -v pgrep >/dev/null || return 0
  raylet=$(pgrep -n -u "$(id -u)" -f '/raylet/raylet .*--raylet_socket_name' || true)
  monitor=$(pgrep -n -u "$(id -u)" -f '/ray/_private/log_monitor.py ' || true)
  if [[ -z $raylet || -z $monitor ]]; then return 0; fi
  setsid bash -c 'while kill -0 "$0"; do sleep 2; done; sleep 2; kill "$1"' "$raylet" "$monitor" &>/dev/null </dev/null &
}

[[ ${1:-} == ray && ${2:-} == start ]] || die "usage: start-node.sh ray start ARGUMENTS"
export PATH=$VENV/bin:$PATH
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
# Ray gives its workers nice 15: on a host that does anything else, a training starves.
export RAY_worker_niceness=${RAY_worker_niceness:-0}
# Provider local: the second autoscaler counts the head as a worker and leaves a host out.
export RAY_enable_autoscaler_v2=0
unset RAY_CLOUD_INSTANCE_ID RAY_NODE_TYPE_NAME
own_interface
encrypt
shapes=$(compute "$@")
store=$(object_store)
((store >= 78643200)) || die "/dev/shm has too little free for an object store: mount -o remount,size=8G /dev/shm"
read -ra shape <<<"$shapes"
command=("$@" "${shape[@]}" "--object-store-memory=$store" "${PORTS[@]}")
if is_head "$@"; then command+=("--system-config=$CALLS"); fi
if [[ -n ${SEGRAY_MEMORY_MIB:-} ]]; then command+=("--memory=$((SEGRAY_MEMORY_MIB * MIB))"); fi
if [[ ${SEGRAY_DRY_RUN:-0} == 1 ]]; then
  printf '%s\n' "${command[*]}"
  env | grep -E '^(RAY_|GLOO_|NCCL_)' | grep -v '^RAY_AUTH_TOKEN=' | LC_ALL=C sort
  exit 0
fi
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
ulimit -c 0 # a core would hold patients' voxels
"${command[@]}"
is_head "$@" || end_with_ray
