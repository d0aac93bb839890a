# Apache Kafka: one broker, or three (BROKERS=3), each also a controller; mTLS, SASL_SSL with SCRAM-SHA-512, ACLs on.

kafka_home="${XDG_CACHE_HOME:-$HOME/.cache}/millrace/kafka"

# Puts the jars into the user's cache, once; a marker with the sum of the pom tells whether they are complete.
kafka_install() {
  local wanted
  wanted="$(sha256sum "$here/servers/kafka-pom.xml" | cut -d' ' -f1)"
  [ "$(cat "$kafka_home/complete" 2>/dev/null || true)" != "$wanted" ] || return 0
  echo "installing Apache Kafka's jars into $kafka_home" >&2
  rm -rf "$kafka_home"
  mkdir -p "$kafka_home"
  mvn --quiet --batch-mode --file "$here/servers/kafka-pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$kafka_home/lib" >&2
  printf '%s' "$wanted" > "$kafka_home/complete"
}

kafka_java() {
  ${exec_java:-} java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
    "-Dlog4j2.configurationFile=$here/servers/kafka-log4j2.properties" -cp "$kafka_home/lib/*" "$@"
}

kafka_start() {
  local folder="$1" brokers="${BROKERS:-1}" n cluster mtls=() sasl=() control=() voters=""
  cluster="$(openssl rand 16 | base64 | tr '+/' '-_' | cut -c1-22)"
  for n in $(seq "$brokers"); do
    mtls+=("$(free_port "$folder")") sasl+=("$(free_port "$folder")") control+=("$(free_port "$folder")")
    voters+="${voters:+,}$n@127.0.0.1:${control[$((n - 1))]}"
  done
  printf '%s' agent-secret > "$folder/gw-hall3.password"
  printf '%s' collector-secret > "$folder/collector.password"
  for n in $(seq "$brokers"); do
    kafka_settings "$folder" "$n" "$brokers" "$voters" "${mtls[$((n - 1))]}" "${sasl[$((n - 1))]}" "${control[$((n - 1))]}"
    kafka_java kafka.tools.StorageTool format -t "$cluster" -c "$folder/kafka-$n.properties" \
      --add-scram 'SCRAM-SHA-512=[name=gw-hall3,password=agent-secret]' \
      --add-scram 'SCRAM-SHA-512=[name=collector,password=collector-secret]' \
      --add-scram 'SCRAM-SHA-512=[name=nobody,password=nobody-secret]' &
  done
  wait
  for n in $(seq "$brokers"); do kafka_broker "$folder" "$n"; done
  for n in $(seq "$brokers"); do wait_for 60 grep -q "Kafka Server started" "$folder/log/kafka-$n.log"; done
  kafka_rights "$folder" "localhost:${mtls[0]}"
  local hosts secure
  hosts="$(printf 'localhost:%s,' "${mtls[@]}")" secure="$(printf 'localhost:%s,' "${sasl[@]}")"
  cat > "$folder/kafka.env" <<LINES
MILLRACE_KAFKA_BROKERS=${hosts%,}
MILLRACE_KAFKA_SASL_BROKERS=${secure%,}
MILLRACE_CLIENT_CERT=$folder/tls/admin.pem
MILLRACE_CLIENT_KEY=$folder/tls/admin.key
LINES
}

# What the two programs need, and no more: everything under the prefix "m.".
kafka_rights() {
  local folder="$1" server="$2" acl
  cat > "$folder/admin.properties" <<SETTINGS
security.protocol=SSL
ssl.keystore.type=PEM
ssl.keystore.location=$folder/tls/admin.keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$folder/tls/ca.pem
SETTINGS
  acl=(org.apache.kafka.tools.AclCommand --bootstrap-server "$server" --command-config "$folder/admin.properties" --add)
  kafka_java "${acl[@]}" --allow-principal User:gw-hall3 --operation Write --operation Describe \
    --topic m. --resource-pattern-type prefixed &
  kafka_java "${acl[@]}" --allow-principal User:collector --operation Read --operation Describe \
    --operation DescribeConfigs --topic m. --group millrace --resource-pattern-type prefixed &
  wait
}

# Starts a broker whose settings are there; tests do it again after a kill.
kafka_broker() {
  local folder="$1" n="$2"
  : > "$folder/log/kafka-$n.log"
  # The shell becomes the broker, so that its process id is the broker's.
  (exec_java=exec; kafka_java kafka.Kafka "$folder/kafka-$n.properties") >"$folder/log/kafka-$n.log" 2>&1 </dev/null &
  echo $! > "$folder/kafka-$n.pid"
  disown
}

kafka_settings() {
  local folder="$1" n="$2" brokers="$3" voters="$4" mtls="$5" sasl="$6" control="$7" copies=1 least=1
  [ "$brokers" -lt 3 ] || copies=3 least=2
  cat > "$folder/kafka-$n.properties" <<SETTINGS
process.roles=broker,controller
node.id=$n
controller.quorum.voters=$voters
listeners=MTLS://127.0.0.1:$mtls,SASL://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$control
advertised.listeners=MTLS://localhost:$mtls,SASL://localhost:$sasl
listener.security.protocol.map=CONTROLLER:SSL,MTLS:SSL,SASL:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=MTLS
log.dirs=$folder/kafka-$n
ssl.keystore.type=PEM
ssl.keystore.location=$folder/tls/localhost.keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$folder/tls/ca.pem
listener.name.mtls.ssl.client.auth=required
listener.name.controller.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*\$/\$1/,DEFAULT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:localhost
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=4
offsets.topic.replication.factor=$copies
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$least
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$least
SETTINGS
}
