# Certificates of an authority made on the spot, all for 127.0.0.1 and localhost: what each server and client shows, and
# what must be refused (expired, of another authority, for another name).

certificates() {
  local tls="$1/tls"
  mkdir -p "$tls"
  authority "$tls" ca "Millrace development"
  authority "$tls" other-ca "another authority"
  local name
  for name in localhost admin gw-hall3 collector; do
    leaf "$tls" ca "$name" "$name" DNS:localhost,IP:127.0.0.1 30
  done
  # What must be refused.
  leaf "$tls" ca wrong-name wrong-name DNS:elsewhere.example 30
  leaf "$tls" other-ca stranger gw-hall3 DNS:localhost,IP:127.0.0.1 30
  leaf "$tls" ca expired gw-hall3 DNS:localhost,IP:127.0.0.1 -1
  chmod 644 "$tls"/*
}

authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$3" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$1/$2.key" -out "$1/$2.pem" 2>/dev/null
}

# leaf FOLDER AUTHORITY FILE COMMON_NAME ALTERNATIVE_NAMES DAYS: FILE.pem, FILE.key, and both in FILE.keystore.pem
leaf() {
  local tls="$1" ca="$2" file="$3" name="$4" names="$5" days="$6" from until
  if [ "$days" -gt 0 ]; then
    from="$(date -u -d '-1 hour' +%y%m%d%H%M%SZ)" until="$(date -u -d "+$days days" +%y%m%d%H%M%SZ)"
  else
    from="$(date -u -d '-2 days' +%y%m%d%H%M%SZ)" until="$(date -u -d '-1 day' +%y%m%d%H%M%SZ)"
  fi
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name/O=Millrace" \
    -keyout "$tls/$file.key" -out "$tls/$file.csr" 2>/dev/null
  mkdir -p "$tls/$file.new"
  : > "$tls/$file.new/index"
  cat > "$tls/$file.cnf" <<CNF
[ca]
default_ca = it
[it]
database = $tls/$file.new/index
new_certs_dir = $tls/$file.new
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = leaf
[any]
commonName = supplied
organizationName = optional
[leaf]
basicConstraints = CA:FALSE
subjectAltName = $names
extendedKeyUsage = serverAuth,clientAuth
CNF
  openssl ca -batch -notext -config "$tls/$file.cnf" -cert "$tls/$ca.pem" -keyfile "$tls/$ca.key" \
    -startdate "$from" -enddate "$until" -in "$tls/$file.csr" -out "$tls/$file.pem" 2>/dev/null
  cat "$tls/$file.key" "$tls/$file.pem" > "$tls/$file.keystore.pem"
  rm -rf "$tls/$file.csr" "$tls/$file.cnf" "$tls/$file.new"
}
