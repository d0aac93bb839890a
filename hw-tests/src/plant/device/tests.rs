//! What a unit answers, and what each fault makes of it.

use super::*;
use crate::plant::model::Shown;
use crate::plant::tag::Tag;

/// The machine runs in its first state, automatic.
const NOW: Duration = Duration::from_secs(3);

fn device() -> Device {
    #[derive(serde::Deserialize)]
    struct Tags {
        tags: Vec<Tag>,
    }
    let text = r#"tags = [
        { name = "polls", signal = "polls", address = 10, type = "u32" },
        { name = "parts", signal = "parts", address = 14, type = "u16" },
        { name = "hot", signal = "overheated", address = 15, type = "bit", bit = 2 },
        { name = "mode", signal = "state", address = 15, type = "u8", byte = "high" },
        { name = "count", signal = "polls", table = "coil", address = 3, type = "bool" },
        { name = "running", signal = "running", table = "coil", address = 5, type = "bool" },
    ]"#;
    Device::new("press-01", 1, 20, toml::from_str::<Tags>(text).expect("tags").tags, 7)
}

fn read(function: u8, address: u16, count: u16) -> Request {
    Request { function, address, count }
}

fn fault(kind: &str) -> Vec<Fault> {
    vec![
        serde_json::from_str(&format!(r#"{{"machine":"press-01","kind":"{kind}","delay":"70 ms"}}"#))
            .expect("fault"),
    ]
}

fn pdu_of(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Reply { pdu, .. } => pdu,
        other => panic!("{other:?}"),
    }
}

#[test]
fn registers_that_share_a_place_and_gaps_are_read_together() {
    let device = device();
    let mut model = Model::new(7);
    model.run_to(NOW);
    let Shown::Count(parts) = model.show(Signal::Parts, 0) else { panic!("parts are counted") };
    let pdu = pdu_of(device.answer(read(3, 10, 6), NOW, &[]));
    assert_eq!(pdu[..10], [3, 12, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(pdu[10..], [0, parts as u8, 1, 0]);
    assert_eq!(pdu_of(device.answer(read(1, 3, 3), NOW, &[])), [1, 1, 0b101]);
}

#[test]
fn the_poll_counter_counts_replies_that_hold_the_whole_tag() {
    let device = device();
    let mut counts = Vec::new();
    for (address, count) in [(10, 6), (11, 5), (10, 2), (12, 4), (10, 1), (10, 6)] {
        let pdu = pdu_of(device.answer(read(3, address, count), NOW, &[]));
        if address == 10 && count > 1 {
            counts.push(pdu[5]);
        }
    }
    assert_eq!(counts, [1, 2, 3]);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_standards_exception() {
    let cases = [
        (read(6, 10, 1), ILLEGAL_FUNCTION),
        (read(3, 9, 2), ILLEGAL_ADDRESS),
        (read(3, 15, 2), ILLEGAL_ADDRESS),
        (read(4, 10, 2), ILLEGAL_ADDRESS),
        (read(3, 10, 0), ILLEGAL_VALUE),
        (read(3, 10, 21), ILLEGAL_VALUE),
        (read(1, 3, 2001), ILLEGAL_VALUE),
    ];
    for (request, code) in cases {
        assert_eq!(
            pdu_of(device().answer(request, NOW, &[])),
            [request.function | 0x80, code],
            "{request:?}"
        );
    }
}

#[test]
fn each_fault_bends_the_answer_as_it_is_named() {
    let device = device();
    let ask = |kind| device.answer(read(3, 10, 4), NOW, &fault(kind));
    assert_eq!(ask("dead"), Answer::Silence);
    assert_eq!(ask("close"), Answer::Close);
    assert_eq!(pdu_of(ask("exception")), [0x83, 4]);
    let short = pdu_of(ask("wrong_length"));
    assert_eq!((short[1], short.len()), (6, 8));
    for (kind, shift, delay) in [("wrong_unit", 1, 0), ("late", 0, 70), ("frozen", 0, 0)] {
        let Answer::Reply { unit_shift, delay: held, fault, .. } = ask(kind) else {
            panic!("{kind} replies")
        };
        assert_eq!((unit_shift, held), (shift, Duration::from_millis(delay)), "{kind}");
        assert_eq!(serde_json::to_value(fault).expect("json"), kind);
    }
    let bits = pdu_of(device.answer(read(1, 3, 3), NOW, &fault("wrong_length")));
    assert_eq!((bits[1], bits.len()), (2, 4));
}

#[test]
fn frozen_values_stand_still_while_the_poll_counter_goes_on_and_move_again_afterwards() {
    let device = device();
    let later = NOW + Duration::from_secs(60);
    let ask = |elapsed, faults: &[Fault]| pdu_of(device.answer(read(3, 10, 5), elapsed, faults));
    let first = ask(NOW, &fault("frozen"));
    let frozen = ask(later, &fault("frozen"));
    assert_eq!((first[5], frozen[5]), (1, 2));
    assert_eq!(first[6..], frozen[6..]);
    assert_ne!(ask(later, &[])[6..], frozen[6..]);
}
