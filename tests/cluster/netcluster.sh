#!/usr/bin/env bash
# netcluster.sh - "machines" for a real multi-node Ray cluster on one Linux box (root needed).
# Every node = network namespace (own address on a private bridge) + pid/mount/uts/ipc namespaces
# + own /root, /tmp, /run, /dev/shm, host name + own sshd as PID 1; /mnt is shared ("NFS").  See README.md.
set -euo pipefail
NAME=${NC_NAME:-sgn}                 # prefix of namespaces/bridge (max 8 chars)
NET=${NC_NET:-10.77.0}               # private /24
STATE=${NC_STATE:-/tmp/netcluster-$NAME}
VENV=${NC_VENV:-$(dirname "$(dirname "$(command -v ray || echo /usr/bin/ray)")")}   # the venv every node uses (same path on all nodes)
SHM=${NC_SHM:-2g}                    # size of every node's /dev/shm
TMP_SIZE=${NC_TMP:-}                 # size of every node's /tmp in memory, such as 200m; empty: it lies on the machine's disk
BR=${NAME}br
BIND=${NC_BIND:-}                    # more paths (space separated) every node sees, e.g. your checkout
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

node_ip() { echo "$NET.$((10 + $1))"; }

keep_visible() { mkdir -p "$2"; mountpoint -q "$2" || mount --bind "$1" "$2"; }

node_init() { # runs INSIDE the new namespaces, ends as sshd = PID 1 of the node
  local i=$1 d=$STATE/node$1 pyhome b
  mount --make-rprivate /
  hostname "$NAME$i"
  mount -t tmpfs -o size=$SHM tmpfs /dev/shm
  mount -t tmpfs tmpfs /run; mkdir -p /run/sshd /run/netcluster
  cp "$d/sshd_config" "$d/host_key" "$STATE/key.pub" /run/netcluster/
  mount --bind "$STATE/hosts" /etc/hosts          # gloo resolves its own host name: it must not be 127.*
  if [[ -e /etc/resolv.conf ]]; then mount --bind "$STATE/resolv.conf" /etc/resolv.conf; fi   # no name server is in reach: fail at once, not after 10 s
  mkdir -p "$STATE/shared" "$d/tmp" "$d/root"
  pyhome=$(dirname "$(dirname "$(readlink -f "$VENV/bin/python3")")")
  for b in "$VENV" "$pyhome" $BIND; do            # what must stay visible below the private /tmp, /root and /mnt
    case $b in
      /tmp/*|/root/*) keep_visible "$b" "$d$b" ;;
      /mnt/*) keep_visible "$b" "$STATE/shared${b#/mnt}" ;;
      /run/*|/dev/shm/*) echo "$b lies on a file system that every node has for itself" >&2; return 1 ;;
    esac
  done
  mount --rbind "$STATE/shared" /mnt
  mount --rbind "$d/root" /root
  if [[ -n $TMP_SIZE ]]; then mount -t tmpfs -o "size=$TMP_SIZE,mode=1777" tmpfs /tmp; else mount --rbind "$d/tmp" /tmp; fi
  cd /; export HOME=/root
  exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
     /usr/sbin/sshd -D -e -f /run/netcluster/sshd_config
}

start_node() {
  local i=$1 ip d ns; ip=$(node_ip "$i"); d=$STATE/node$i; ns=$NAME$i
  mkdir -p "$d/root" "$d/tmp"; chmod 1777 "$d/tmp"
  ip netns add "$ns"
  ip link add "${ns}h" type veth peer name "${ns}p"
  ip link set "${ns}p" netns "$ns" name eth0
  ip link set "${ns}h" master "$BR" up
  ip -n "$ns" addr add "$ip/24" dev eth0
  ip -n "$ns" link set lo up; ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "$NET.1"     # leads nowhere (no forwarding); lets ray guess its own address
  [[ -f $d/host_key ]] || ssh-keygen -q -t ed25519 -N '' -f "$d/host_key"
  cat >"$d/sshd_config" <<EOC
Port 22
ListenAddress $ip
HostKey /run/netcluster/host_key
PidFile none
AuthorizedKeysFile /run/netcluster/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
UseDNS no
MaxSessions 64
MaxStartups 64:30:128
Subsystem sftp internal-sftp
EOC
  cat >"$d/root/.profile" <<EOC
export PATH=$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export RAY_USAGE_STATS_ENABLED=0 PYTHONDONTWRITEBYTECODE=1 ${NC_ENV:-}
EOC
  [[ -f $d/root/.bashrc ]] || cp "$d/root/.profile" "$d/root/.bashrc"
  NC_NAME=$NAME NC_NET=$NET NC_STATE=$STATE NC_VENV=$VENV NC_SHM=$SHM NC_BIND=$BIND NC_TMP=$TMP_SIZE setsid \
    ip netns exec "$ns" unshare --pid --mount --uts --ipc --fork --mount-proc --kill-child=KILL \
    bash "$HERE/netcluster.sh" _init "$i" >"$d/log" 2>&1 </dev/null &
  echo $! >"$d/holder.pid"; disown
  for _ in $(seq 50); do ssh_node "$i" true 2>/dev/null && return 0; sleep .1; done
  echo "node $i did not come up:" >&2; cat "$d/log" >&2; return 1
}

ssh_node() { local i=$1; shift
  ssh -q -i "$STATE/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2 \
      -o LogLevel=ERROR "root@$(node_ip "$i")" "$@"; }

cut_node() { # power cut: link gone, SIGKILL for every process of the node; what lies on its disk stays
  local i=$1 d=$STATE/node$1
  ip link set "$NAME${i}h" down 2>/dev/null || true # first: a host without power closes no connection
  [[ -f $d/holder.pid ]] && kill -9 "$(cat "$d/holder.pid")" 2>/dev/null || true
  rm -f "$d/holder.pid"
  ip netns del "$NAME$i" 2>/dev/null || true
  ip link del "${NAME}${i}h" 2>/dev/null || true
}

kill_node() { # a power cut that the disk did not survive
  local i=$1 d=$STATE/node$1
  cut_node "$i"
  grep -q " $d/" /proc/self/mounts && { echo "mounts left below $d, not removing" >&2; return 1; }
  rm -rf "$d/tmp" "$d/root"      # a killed node comes back with an empty disk
}

down() { # all machines, also those of a run that left no state behind
  local d ns
  for d in "$STATE"/node*; do [[ -d $d ]] && kill_node "${d##*node}"; done
  for ns in $(ip netns list | awk -v name="$NAME" '$1 ~ "^" name "[0-9]+$" { print $1 }'); do
    ip netns pids "$ns" | xargs -r kill -9 2>/dev/null || true
    ip netns del "$ns" 2>/dev/null || true
    ip link del "${ns}h" 2>/dev/null || true
  done
  ip link del "$BR" 2>/dev/null || true
  rm -rf "$STATE"
}

unplug_node() { ip link set "${NAME}${1}h" down; }   # network partition: processes live on
plug_node()   { ip link set "${NAME}${1}h" up; }

case "${1:-}" in
  _init) node_init "$2" ;;
  up) n=${2:-3}; down; mkdir -p "$STATE/shared"; chmod 755 "$STATE"   # an earlier cluster of this name is cleared away
      echo "nameserver 127.0.0.1" >"$STATE/resolv.conf"
      { echo "127.0.0.1 localhost"; for i in $(seq 0 $((n-1))); do echo "$(node_ip "$i") $NAME$i"; done; } >"$STATE/hosts"
      [[ -f $STATE/key ]] || ssh-keygen -q -t ed25519 -N '' -f "$STATE/key"
      ip link add "$BR" type bridge; ip addr add "$NET.1/24" dev "$BR"; ip link set "$BR" up
      for i in $(seq 0 $((n-1))); do start_node "$i"; done
      "$0" yaml "$n" > "$STATE/cluster.yaml"
      echo "nodes: $(for i in $(seq 0 $((n-1))); do printf '%s ' "$(node_ip "$i")"; done)"; echo "cluster file: $STATE/cluster.yaml" ;;
  yaml) n=${2:-3}; w=$(for i in $(seq 1 $((n-1))); do printf '"%s",' "$(node_ip "$i")"; done)
      sed -e "s|@NAME@|$NAME|g;s|@HEAD@|$(node_ip 0)|g;s|@WORKERS@|${w%,}|g;s|@KEY@|$STATE/key|g;s|@NW@|$((n-1))|g;s|@RAYENV@|${NC_RAY_ENV:-}|g;s|@HEADARGS@|${NC_HEAD_ARGS:---num-cpus=0 --object-store-memory=100000000}|g;s|@WORKERARGS@|${NC_WORKER_ARGS:---num-cpus=2 --object-store-memory=300000000}|g" "$HERE/cluster.template.yaml" ;;
  start-node) start_node "$2" ;;
  kill-node) kill_node "$2" ;;
  cut-node) cut_node "$2" ;;
  unplug) unplug_node "$2" ;;
  plug) plug_node "$2" ;;
  ssh) i=$2; shift 2; ssh_node "$i" "$@" ;;
  pids) # host pids of all processes of a node
      h=$(cat "$STATE/node$2/holder.pid"); init=$(pgrep -P "$h" | head -1)
      ns=$(readlink /proc/$init/ns/pid); for p in /proc/[0-9]*; do if [[ $(readlink $p/ns/pid 2>/dev/null) == "$ns" ]]; then echo "${p#/proc/} $(tr '\0' ' ' <$p/cmdline | cut -c1-100)"; fi; done ;;
  ray-up)   # ray up from this machine; NC_TOKEN=1: cluster with token authentication
      f=$STATE/cluster.yaml
      if [[ ${NC_TOKEN:-0} == 1 ]]; then
        [[ -f $STATE/auth_token ]] || { umask 077; python3 -c 'import secrets;print(secrets.token_hex(32),end="")' >"$STATE/auth_token"; }
        sed -e "s#^file_mounts: {}#file_mounts: {\"/root/.ray/auth_token\": \"$STATE/auth_token\"}#" -e 's#RAY_AUTH_MODE=disabled#RAY_AUTH_MODE=token#' "$f" >"$STATE/cluster-token.yaml"; f=$STATE/cluster-token.yaml
      fi
      # autoscaler v2 (default of ray up 2.60) never starts the last worker of a provider "local": use v1
      RAY_UP_enable_autoscaler_v2=0 RAY_USAGE_STATS_ENABLED=0 HOME=$STATE "$VENV/bin/ray" up -y --no-config-cache "$f"
      n=$(ls -d "$STATE"/node* | wc -l)
      for _ in $(seq 60); do
        [[ $(ssh_node 0 "bash -lc 'RAY_AUTH_MODE=$([[ ${NC_TOKEN:-0} == 1 ]] && echo token || echo disabled) ray list nodes 2>/dev/null | grep -c ALIVE'") == "$n" ]] && { echo "all $n nodes alive: http://$(node_ip 0):8265"; exit 0; }; sleep 1; done
      echo "not all nodes joined" >&2; exit 1 ;;
  ray-down)  # ray down stops the HEAD only; the workers' raylets live on for about 60 s: stop them too
      f=$STATE/cluster.yaml; [[ -f $STATE/cluster-token.yaml ]] && f=$STATE/cluster-token.yaml
      RAY_UP_enable_autoscaler_v2=0 HOME=$STATE "$VENV/bin/ray" down -y "$f"
      for d in "$STATE"/node*; do i=${d##*node}; [[ -f $d/holder.pid ]] && ssh_node "$i" "bash -lc 'ray stop --force'" >/dev/null 2>&1 || true; done ;;
  down) down ;;
  *) echo "usage: $0 up [N] | ray-up | ray-down | down | kill-node I | cut-node I | start-node I | unplug I | plug I | ssh I CMD | pids I | yaml N" >&2; exit 2 ;;
esac
