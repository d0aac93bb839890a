//! Every type and order against registers written by hand, and back through the decoder of the truth.

use super::*;
use crate::plant::model::Shown;
use crate::plant::tag::Tag;
use crate::truth::decode::{TrueValue, decode};

fn tag(keys: &str) -> Tag {
    toml::from_str(&format!("name = \"t\"\nsignal = \"speed\"\naddress = 0\n{keys}")).expect("tag")
}

fn sent(tag: &Tag, shown: &Shown) -> Vec<u16> {
    registers(tag, shown).into_iter().map(|(value, _)| value).collect()
}

#[test]
fn every_type_and_order_is_sent_as_written_by_hand_and_read_back() {
    use Shown::{Count, Number};
    use TrueValue::{F32, F64, Integer};
    let eight = Count(0x0102_0304_0506_0708);
    let eight_is = Integer(0x0102_0304_0506_0708);
    let cases = [
        ("u16", "AB", Count(0x1234), vec![0x1234], Integer(0x1234)),
        ("u16", "BA", Count(0x1234), vec![0x3412], Integer(0x1234)),
        ("i16", "AB", Number(-2.0), vec![0xfffe], Integer(-2)),
        ("i16", "BA", Number(-2.0), vec![0xfeff], Integer(-2)),
        ("u32", "ABCD", Count(0x0102_0304), vec![0x0102, 0x0304], Integer(0x0102_0304)),
        ("u32", "DCBA", Count(0x0102_0304), vec![0x0403, 0x0201], Integer(0x0102_0304)),
        ("u32", "BADC", Count(0x0102_0304), vec![0x0201, 0x0403], Integer(0x0102_0304)),
        ("u32", "CDAB", Count(0x0102_0304), vec![0x0304, 0x0102], Integer(0x0102_0304)),
        ("i32", "ABCD", Number(-70_000.0), vec![0xfffe, 0xee90], Integer(-70_000)),
        ("i32", "CDAB", Number(-70_000.0), vec![0xee90, 0xfffe], Integer(-70_000)),
        ("f32", "ABCD", Number(-1.5), vec![0xbfc0, 0x0000], F32(-1.5)),
        ("f32", "DCBA", Number(-1.5), vec![0x0000, 0xc0bf], F32(-1.5)),
        ("u64", "ABCDEFGH", eight.clone(), vec![0x0102, 0x0304, 0x0506, 0x0708], eight_is.clone()),
        ("u64", "HGFEDCBA", eight.clone(), vec![0x0807, 0x0605, 0x0403, 0x0201], eight_is.clone()),
        ("u64", "BADCFEHG", eight.clone(), vec![0x0201, 0x0403, 0x0605, 0x0807], eight_is.clone()),
        ("u64", "GHEFCDAB", eight.clone(), vec![0x0708, 0x0506, 0x0304, 0x0102], eight_is.clone()),
        ("u64", "CDABGHEF", eight.clone(), vec![0x0304, 0x0102, 0x0708, 0x0506], eight_is.clone()),
        ("u64", "EFGHABCD", eight, vec![0x0506, 0x0708, 0x0102, 0x0304], eight_is),
        ("i64", "GHEFCDAB", Number(-3.0), vec![0xfffd, 0xffff, 0xffff, 0xffff], Integer(-3)),
        ("f64", "ABCDEFGH", Number(1.0), vec![0x3ff0, 0, 0, 0], F64(1.0)),
        ("f64", "GHEFCDAB", Number(1.0), vec![0, 0, 0, 0x3ff0], F64(1.0)),
        ("bcd16", "AB", Count(91_234), vec![0x1234], Integer(1234)),
        ("bcd32", "CDAB", Count(12_345_678), vec![0x5678, 0x1234], Integer(12_345_678)),
    ];
    for (kind, order, shown, expected, value) in cases {
        let tag = tag(&format!("type = \"{kind}\"\norder = \"{order}\""));
        assert_eq!(tag.problem(), None, "{kind} {order}");
        assert_eq!(sent(&tag, &shown), expected, "{kind} {order}");
        assert_eq!(decode(&tag, &expected), Some(value), "{kind} {order}");
    }
}

#[test]
fn bytes_bits_and_text_stand_where_they_are_asked_for() {
    let cases = [
        (
            "type = \"u8\"\nbyte = \"high\"",
            Shown::Count(0xab),
            vec![(0xab00, 0xff00)],
            TrueValue::Integer(0xab),
        ),
        ("type = \"u8\"", Shown::Count(0xab), vec![(0x00ab, 0x00ff)], TrueValue::Integer(0xab)),
        (
            "type = \"i8\"\nbyte = \"high\"",
            Shown::Number(-3.0),
            vec![(0xfd00, 0xff00)],
            TrueValue::Integer(-3),
        ),
        ("type = \"bit\"\nbit = 15", Shown::Flag(true), vec![(0x8000, 0x8000)], TrueValue::Bool(true)),
        ("type = \"bit\"\nbit = 3", Shown::Flag(false), vec![(0, 8)], TrueValue::Bool(false)),
        (
            "type = \"string\"\nlength = 5",
            Shown::Text("abc"),
            vec![(0x6162, 0xffff), (0x6300, 0xffff), (0, 0xffff)],
            TrueValue::Text("abc".to_owned()),
        ),
        (
            "type = \"string\"\nlength = 4\npadding = 32\norder = \"BA\"",
            Shown::Text("abc"),
            vec![(0x6261, 0xffff), (0x2063, 0xffff)],
            TrueValue::Text("abc".to_owned()),
        ),
        // Half a character is never sent.
        (
            "type = \"string\"\nlength = 2",
            Shown::Text("aä"),
            vec![(0x6100, 0xffff)],
            TrueValue::Text("a".to_owned()),
        ),
    ];
    for (keys, shown, expected, value) in cases {
        let tag = tag(keys);
        assert_eq!(registers(&tag, &shown), expected, "{keys}");
        let values: Vec<u16> = expected.iter().map(|(value, _)| *value).collect();
        assert_eq!(decode(&tag, &values), Some(value), "{keys}");
    }
}

#[test]
fn scales_and_names_are_taken_off_and_put_on_again() {
    let scaled = tag("type = \"i16\"\nscale = 0.1\noffset = -10.0");
    assert_eq!(sent(&scaled, &Shown::Number(15.34)), [253]);
    let Some(TrueValue::Scaled(value)) = decode(&scaled, &[253]) else { panic!("a scaled value") };
    assert!((value - 15.3).abs() < 1e-9, "{value}");
    let named = tag("type = \"u16\"\nenum = { 0 = \"stop\", 1 = \"auto\" }");
    for (raw, word) in [(1, "auto"), (7, "7")] {
        assert_eq!(decode(&named, &[raw]), Some(TrueValue::Text(word.to_owned())));
    }
}

#[test]
fn quantities_saturate_and_counters_wrap() {
    let cases = [
        ("u16", Shown::Number(70_000.0), 0xffff),
        ("u16", Shown::Number(-5.0), 0),
        ("i16", Shown::Number(40_000.0), 0x7fff),
        ("u16", Shown::Count(70_000), 4464),
    ];
    for (kind, shown, expected) in cases {
        assert_eq!(sent(&tag(&format!("type = \"{kind}\"")), &shown), [expected], "{kind} {shown:?}");
    }
}

#[test]
fn digits_above_nine_are_no_bcd() {
    assert_eq!(decode(&tag("type = \"bcd16\""), &[0x12a4]), None);
}
