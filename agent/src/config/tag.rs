//! One tag of a device, from a table of a TOML file or a line of a CSV file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::Category;

use super::problems::At;
use super::section::Section;
use super::tree::Value;
use super::{Convert, DEFAULT_MAX_INTERVAL, Decode, NumberKind, Table, Tag, address, kind};

/// The longest name of a tag. *Units*: bytes.
const NAME_MAX_BYTES: usize = 200;
/// The longest text that a request can read. *Units*: bytes.
const TEXT_MAX_BYTES: u16 = 250;
const TABLES: [(&str, Table); 4] = [
    ("coil", Table::Coil),
    ("discrete", Table::Discrete),
    ("input", Table::Input),
    ("holding", Table::Holding),
];

/// A tag and the place where it is written.
#[derive(Debug, Clone)]
pub(super) struct ParsedTag {
    pub(super) tag: Arc<Tag>,
    pub(super) at: At,
    pub(super) path: String,
}

/// What the tag's template or device says for all of its tags.
#[derive(Debug, Clone)]
pub(super) struct TagDefaults {
    pub(super) category: Category,
    pub(super) address_base: u16,
}

/// Reads a tag; `None` if it cannot be used, which was reported then.
///
/// `prefix` stands before `tag "name"` in messages.
pub(super) fn tag(mut section: Section<'_>, prefix: &str, defaults: &TagDefaults) -> Option<ParsedTag> {
    let name = section.required_text("name", "name = \"…\"");
    section.set_path(format!("{prefix}tag \"{}\"", name.unwrap_or("?")));
    let name = name.filter(|name| check_name(&section, name));
    let table = table(&mut section);
    let address = address_of(&mut section, table, defaults);
    let table = address.map_or(table.unwrap_or(Table::Holding), |(table, _)| table);
    let decode = decode(&mut section, table);
    let convert = convert(&mut section, decode.as_ref());
    let is_number = matches!(decode, Some(Decode::Number { .. }));
    let is_reported_number = is_number && !matches!(convert, Some(Convert::Enum(_)));
    let known = decode.is_some();
    let bad_values = section.numbers("bad_values");
    numbers_only(&section, "bad_values", bad_values.is_some(), is_number || !known);
    let valid = section.pair("valid");
    numbers_only(&section, "valid", valid.is_some(), is_reported_number || !known);
    if valid.is_some_and(|(low, high)| low > high) {
        section.report(&section.line_of("valid"), "valid ends before it begins; write [lowest, highest]");
    }
    let deadband = section.number("deadband");
    numbers_only(&section, "deadband", deadband.is_some(), is_reported_number || !known);
    if deadband.is_some_and(|band| !(0.0..f64::INFINITY).contains(&band)) {
        section.report(&section.line_of("deadband"), "deadband is negative or not finite; write 0 or more");
    }
    let max_interval =
        section.duration_in("max_interval", Duration::from_millis(1)..=Duration::from_secs(86_400));
    let unit = section.text("unit").map(str::to_owned);
    let category = category(&mut section).unwrap_or_else(|| defaults.category.clone());
    section.text("description");
    let (at, path) = (section.at().clone(), section.path().to_owned());
    let (address, decode) = (address.map(|(_, address)| address), decode);
    if let (Some(address), Some(decode)) = (address, &decode) {
        check_end(&section, address, decode);
    }
    section.finish();
    let tag = Tag {
        name: name?.into(),
        category,
        table,
        address: address?,
        decode: decode?,
        convert: convert?,
        unit,
        bad_values: bad_values.map(|(_, values)| values).unwrap_or_default(),
        valid,
        deadband,
        max_interval: max_interval.or(deadband.map(|_| DEFAULT_MAX_INTERVAL)),
    };
    Some(ParsedTag { tag: Arc::new(tag), at, path })
}

/// Reads `category`.
pub(super) fn category(section: &mut Section<'_>) -> Option<Category> {
    let text = section.text("category")?;
    match Category::new(text) {
        Ok(category) => Some(category),
        Err(error) => {
            section.report(&section.line_of("category"), format!("category \"{text}\": {error}"));
            None
        }
    }
}

/// Tells whether a text can name a tag; reports it if not.
pub(super) fn check_name(section: &Section<'_>, name: &str) -> bool {
    let good = !name.trim().is_empty()
        && name.trim() == name
        && name.len() <= NAME_MAX_BYTES
        && !name.chars().any(char::is_control);
    if !good {
        let message = format!(
            "name {name:?} cannot name a tag; write 1 to {NAME_MAX_BYTES} bytes without control characters or outer spaces"
        );
        section.report(&section.line_of("name"), message);
    }
    good
}

fn numbers_only(section: &Section<'_>, key: &str, given: bool, is_number: bool) {
    if given && !is_number {
        let hint = if key == "deadband" { "; max_interval alone reports every change" } else { "" };
        section.report(&section.line_of(key), format!("{key} is for numbers; remove it{hint}"));
    }
}

fn table(section: &mut Section<'_>) -> Option<Table> {
    let word = section.text("table")?;
    let table = TABLES.iter().find(|(known, _)| *known == word).map(|(_, table)| *table);
    if table.is_none() {
        let message = format!("table \"{word}\" is none; use coil, discrete, input or holding");
        section.report(&section.line_of("table"), message);
    }
    table
}

/// Reads `address`: a number, or a notation that names the table too.
fn address_of(
    section: &mut Section<'_>,
    table: Option<Table>,
    defaults: &TagDefaults,
) -> Option<(Table, u16)> {
    let Some(node) = section.get("address") else {
        section.missing("address", "address = 100 or address = \"40101\"");
        return None;
    };
    match &node.value {
        Value::Integer(number) => {
            let base = i128::from(defaults.address_base);
            let address = u16::try_from(number.saturating_sub(base)).ok();
            if address.is_none() {
                let (from, to) = (base, base + 65_535);
                let message =
                    format!("address {number} is none; write {from} to {to} (address_base is {base})");
                section.report(&node.at, message);
            }
            Some((table.unwrap_or(Table::Holding), address?))
        }
        Value::Text(text) => {
            let Some((named, address)) = address::parse(text) else {
                let message = format!(
                    "address \"{text}\" is not in the notation of manuals; write five or six digits that begin with 0, 1, 3 or 4, or a number without quotes"
                );
                section.report(&node.at, message);
                return None;
            };
            if table.is_some_and(|table| table != named) {
                let message = format!(
                    "address \"{text}\" is of the table {}, but table says another; remove one of them",
                    named.word()
                );
                section.report(&node.at, message);
            }
            Some((named, address))
        }
        _ => {
            section.wrong("address", node, "a number, or \"40101\"");
            None
        }
    }
}

fn decode(section: &mut Section<'_>, table: Table) -> Option<Decode> {
    let word = section.text("type");
    let at = section.line_of("type");
    let decode = match word {
        _ if table.is_bits() => {
            if word.is_some_and(|word| word != "bool") {
                let message =
                    format!("type \"{}\": a {} is a bool; write bool", word.unwrap_or(""), table.word());
                section.report(&at, message);
            }
            Some(Decode::Bool)
        }
        None => {
            if section.get("type").is_none() {
                section.missing("type", "the type of the registers, for instance type = \"u16\"");
            }
            None
        }
        Some("bit") => bit(section).map(Decode::Bit),
        Some("string") => text(section),
        Some("bool") => {
            let message = "type \"bool\" is for coils and discrete inputs; use type = \"bit\" with bit = 0 to 15 for a register";
            section.report(&at, message);
            None
        }
        Some(word) => number(section, word, &at),
    };
    // Keys of another type are known and still wrong here.
    for (key, fits) in [
        ("bit", matches!(word, Some("bit"))),
        ("length", matches!(word, Some("string"))),
        ("padding", matches!(word, Some("string"))),
        ("byte", matches!(word, Some("u8" | "i8"))),
        ("order", decode.is_none() || decode.as_ref().is_some_and(has_order)),
    ] {
        if let (Some(node), false) = (section.get(key), fits) {
            section.report(&node.at, format!("{key} does not belong to this type; remove it"));
        }
    }
    decode
}

const fn has_order(decode: &Decode) -> bool {
    match decode {
        Decode::Bool | Decode::Bit(_) => false,
        Decode::Text { .. } => true,
        Decode::Number { kind, .. } => {
            !matches!(kind, NumberKind::U8High | NumberKind::U8Low | NumberKind::I8High | NumberKind::I8Low)
        }
    }
}

fn bit(section: &mut Section<'_>) -> Option<u8> {
    if section.get("bit").is_none() {
        section.missing("bit", "bit = 0 to 15, 0 the least significant");
    }
    section.integer("bit", 0..=15)
}

fn text(section: &mut Section<'_>) -> Option<Decode> {
    if section.get("length").is_none() {
        section.missing("length", "length = the number of bytes");
    }
    let length = section.integer("length", 1..=TEXT_MAX_BYTES);
    let padding = section.integer("padding", 0..=255).unwrap_or(0);
    let order = order(section, 2)?;
    Some(Decode::Text { length: length?, padding, swapped: order == "BA" })
}

fn number(section: &mut Section<'_>, word: &str, at: &At) -> Option<Decode> {
    let Some((_, kind)) = kind::NUMBERS.iter().find(|(known, _)| *known == word) else {
        let known: Vec<_> = kind::NUMBERS.iter().map(|(word, _)| *word).collect();
        let known = known.join(", ");
        section.report(at, format!("type \"{word}\" is none; use bool, bit, {known} or string"));
        return None;
    };
    let kind = match (kind, byte(section)) {
        (NumberKind::U8Low, "high") => NumberKind::U8High,
        (NumberKind::I8Low, "high") => NumberKind::I8High,
        (kind, _) => *kind,
    };
    Some(Decode::Number { kind, order: kind::places(order(section, kind.bytes())?) })
}

fn byte<'a>(section: &mut Section<'a>) -> &'a str {
    match section.text("byte") {
        Some(word @ ("high" | "low")) => word,
        Some(word) => {
            section.report(&section.line_of("byte"), format!("byte \"{word}\" is none; use high or low"));
            "low"
        }
        None => "low",
    }
}

/// Reads `order` for a value of so many bytes; the usual one if it is not said.
fn order(section: &mut Section<'_>, bytes: usize) -> Option<&'static str> {
    let orders = kind::orders(bytes);
    let Some(node) = section.get("order") else { return orders.first().copied() };
    let word = section.text("order")?;
    let order = orders.iter().find(|order| **order == word).copied();
    if order.is_none() {
        let (last, others) = orders.split_last()?;
        let message = format!(
            "order \"{word}\" is not an order of a {}-bit value; use {} or {last}",
            bytes * 8,
            others.join(", ")
        );
        section.report(&node.at, message);
    }
    order
}

/// Reads the one of scale and offset, from and to, enum, counter that is there.
fn convert(section: &mut Section<'_>, decode: Option<&Decode>) -> Option<Convert> {
    let scaled = scaled(section);
    let ranged = ranged(section);
    let words = words(section);
    let counter = counter(section, decode);
    let given: Vec<_> =
        [("scale and offset", &scaled), ("from and to", &ranged), ("enum", &words), ("counter", &counter)]
            .into_iter()
            .filter_map(|(name, convert)| convert.is_some().then_some(name))
            .collect();
    if given.len() > 1 {
        section.report(section.at(), format!("{} exclude each other; keep one", given.join(", ")));
    }
    let convert = scaled.or(ranged).or(words).or(counter).unwrap_or(Ok(Convert::None)).ok()?;
    let fits = match (&convert, decode) {
        (Convert::None, _) | (_, None) => true,
        (Convert::Linear { .. }, Some(decode)) => matches!(decode, Decode::Number { .. }),
        (_, Some(Decode::Number { kind, .. })) => kind.is_integer(),
        _ => false,
    };
    if !fits {
        let name = given.first().copied().unwrap_or_default();
        section.report(section.at(), format!("{name} cannot be used with this type; remove it"));
        return None;
    }
    Some(convert)
}

/// A conversion that is there; `Err` if it was reported.
type Given = Option<Result<Convert, ()>>;

fn scaled(section: &mut Section<'_>) -> Given {
    let is_there = section.get("scale").is_some() | section.get("offset").is_some();
    if !is_there {
        return None;
    }
    let (scale, offset) = (section.number("scale").unwrap_or(1.0), section.number("offset").unwrap_or(0.0));
    if !scale.is_finite() || !offset.is_finite() || scale == 0.0 {
        section.report(
            &section.line_of("scale"),
            "scale must be finite and not 0, offset finite; write numbers",
        );
        return Some(Err(()));
    }
    Some(Ok(Convert::Linear { scale, offset }))
}

fn ranged(section: &mut Section<'_>) -> Given {
    let is_there = section.get("from").is_some() | section.get("to").is_some();
    if !is_there {
        return None;
    }
    if section.get("from").is_none() {
        section.missing("from", "from = [lowest raw value, highest]");
    }
    if section.get("to").is_none() {
        section.missing("to", "to = [the value for the first of from, for the second]");
    }
    let (Some((from_low, from_high)), Some((to_low, to_high))) = (section.pair("from"), section.pair("to"))
    else {
        return Some(Err(()));
    };
    let scale = (to_high - to_low) / (from_high - from_low);
    let offset = to_low - from_low * scale;
    if !scale.is_finite() || scale == 0.0 || !offset.is_finite() {
        section
            .report(&section.line_of("from"), "from and to must each have two different numbers; write them");
        return Some(Err(()));
    }
    Some(Ok(Convert::Linear { scale, offset }))
}

fn words(section: &mut Section<'_>) -> Given {
    section.get("enum")?;
    let path = section.path().to_owned();
    let Some(table) = section.table("enum", path) else { return Some(Err(())) };
    let mut words = BTreeMap::new();
    let mut good = true;
    for (key, node) in table.own_keys() {
        match (key.parse::<i64>(), &node.value) {
            (Ok(number), Value::Text(word)) => drop(words.insert(number, word.as_str().into())),
            _ => {
                good = false;
                section.report(
                    &node.at,
                    format!("enum: {key} must be an integer and stand for a text; write {key} = \"…\""),
                );
            }
        }
    }
    if words.is_empty() && good {
        good = false;
        section.report(&section.line_of("enum"), "enum has no words; write { 0 = \"stop\", 1 = \"auto\" }");
    }
    Some(if good { Ok(Convert::Enum(words)) } else { Err(()) })
}

fn counter(section: &mut Section<'_>, decode: Option<&Decode>) -> Given {
    section.get("counter")?;
    let path = section.path().to_owned();
    let Some(mut table) = section.table("counter", path) else { return Some(Err(())) };
    let modulus = table.integer("modulus", 2..=u64::MAX);
    let wrong = modulus.is_none() && table.get("modulus").is_some();
    table.finish();
    if wrong {
        return Some(Err(()));
    }
    Some(Ok(Convert::Counter { modulus: modulus.or_else(|| natural_modulus(decode)) }))
}

/// Gives where a counter of this type starts anew if nobody says it; 64 bits never do.
const fn natural_modulus(decode: Option<&Decode>) -> Option<u64> {
    let Some(Decode::Number { kind, .. }) = decode else { return None };
    match kind {
        NumberKind::U8High | NumberKind::U8Low => Some(1 << 8),
        NumberKind::U16 => Some(1 << 16),
        NumberKind::U32 => Some(1 << 32),
        NumberKind::Bcd16 => Some(10_000),
        NumberKind::Bcd32 => Some(100_000_000),
        _ => None,
    }
}

fn check_end(section: &Section<'_>, address: u16, decode: &Decode) {
    let width = decode.width();
    if address.checked_add(width - 1).is_none() {
        let (name, count) = (decode.words(), count_word(width));
        let name = name.split(' ').next().unwrap_or_default();
        let message = format!("{name} at {address} needs {count} registers; the table ends at 65535");
        section.report(&section.line_of("address"), message);
    }
}

fn count_word(count: u16) -> String {
    match count {
        2 => "two".into(),
        4 => "four".into(),
        n => n.to_string(),
    }
}
