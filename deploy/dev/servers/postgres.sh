# PostgreSQL 15 with TLS and SCRAM. It refuses to run as root, who becomes the user postgres for it.

postgres_as() {
  if [ "$(id -u)" -eq 0 ]; then
    setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
  else
    "$@"
  fi
}

postgres_start() {
  local folder="$1" bin=/usr/lib/postgresql/15/bin data="$1/postgres" port
  port="$(free_port "$folder")"
  printf '%s' postgres-secret > "$folder/postgres.password"
  mkdir -p "$data"
  cp "$folder/tls/localhost.key" "$folder/postgres.key"
  chmod 600 "$folder/postgres.key"
  [ "$(id -u)" -ne 0 ] || chown postgres:postgres "$data" "$folder/postgres.key"
  (cd / && postgres_as "$bin/initdb" --pgdata "$data" --username millrace --auth scram-sha-256 \
    --pwfile "$folder/postgres.password" --encoding UTF8 --locale C --no-instructions)
  cat >> "$data/postgresql.conf" <<SETTINGS
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$data'
ssl = on
ssl_ca_file = '$folder/tls/ca.pem'
ssl_cert_file = '$folder/tls/localhost.pem'
ssl_key_file = '$folder/postgres.key'
SETTINGS
  echo 'hostssl all all 127.0.0.1/32 scram-sha-256' > "$data/pg_hba.conf"
  (cd / && postgres_as "$bin/pg_ctl" --pgdata "$data" --log "$data/server.log" --wait start </dev/null)
  cat > "$folder/postgres.env" <<LINES
MILLRACE_PG_URL=postgres://millrace:postgres-secret@localhost:$port/postgres?sslmode=verify-full&sslrootcert=$folder/tls/ca.pem
LINES
}

postgres_stop() {
  [ ! -e "$1/postgres/postmaster.pid" ] ||
    (cd / && postgres_as /usr/lib/postgresql/15/bin/pg_ctl --pgdata "$1/postgres" --mode immediate --silent stop)
}
