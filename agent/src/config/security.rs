//! `[kafka] tls` and `sasl`: the link's certificates and password, which are named here and read when it is made.

use std::path::Path;

use millrace_link::{Identity, MECHANISMS, Sasl, Security, Tls};

use super::section::Section;

/// Reads both tables; files are relative to `base`.
pub(super) fn security(section: &mut Section<'_>, base: &Path) -> Security {
    let tls = section.get("tls").is_some().then(|| tls(section, base)).flatten();
    let sasl = section.get("sasl").is_some().then(|| sasl(section, base)).flatten();
    if section.get("sasl").is_some() && section.get("tls").is_none() {
        section.report(
            &section.line_of("sasl"),
            "sasl needs tls: nothing else keeps what follows the password secret",
        );
    }
    Security { tls, sasl }
}

fn tls(section: &mut Section<'_>, base: &Path) -> Option<Tls> {
    let mut tls = section.table("tls", format!("{}, tls", section.path()))?;
    if tls.get("ca_file").is_none() {
        tls.missing("ca_file", "ca_file = the certificate of the authority that signed the broker's");
    }
    let ca_file = tls.readable_file("ca_file", base);
    let (has_cert, has_key) = (tls.get("cert_file").is_some(), tls.get("key_file").is_some());
    if has_cert != has_key {
        let (is, example) = if has_cert {
            ("key_file", "the key of cert_file")
        } else {
            ("cert_file", "the certificate of key_file")
        };
        tls.missing(is, &format!("{is} = {example}"));
    }
    let cert_file = tls.readable_file("cert_file", base);
    let key_file = tls.readable_file("key_file", base);
    tls.finish();
    let identity = cert_file.zip(key_file).map(|(cert_file, key_file)| Identity { cert_file, key_file });
    Some(Tls { ca_file: ca_file?, identity })
}

fn sasl(section: &mut Section<'_>, base: &Path) -> Option<Sasl> {
    let mut sasl = section.table("sasl", format!("{}, sasl", section.path()))?;
    let mechanism = match sasl.text("mechanism") {
        None => Some(MECHANISMS[0]),
        Some(written) => {
            let known = MECHANISMS.into_iter().find(|known| *known == written);
            if known.is_none() {
                let message =
                    format!("mechanism \"{written}\" is not known; use {}", MECHANISMS.join(" or "));
                sasl.report(&sasl.line_of("mechanism"), message);
            }
            known
        }
    };
    let username =
        sasl.required_text("username", "username = the name that the password belongs to").map(str::to_owned);
    if sasl.get("password_file").is_none() {
        sasl.missing("password_file", "password_file = the file that holds the password");
    }
    let password_file = sasl.readable_file("password_file", base);
    sasl.finish();
    Some(Sasl { mechanism: mechanism?, username: username?, password_file: password_file? })
}
