//! Tests of `decode`: against a scripted device where there is a wire, against a slow reference where there is none.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::sample;
use super::*;
use crate::config::Table;

const KINDS: [NumberKind; 14] = [
    NumberKind::U8High,
    NumberKind::U8Low,
    NumberKind::I8High,
    NumberKind::I8Low,
    NumberKind::U16,
    NumberKind::I16,
    NumberKind::U32,
    NumberKind::I32,
    NumberKind::U64,
    NumberKind::I64,
    NumberKind::F32,
    NumberKind::F64,
    NumberKind::Bcd16,
    NumberKind::Bcd32,
];

fn number_tag(kind: NumberKind, order: &[u8]) -> Tag {
    let mut tag = sample::number("t", Table::Holding, 0, kind);
    tag.decode = Decode::Number { kind, order: order.to_vec() };
    tag
}

fn decoder(tag: &Tag) -> Decoder {
    Decoder::new(Arc::new(tag.clone()))
}

fn cell(tag: &Tag, words: &[u16]) -> Cell {
    decoder(tag).cell(&Reply::Registers(words.to_vec()), 0)
}

fn good(value: Value) -> Cell {
    Cell::Good(value)
}

#[test]
fn every_type_is_read_in_every_order() {
    let float = 0x4148_f5c3_u32; // 12.56
    let table: Vec<(NumberKind, &[u8], &[u16], Value)> = vec![
        (NumberKind::U8High, &[0], &[0xfe01], Value::U64(0xfe)),
        (NumberKind::U8Low, &[0], &[0xfe01], Value::U64(1)),
        (NumberKind::I8High, &[0], &[0xfe01], Value::I64(-2)),
        (NumberKind::I8Low, &[1], &[0x01ff], Value::I64(-1)),
        (NumberKind::U16, &[0, 1], &[0x1234], Value::U64(0x1234)),
        (NumberKind::U16, &[1, 0], &[0x1234], Value::U64(0x3412)),
        (NumberKind::I16, &[0, 1], &[0x8000], Value::I64(-32_768)),
        (NumberKind::U32, &[0, 1, 2, 3], &[0x0102, 0x0304], Value::U64(0x0102_0304)), // ABCD
        (NumberKind::U32, &[3, 2, 1, 0], &[0x0102, 0x0304], Value::U64(0x0403_0201)), // DCBA
        (NumberKind::U32, &[1, 0, 3, 2], &[0x0102, 0x0304], Value::U64(0x0201_0403)), // BADC
        (NumberKind::U32, &[2, 3, 0, 1], &[0x0102, 0x0304], Value::U64(0x0304_0102)), // CDAB
        (NumberKind::I32, &[2, 3, 0, 1], &[0xfffe, 0xffff], Value::I64(-2)),
        (NumberKind::F32, &[2, 3, 0, 1], &[0xf5c3, 0x4148], Value::F32(f32::from_bits(float))),
        (NumberKind::I64, &[6, 7, 4, 5, 2, 3, 0, 1], &[1, 0, 0, 0x8000], Value::I64(i64::MIN + 1)),
        (NumberKind::U64, &[0, 1, 2, 3, 4, 5, 6, 7], &[0xffff; 4], Value::U64(u64::MAX)),
        (NumberKind::F64, &[0, 1, 2, 3, 4, 5, 6, 7], &[0x3ff8, 0, 0, 0], Value::F64(1.5)),
        (NumberKind::Bcd16, &[0, 1], &[0x9876], Value::U64(9_876)),
        (NumberKind::Bcd32, &[2, 3, 0, 1], &[0x5678, 0x1234], Value::U64(12_345_678)),
    ];
    for (kind, order, words, value) in table {
        let tag = number_tag(kind, order);
        assert_eq!(cell(&tag, words), good(value.clone()), "{kind:?} {order:?} {words:x?}");
        assert_eq!(decoder(&tag).value_type(), value.value_type(), "{kind:?}");
    }
}

#[test]
fn unscaled_floats_keep_every_bit() {
    for bits in [0x7fa0_0001_u32, 0xffc1_2345, 0x8000_0000, 1, 0x7f80_0000] {
        let words = [(bits >> 16) as u16, bits as u16];
        let seen = cell(&number_tag(NumberKind::F32, &[0, 1, 2, 3]), &words);
        assert!(seen.same_bits(&good(Value::F32(f32::from_bits(bits)))), "{bits:#x}: {seen:?}");
    }
}

#[test]
fn bits_of_registers_and_coils_are_truth_values() {
    let tag = |decode| sample::tag("t", Table::Holding, 0, decode);
    for (bit, is_set) in [(0, true), (1, false), (15, true)] {
        assert_eq!(cell(&tag(Decode::Bit(bit)), &[0x8001]), good(Value::Bool(is_set)), "bit {bit}");
    }
    let coil = decoder(&sample::bit("t", Table::Coil, 0));
    let reply = Reply::Bits(vec![false, true]);
    assert_eq!([coil.cell(&reply, 0), coil.cell(&reply, 1)], [false, true].map(|b| good(Value::Bool(b))));
    assert_eq!(coil.cell(&reply, 2), Cell::Bad(Quality::NOT_DECODABLE));
}

#[test]
fn text_ends_at_its_length_and_padding_and_must_be_utf8() {
    let text = |length, padding, swapped| {
        sample::tag("t", Table::Holding, 0, Decode::Text { length, padding, swapped })
    };
    let words = [0x4162, 0x2043, 0x2020]; // "Ab C  "
    for (tag, expected) in [
        (text(6, b' ', false), "Ab C"),
        (text(3, b' ', false), "Ab"),
        (text(6, 0, false), "Ab C  "),
        (text(6, b' ', true), "bAC"),
        (text(5, b' ', true), "bAC"),
    ] {
        assert_eq!(cell(&tag, &words), good(Value::Text(expected.into())), "{:?}", tag.decode);
    }
    assert_eq!(cell(&text(2, b' ', false), &[0x2020]), good(Value::Text("".into())));
    assert_eq!(cell(&text(2, b' ', false), &[0xc328]), Cell::Bad(Quality::NOT_DECODABLE));
}

#[test]
fn conversions_change_the_value_and_a_counter_keeps_the_raw_integer() {
    let with = |convert| {
        let mut tag = number_tag(NumberKind::U16, &[0, 1]);
        tag.convert = convert;
        tag
    };
    let modes = Convert::Enum(BTreeMap::from([(0, "stop".into()), (2, "manual".into())]));
    for (convert, raw, expected) in [
        (Convert::Linear { scale: 0.1, offset: -40.0 }, 500, Value::F64(500.0 * 0.1 - 40.0)),
        (modes.clone(), 2, Value::Text("manual".into())),
        (modes, 65_535, Value::Text("65535".into())),
        (Convert::Counter { modulus: Some(1_000) }, 65_535, Value::U64(65_535)),
    ] {
        let tag = with(convert);
        assert_eq!(cell(&tag, &[raw]), good(expected.clone()), "{:?}", tag.convert);
        assert_eq!(decoder(&tag).value_type(), expected.value_type());
    }
}

#[test]
fn bad_values_are_raw_and_the_valid_range_is_of_the_converted_value() {
    let mut tag = number_tag(NumberKind::I16, &[0, 1]);
    tag.convert = Convert::Linear { scale: 0.1, offset: 0.0 };
    tag.bad_values = vec![-32_768.0, 300.0];
    tag.valid = Some((-10.0, 50.0));
    for (raw, quality) in [
        (0x8000, Quality::BAD_VALUE),
        (300, Quality::BAD_VALUE),
        (501, Quality::OUT_OF_RANGE),
        (0_u16.wrapping_sub(101), Quality::OUT_OF_RANGE),
    ] {
        assert_eq!(cell(&tag, &[raw]), Cell::Bad(quality), "{raw}");
    }
    for raw in [500, 30, 0_u16.wrapping_sub(100)] {
        assert!(cell(&tag, &[raw]).value().is_some(), "{raw}");
    }
}

#[test]
fn bad_values_tell_the_ends_of_the_64_bit_types_from_their_neighbours() {
    let mut unsigned = number_tag(NumberKind::U64, &[0, 1, 2, 3, 4, 5, 6, 7]);
    unsigned.bad_values = vec![u64::MAX as f64, -1.0, 0.5];
    assert_eq!(cell(&unsigned, &[0xffff; 4]), Cell::Bad(Quality::BAD_VALUE));
    assert_eq!(cell(&unsigned, &[0xffff, 0xffff, 0xffff, 0xfffe]), good(Value::U64(u64::MAX - 1)));
    assert_eq!(cell(&unsigned, &[0; 4]), good(Value::U64(0)));
    let mut float = number_tag(NumberKind::F32, &[0, 1, 2, 3]);
    float.bad_values = vec![f64::NAN, 0.1];
    assert_eq!(cell(&float, &[0x7fc0, 1]), Cell::Bad(Quality::BAD_VALUE));
    assert_eq!(cell(&float, &[0x3dcc, 0xcccd]), Cell::Bad(Quality::BAD_VALUE));
    (float.bad_values, float.valid) = (Vec::new(), Some((f64::NEG_INFINITY, f64::INFINITY)));
    assert_eq!(cell(&float, &[0x7fc0, 1]), Cell::Bad(Quality::OUT_OF_RANGE));
}

#[test]
fn digits_above_nine_are_no_bcd() {
    for words in [[0x00a0], [0xf000], [0x000b]] {
        assert_eq!(cell(&number_tag(NumberKind::Bcd16, &[0, 1]), &words), Cell::Bad(Quality::NOT_DECODABLE));
    }
}

/// The same by way of decimal text and byte strings, to be slow in another way.
fn reference(kind: NumberKind, order: &[u8], words: &[u16]) -> Cell {
    let sent: Vec<u8> = words.iter().flat_map(|w| [(w / 256) as u8, (w % 256) as u8]).collect();
    let bytes: Vec<u8> = match kind {
        NumberKind::U8High | NumberKind::I8High => vec![sent[0]],
        NumberKind::U8Low | NumberKind::I8Low => vec![sent[1]],
        _ => order.iter().map(|&place| sent[usize::from(place)]).collect(),
    };
    let unsigned = bytes.iter().fold(0_i128, |sum, &byte| sum * 256 + i128::from(byte));
    let range = 256_i128.pow(u32::try_from(bytes.len()).unwrap());
    let signed = if unsigned >= range / 2 { unsigned - range } else { unsigned };
    let value = match kind {
        NumberKind::U8High | NumberKind::U8Low | NumberKind::U16 | NumberKind::U32 | NumberKind::U64 => {
            Value::U64(u64::try_from(unsigned).unwrap())
        }
        NumberKind::I8High | NumberKind::I8Low | NumberKind::I16 | NumberKind::I32 | NumberKind::I64 => {
            Value::I64(i64::try_from(signed).unwrap())
        }
        NumberKind::F32 => Value::F32(f32::from_be_bytes(bytes.try_into().unwrap())),
        NumberKind::F64 => Value::F64(f64::from_be_bytes(bytes.try_into().unwrap())),
        NumberKind::Bcd16 | NumberKind::Bcd32 => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            match hex.parse() {
                Ok(number) => Value::U64(number),
                Err(_) => return Cell::Bad(Quality::NOT_DECODABLE),
            }
        }
    };
    Cell::Good(value)
}

proptest! {
    #[test]
    fn decoding_agrees_with_a_slow_reference(
        kind in prop::sample::select(&KINDS[..]),
        shuffled in Just([0_u8, 1, 2, 3, 4, 5, 6, 7].to_vec()).prop_shuffle(),
        words in prop::collection::vec(prop_oneof![any::<u16>(), 0_u16..10, Just(0x7fc0), Just(0x1234)], 4),
    ) {
        let bytes = number_tag(kind, &[]).decode.width() * 2;
        let order: Vec<u8> = shuffled.into_iter().filter(|&place| u16::from(place) < bytes).collect();
        let seen = cell(&number_tag(kind, &order), &words);
        let expected = reference(kind, &order, &words);
        prop_assert!(seen.same_bits(&expected), "{:?}, not {:?}", seen, expected);
    }

    #[test]
    fn no_reply_and_no_offset_make_it_panic(
        kind in prop::sample::select(&KINDS[..]),
        order in prop::collection::vec(any::<u8>(), 0..10),
        words in prop::collection::vec(any::<u16>(), 0..6),
        offset in prop_oneof![0_usize..8, Just(usize::MAX)],
        length in 0_u16..20,
        bit in any::<u8>(),
    ) {
        let text = Decode::Text { length, padding: 0, swapped: false };
        let numbers = Decode::Number { kind, order };
        for decode in [Decode::Bool, Decode::Bit(bit), numbers, text] {
            let tag = sample::tag("t", Table::Holding, 0, decode);
            let decoder = decoder(&tag);
            for reply in [Reply::Registers(words.clone()), Reply::Bits(vec![true; words.len()])] {
                let cell = decoder.cell(&reply, offset);
                prop_assert!(cell.is_point());
                if offset >= words.len() {
                    prop_assert_eq!(cell, Cell::Bad(Quality::NOT_DECODABLE));
                }
            }
        }
    }
}
