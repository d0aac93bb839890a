//! Tests of `readings`: against a scripted device where there is a wire, against a slow reference where there is none.

use proptest::prelude::*;

use super::super::plan::plan;
use super::super::sample;
use super::*;
use crate::config::{NumberKind, Table};

/// Polls a device of one tag once a second; what stood in the rows, by the second.
fn reported(tag: Tag, cells: &[Cell]) -> Vec<usize> {
    let mut readings = Readings::new(&sample::device(1, vec![tag]));
    let mut seconds = Vec::new();
    for (second, cell) in cells.iter().enumerate() {
        readings.put(0, cell.clone(), Duration::from_secs(second as u64));
        let delivery = readings.deliver(0, ClockSegment::default());
        if let Some(row) = delivery.rows.first() {
            assert!(row.row.cells.len() == 1 && row.row.cells[0].same_bits(cell), "{:?}", row.row.cells);
            seconds.push(second);
        }
    }
    seconds
}

fn good(number: u64) -> Cell {
    Cell::Good(Value::U64(number))
}

fn float(number: f64) -> Cell {
    Cell::Good(Value::F64(number))
}

#[test]
fn without_a_deadband_every_good_point_is_reported() {
    assert_eq!(reported(sample::holding("t", 0), &[good(1), good(1), good(2)]), [0, 1, 2]);
}

#[test]
fn a_deadband_lets_through_what_moved_further_than_it_since_the_last_report() {
    let mut tag = sample::number("t", Table::Holding, 0, NumberKind::F64);
    tag.deadband = Some(0.5);
    let cells = [1.0, 1.4, 1.5, 1.6, 1.2, 1.05, f64::NAN, f64::NAN, 1.0].map(float);
    assert_eq!(reported(tag, &cells), [0, 3, 5, 6, 8]);
    let mut tag = sample::number("t", Table::Holding, 0, NumberKind::U64);
    tag.deadband = Some(1.0);
    let cells = [1 << 60, (1 << 60) + 1, (1 << 60) + 2].map(good);
    assert_eq!(reported(tag, &cells), [0, 2]);
}

#[test]
fn a_max_interval_alone_lets_through_changes_and_one_point_per_interval() {
    let mut tag = sample::holding("t", 0);
    tag.max_interval = Some(Duration::from_secs(3));
    let cells = [1, 1, 2, 2, 2, 2, 2, 2, 3].map(good);
    assert_eq!(reported(tag, &cells), [0, 2, 5, 8]);
}

#[test]
fn a_bad_point_is_repeated_only_with_another_reason_or_after_a_minute() {
    let mut cells = vec![good(1), Cell::Bad(Quality::TIMEOUT)];
    cells.extend(vec![Cell::Bad(Quality::BACKOFF); 62]);
    cells.extend([good(1), Cell::Bad(Quality::BACKOFF)]);
    assert_eq!(reported(sample::holding("t", 0), &cells), [0, 1, 2, 62, 64, 65]);
}

#[test]
fn a_good_point_after_a_bad_one_is_reported_even_if_the_value_did_not_move() {
    let mut tag = sample::holding("t", 0);
    tag.deadband = Some(10.0);
    let cells = [good(1), Cell::Bad(Quality::TIMEOUT), good(1), good(1)];
    assert_eq!(reported(tag, &cells), [0, 1, 2]);
}

/// Three categories, some tags with deadbands.
fn device(tags: usize) -> Device {
    let tag = |i: usize| {
        let mut tag = sample::holding(&format!("t{i}"), u16::try_from(i * 4).unwrap());
        tag.category = Category::new(["a", "b", "c"][i % 3]).unwrap();
        tag.deadband = i.is_multiple_of(2).then_some(2.0);
        tag
    };
    sample::device(1, (0..tags).map(tag).collect())
}

proptest! {
    #[test]
    fn the_counts_of_every_delivery_add_up_and_layouts_never_change(
        tags in 1_usize..12,
        // For each cycle: ticks skipped, and for each block an offset of its values or a quality.
        cycles in prop::collection::vec(
            (0_u64..3, prop::collection::vec(prop::result::maybe_ok(0_u16..6, 1_u8..10), 12)), 1..30),
    ) {
        let mut device = device(tags);
        device.limits.max_registers = 9;
        let requests = plan(&device);
        let mut readings = Readings::new(&device);
        let mut layouts = std::collections::BTreeMap::new();
        for (second, (skipped, outcomes)) in cycles.iter().enumerate() {
            let at = Duration::from_secs(second as u64);
            readings.skip(*skipped);
            for (request, outcome) in requests.iter().zip(outcomes) {
                match outcome {
                    Ok(plus) => {
                        let words = (0..request.count).map(|i| request.address + i + plus).collect();
                        readings.take(request, &Reply::Registers(words), at);
                    }
                    Err(code) => readings.fail(request, Quality::from_code(*code).unwrap(), at),
                }
            }
            let delivery = readings.deliver(7, ClockSegment::default());
            let counts = delivery.counts[0].1;
            let points: usize = delivery.rows.iter().map(|row| row.row.points()).sum();
            prop_assert_eq!(counts.due, tags as u64 * (1 + skipped));
            prop_assert_eq!(counts.due, counts.good + counts.bad + counts.skipped);
            prop_assert_eq!(counts.good + counts.bad, counts.suppressed + points as u64);
            for row in delivery.rows {
                prop_assert!(row.row.points() > 0 && row.row.time_us == 7);
                prop_assert_eq!(row.row.cells.len(), row.row.layout.columns().len());
                let id = *layouts.entry(row.category).or_insert(row.row.layout.id());
                prop_assert_eq!(id, row.row.layout.id());
            }
        }
    }
}
