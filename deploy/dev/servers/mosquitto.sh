# Mosquitto with TLS, user and password; it saves after every change, so that what it acknowledged survives a kill.

mosquitto_start() {
  local folder="$1" port
  port="$(free_port "$folder")"
  mosquitto_passwd -b -c "$folder/mosquitto.passwords" millrace mqtt-secret
  mkdir -p "$folder/mosquitto"
  cat > "$folder/mosquitto.conf" <<SETTINGS
listener $port 127.0.0.1
cafile $folder/tls/ca.pem
certfile $folder/tls/localhost.pem
keyfile $folder/tls/localhost.key
require_certificate false
allow_anonymous false
password_file $folder/mosquitto.passwords
max_queued_messages 0
max_inflight_messages 0
persistence true
persistence_location $folder/mosquitto/
autosave_interval 1
autosave_on_changes true
SETTINGS
  [ "$(id -u)" -ne 0 ] || echo "user root" >> "$folder/mosquitto.conf"
  mosquitto_server "$folder"
  wait_for 20 mosquitto_pub --cafile "$folder/tls/ca.pem" -h localhost -p "$port" -u millrace -P mqtt-secret -t ready -n
  cat > "$folder/mosquitto.env" <<LINES
MILLRACE_MQTT_URL=mqtts://localhost:$port
MILLRACE_MQTT_USER=millrace
MILLRACE_MQTT_PASSWORD=mqtt-secret
LINES
}

# Starts Mosquitto; tests do it again after a kill.
mosquitto_server() {
  mosquitto -c "$1/mosquitto.conf" >"$1/log/mosquitto.log" 2>&1 </dev/null &
  echo $! > "$1/mosquitto.pid"
  disown
}
