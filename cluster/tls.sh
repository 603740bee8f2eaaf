#!/usr/bin/env bash
# Makes certificates for Ray's gRPC: an authority of the cluster's own, and a key and certificate for each node.
#
#   cluster/tls.sh FOLDER NODE [NODE ...]        NODE: the address by which the others reach it (an IP or a DNS name)
#
# FOLDER/ca/ca.key stays where this runs: who has it can make certificates that the cluster takes. FOLDER/NODE/ (ca.crt,
# node.crt, node.key) is for that node alone. Run again at any time: what is good stays as it is; what is missing,
# damaged, of another authority or valid for less than 30 days is made anew. TLS_DAYS: days that a node's certificate is
# valid, 365 by default.
set -euo pipefail
shopt -s inherit_errexit
umask 077

KEEP_SECONDS=$((30 * 86400))
CA_DAYS=3650
DAYS=${TLS_DAYS:-365}

die() { echo "tls.sh: $*" >&2; exit 1; }

is_ip() { [[ $1 =~ ^[0-9]+(\.[0-9]+){3}$ || $1 =~ ^[0-9a-fA-F]*:[0-9a-fA-F:.]+$ ]]; }

is_node() { is_ip "$1" || [[ $1 =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]]; }

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

same_key() { # a certificate and its key: both give one public key
  cmp -s <(openssl x509 -in "$1" -noout -pubkey 2>/dev/null) <(openssl pkey -in "$2" -pubout 2>/dev/null)
}

authority_is_good() {
  [[ -s $CA/ca.crt && -s $CA/ca.key ]] || return 1
  same_key "$CA/ca.crt" "$CA/ca.key" && openssl x509 -in "$CA/ca.crt" -noout -checkend "$KEEP_SECONDS" >/dev/null
}

make_authority() {
  local new=$CA/.new told="made the authority $CA/ca.crt"
  if [[ -e $CA/ca.crt ]]; then told="$told anew: name all nodes, and copy their folders again"; fi
  rm -rf "$new"; mkdir -p "$new"
  new_key "$new/ca.key"
  openssl req -x509 -new -sha256 -key "$new/ca.key" -days "$CA_DAYS" -subj "/CN=segray cluster" -out "$new/ca.crt" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
  mv "$new/ca.key" "$new/ca.crt" "$CA/"; rmdir "$new"
  echo "$told"
}

names_of() { # a node is called by its address, and by its own processes over loopback
  if is_ip "$1"; then echo "IP:$1,IP:127.0.0.1,DNS:localhost"; else echo "DNS:$1,IP:127.0.0.1,DNS:localhost"; fi
}

node_is_good() {
  local folder=$1 node=$2 check=-verify_hostname
  if is_ip "$node"; then check=-verify_ip; fi
  [[ -s $folder/node.crt && -s $folder/node.key ]] || return 1
  cmp -s "$CA/ca.crt" "$folder/ca.crt" || return 1
  same_key "$folder/node.crt" "$folder/node.key" || return 1
  openssl x509 -in "$folder/node.crt" -noout -checkend "$KEEP_SECONDS" >/dev/null || return 1
  openssl verify -CAfile "$CA/ca.crt" "$check" "$node" "$folder/node.crt" >/dev/null 2>&1
}

make_node() { # Ray uses one certificate for both ends of a connection, and asks for one at both
  local folder=$1 node=$2 new=$1/.new
  rm -rf "$new"; mkdir -p "$new"
  new_key "$new/node.key"
  openssl req -new -sha256 -key "$new/node.key" -subj "/CN=segray node" -out "$new/node.csr"
  printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
    "extendedKeyUsage=serverAuth,clientAuth" "subjectAltName=$(names_of "$node")" >"$new/extensions"
  openssl x509 -req -sha256 -in "$new/node.csr" -CA "$CA/ca.crt" -CAkey "$CA/ca.key" -days "$DAYS" \
    -set_serial "0x$(openssl rand -hex 16)" -extfile "$new/extensions" -out "$new/node.crt" 2>/dev/null
  cp "$CA/ca.crt" "$new/ca.crt"
  mv "$new/node.key" "$new/node.crt" "$new/ca.crt" "$folder/"
  rm -r "$new"
  echo "made $folder"
}

[[ $# -ge 2 ]] || die "usage: cluster/tls.sh FOLDER NODE [NODE ...]"
[[ $DAYS =~ ^[1-9][0-9]*$ ]] || die "TLS_DAYS is $DAYS; it must be a number of days."
command -v openssl >/dev/null || die "openssl is not installed."
FOLDER=$1
CA=$FOLDER/ca
shift
for node in "$@"; do
  is_node "$node" && [[ $node != ca ]] || die "$node is no address; name an IP or a DNS name."
done
mkdir -p "$CA"
chmod 700 "$FOLDER" "$CA"
authority_is_good || make_authority
for node in "$@"; do
  mkdir -p "$FOLDER/$node"
  node_is_good "$FOLDER/$node" "$node" || make_node "$FOLDER/$node" "$node"
done
chmod 600 "$CA/ca.key" "$FOLDER"/*/*.key
