//! Servers and files that are not what they should be; the real ones are asked by the tests on servers (hw-tests).

use std::io::Write as _;
use std::net::TcpListener;

use super::*;
use crate::{Sasl, Security, Stamp};

const PATIENCE: Duration = Duration::from_secs(5);

fn tls() -> Tls {
    Tls { ca_file: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ca.pem"), identity: None }
}

/// Gives the address of a server that answers whatever comes with these bytes and hangs up.
fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 16]);
        let _ = client.write_all(answer);
    });
    address
}

#[test]
fn what_speaks_no_tls_is_told_whatever_it_says() {
    for answer in [&b""[..], b"\x00\x00\x00\x04oops", b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0xff; 64]] {
        let refusal = handshake(&server(answer), &tls(), PATIENCE).unwrap_err();
        assert!(matches!(refusal, Refusal::NoTls { .. }), "{answer:?}: {refusal}");
    }
}

#[test]
fn where_nobody_listens_and_names_that_nobody_knows_are_told_apart() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for tls in [Some(&tls()), None] {
        let refusal = reach(&address, tls, PATIENCE).unwrap_err();
        assert!(matches!(refusal, Refusal::Connect { .. }), "{refusal}");
        let refusal = reach("no-such-host.invalid:9092", tls, PATIENCE).unwrap_err();
        assert!(matches!(refusal, Refusal::Name { .. }), "{refusal}");
    }
    assert!(reach(&server(b""), None, PATIENCE).is_ok());
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (empty, junk) = (file("empty.pem", ""), file("junk.pem", "-----BEGIN CERTIFICATE-----\n%%%\n"));
    let identity = |cert_file: &Path, key_file: &Path| {
        Some(Identity { cert_file: cert_file.to_owned(), key_file: key_file.to_owned() })
    };
    let good = tls().ca_file;
    for (named, tls) in [
        (&empty, Tls { ca_file: empty.clone(), identity: None }),
        (&junk, Tls { ca_file: junk.clone(), identity: None }),
        (&empty, Tls { identity: identity(&good, &empty), ..tls() }),
        (&junk, Tls { identity: identity(&junk, &good), ..tls() }),
    ] {
        let refusal = handshake("127.0.0.1:9", &tls, PATIENCE).unwrap_err();
        assert!(matches!(&refusal, Refusal::File { file, .. } if file == named), "{named:?}: {refusal}");
    }
}

#[test]
fn a_password_is_the_first_line_of_its_file_and_a_changed_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    let sasl = Sasl {
        mechanism: crate::MECHANISMS[0],
        username: "u".to_owned(),
        password_file: password_file.clone(),
    };
    let security = Security { tls: Some(tls()), sasl: Some(sasl) };
    assert!(security.settings().unwrap_err().to_string().contains("password"));
    std::fs::write(&password_file, "secret\nand more\n").unwrap();
    let stamp = Stamp::of(&security);
    let settings = security.settings().unwrap();
    let of = |key: &str| settings.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str());
    assert_eq!((of("security.protocol"), of("sasl.password")), (Some("sasl_ssl"), Some("secret")));
    assert_eq!(Stamp::of(&security), stamp);
    std::fs::write(&password_file, "another secret\n").unwrap();
    assert_ne!(Stamp::of(&security), stamp);
    assert_eq!(Security::default().settings().unwrap(), []);
}
