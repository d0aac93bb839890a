//! `[kafka] tls` and `sasl`: the link's certificates and password, which are named here and read when it is made.

use std::path::PathBuf;

use millrace_link::{Identity, MECHANISMS, Sasl, Security, Tls};

use super::reader::{Problems, Section};

/// Reads both tables; `true`: there is a `tls`, good or not.
pub(super) fn security(section: &mut Section<'_>, problems: &mut Problems) -> (Security, bool) {
    let tls = section.inner(problems, "tls");
    let sasl = section.inner(problems, "sasl");
    let has_tls = tls.is_some();
    if sasl.is_some() && !has_tls {
        section.wrong(
            problems,
            None,
            "sasl",
            "needs tls: nothing else keeps what follows the password secret",
        );
    }
    let tls = tls.and_then(|tls| self::tls(tls, problems));
    let sasl = sasl.and_then(|sasl| self::sasl(sasl, problems));
    (Security { tls, sasl }, has_tls)
}

fn tls(mut section: Section<'_>, problems: &mut Problems) -> Option<Tls> {
    let ca_file = required_file(&mut section, problems, "ca_file");
    let (has_cert, has_key) = (section.has("cert_file"), section.has("key_file"));
    let cert_file = file(&mut section, problems, "cert_file");
    let key_file = file(&mut section, problems, "key_file");
    match (has_cert, has_key) {
        (true, false) => section.wrong(problems, None, "key_file", "is missing: the key of cert_file"),
        (false, true) => {
            section.wrong(problems, None, "cert_file", "is missing: the certificate of key_file")
        }
        _ => {}
    }
    section.end(problems);
    let identity = cert_file.zip(key_file).map(|(cert_file, key_file)| Identity { cert_file, key_file });
    Some(Tls { ca_file: ca_file?, identity })
}

fn sasl(mut section: Section<'_>, problems: &mut Problems) -> Option<Sasl> {
    let mechanism = match section.text(problems, "mechanism") {
        None => Some(MECHANISMS[0]),
        Some((at, written)) => {
            let known = MECHANISMS.into_iter().find(|known| *known == written);
            if known.is_none() {
                let message = format!("{written:?} is not known; use {}", MECHANISMS.join(" or "));
                section.wrong(problems, Some(at), "mechanism", &message);
            }
            known
        }
    };
    let username = section.required(problems, "username").map(|(_, username)| username);
    let password_file = required_file(&mut section, problems, "password_file");
    section.end(problems);
    Some(Sasl { mechanism: mechanism?, username: username?, password_file: password_file? })
}

fn required_file(section: &mut Section<'_>, problems: &mut Problems, key: &'static str) -> Option<PathBuf> {
    if !section.has(key) {
        // Says that it is missing.
        section.required(problems, key)?;
    }
    file(section, problems, key)
}

/// Takes the path of a file that must be readable.
fn file(section: &mut Section<'_>, problems: &mut Problems, key: &'static str) -> Option<PathBuf> {
    let (at, text) = section.text(problems, key)?;
    let path = PathBuf::from(text);
    match std::fs::File::open(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            let message = format!("{} cannot be read ({error}); make it readable", path.display());
            section.wrong(problems, Some(at), key, &message);
            None
        }
    }
}
