#!/bin/sh
# Makes, once, what the parts of compose.yaml know each other by, and writes it down for each as it wants to read it.
# Nobody but root and the group that the services share may read it, and the scorer, which runs authors' code, only what
# is in a folder of its own.
set -eu
umask 027
cd "${1:-/keys}"

secret() { # NAME: the same from one start to the next
  [ -s "$1" ] || { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >".$1" && mv ".$1" "$1"; }
  cat "$1"
}
written() { # NAME, content on stdin: there whole or not at all
  cat >".$1" && mv ".$1" "$1"
}

services=$(secret services) logins=$(secret logins) objects=$(secret objects) operator=$(secret operator)
roles() { printf '%s %s' "$services" "$logins" | python3 -P -m flash.bus.jetstream.roles "$1"; }
authorization=$(roles authorization) passwords=$(roles passwords)
printf '%s\n' "$authorization" | written nats.conf
printf '%s\n' "$passwords" | while read -r service password; do
  printf 'nats://%s:%s@nats:4222' "$service" "$password" | written "nats-url-$service"
done
printf 's3://flash:%s@minio:9000/flash' "$objects" | written store-url
printf 'flash_local_operator_%s' "$operator" | written operator-token
printf "FLASH_URL='nats://%s' FLASH_TOKEN='flash_local_operator_%s' flash login\n" \
  "${FLASH_ADDRESS:-127.0.0.1:4222}" "$operator" | written login

rm -f nats-url # of a Flash whose services were one user
mkdir -p scorer
mv nats-url-scorer scorer/nats-url
for name in store-url operator-token; do cp "$name" "scorer/$name"; done
chgrp -R "${SCORER_GROUP:-20001}" scorer
