# Redis with TLS only and one user who may not do what is dangerous; nothing is saved.

redis_start() {
  local folder="$1" port
  port="$(free_port "$folder")"
  printf 'user default off\nuser millrace on >redis-secret ~* &* +@all -@dangerous +info +keys\n' > "$folder/redis.acl"
  cat > "$folder/redis.conf" <<SETTINGS
bind 127.0.0.1
port 0
tls-port $port
tls-cert-file $folder/tls/localhost.pem
tls-key-file $folder/tls/localhost.key
tls-ca-cert-file $folder/tls/ca.pem
tls-auth-clients no
aclfile $folder/redis.acl
save ""
SETTINGS
  redis_server "$folder"
  wait_for 20 redis-cli --no-auth-warning --tls --cacert "$folder/tls/ca.pem" -h localhost -p "$port" \
    --user millrace --pass redis-secret ping
  echo "MILLRACE_REDIS_URL=rediss://millrace:redis-secret@localhost:$port" > "$folder/redis.env"
}

# Starts Redis; tests do it again after a kill.
redis_server() {
  redis-server "$1/redis.conf" >"$1/log/redis.log" 2>&1 </dev/null &
  echo $! > "$1/redis.pid"
  disown
}
