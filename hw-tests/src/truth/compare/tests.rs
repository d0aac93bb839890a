//! The comparison finds what it is for, and excuses nothing else.

use super::*;

/// A device with a poll counter and a speed, and a publisher; `replies` are (time, connection, polls,
/// fault), `hung_up` the connections that the client closed.
fn truth(replies: &[(i64, u64, u16, &str)], hung_up: &[u64], publishes: &[(i64, usize)]) -> Truth {
    let mut lines = vec![
        r#"{"kind":"device","machine":"s/m","bus":"a","unit":1,"tags":[
            {"name":"polls","signal":"polls","address":0,"type":"u32"},
            {"name":"level","signal":"speed","address":2,"type":"u16","scale":0.1}]}"#
            .replace('\n', " "),
        r#"{"kind":"publisher","machine":"s/p","topic":"t","tags":[["a","x.a"],["b","x.b"]]}"#.to_owned(),
    ];
    for (t, connection, polls, fault) in replies {
        let fault = if fault.is_empty() { String::new() } else { format!(r#","fault":"{fault}""#) };
        lines.push(format!(
            r#"{{"kind":"reply","t":{t},"machine":"s/m","bus":"a","unit":1,"connection":{connection},"function":3,"address":0,"count":3,"registers":[0,{polls},50]{fault}}}"#
        ));
    }
    for connection in hung_up {
        lines.push(format!(r#"{{"kind":"hung_up","t":0,"bus":"a","connection":{connection}}}"#));
    }
    for (ms, receivers) in publishes {
        lines.push(format!(
            r#"{{"kind":"publish","t":1,"topic":"t","receivers":{receivers},"payload":"{{\"ts\":{ms},\"x\":{{\"a\":{ms},\"b\":0.1}}}}"}}"#
        ));
    }
    lines.push(r#"{"kind":"stopped","t":9}"#.to_owned());
    Truth::parse(&(lines.join("\n") + "\n{\"kind\":\"repl")).expect("truth")
}

fn number(machine: &str, tag: &str, time_us: i64, value: f64) -> LakePoint {
    LakePoint { machine: machine.to_owned(), tag: tag.to_owned(), time_us, value: LakeValue::Number(value) }
}

/// Both tags of the device at each count.
fn polled(counts: &[u16]) -> Vec<LakePoint> {
    let both = |(n, count): (usize, &u16)| {
        let time = 1000 + n as i64;
        [number("s/m", "polls", time, f64::from(*count)), number("s/m", "level", time, 5.000_000_000_000_001)]
    };
    counts.iter().enumerate().flat_map(both).collect()
}

fn words(report: &Report) -> Vec<String> {
    report.problems.iter().map(|problem| format!("{} {:?}", problem.tag, problem.wrong)).collect()
}

const FOUR: [(i64, u64, u16, &str); 4] = [(10, 1, 1, ""), (20, 1, 2, ""), (30, 2, 3, ""), (40, 2, 4, "")];

#[test]
fn everything_found_once_is_complete() {
    let truth = truth(&FOUR, &[], &[]);
    let report = compare(&truth, polled(&[1, 2, 3, 4]), &[]);
    assert_eq!((report.sent, report.found, report.excused), (8, 8, 0));
    assert!(report.is_complete() && truth.stopped, "{:?}", words(&report));
    assert_eq!(truth.values(), 8);
}

#[test]
fn losses_doubles_and_strangers_are_named() {
    let truth = truth(&FOUR, &[], &[]);
    let cases: [(&[u16], &[&str]); 4] = [
        (&[1, 2, 4], &["level Missing(Scaled(5.0))", "polls Missing(Integer(3))"]),
        (&[1, 2, 2, 3, 4], &["level Unknown(Number(5.000000000000001))", "polls Doubled(Number(2.0))"]),
        (&[1, 2, 3, 9], &["polls Unknown(Number(9.0))", "polls Missing(Integer(4))"]),
        (&[1, 3, 2, 4], &["polls Different(Integer(2), Number(3.0))"]),
    ];
    for (counts, expected) in cases {
        assert_eq!(words(&compare(&truth, polled(counts), &[])), expected, "{counts:?}");
    }
}

#[test]
fn a_killed_agent_excuses_the_last_replies_of_its_connection_and_nothing_else() {
    let truth = truth(&FOUR, &[], &[]);
    let kill = [Excuse { from_us: 5, to_us: 25 }];
    for (counts, complete) in [
        (&[1, 2, 3, 4][..], true),
        (&[1, 3, 4], true),
        (&[3, 4], true),
        (&[2, 3, 4], false),
        (&[1, 2, 3], false),
    ] {
        let report = compare(&truth, polled(counts), &kill);
        assert_eq!(report.is_complete(), complete, "{counts:?}: {:?}", words(&report));
    }
    assert_eq!(compare(&truth, polled(&[3, 4]), &kill).excused, 4);
}

#[test]
fn a_reply_that_the_client_gave_up_or_that_came_late_may_be_missing() {
    let truth_of = |hung_up: &[u64]| truth(&FOUR, hung_up, &[]);
    assert!(compare(&truth_of(&[1]), polled(&[1, 3, 4]), &[]).is_complete());
    assert!(!compare(&truth_of(&[1]), polled(&[1, 2, 3]), &[]).is_complete());
    let late = truth(&[(10, 1, 1, ""), (20, 1, 2, "late"), (30, 1, 3, "")], &[], &[]);
    for counts in [&[1, 2, 3][..], &[1, 3]] {
        assert!(compare(&late, polled(counts), &[]).is_complete(), "{counts:?}");
    }
    let bent = truth(&[(10, 1, 1, ""), (20, 1, 2, "wrong_unit"), (30, 1, 3, "frozen")], &[], &[]);
    assert!(compare(&bent, polled(&[1, 3]), &[]).is_complete());
    assert!(
        !compare(&bent, polled(&[1, 2, 3]), &[]).is_complete(),
        "a value from a bent reply is a stranger"
    );
}

#[test]
fn publishes_are_matched_by_their_time_and_only_those_that_had_a_receiver() {
    let truth = truth(&[], &[], &[(1, 0), (2, 1), (3, 1)]);
    let point = |tag, ms: i64, value| number("s/p", tag, ms * 1000, value);
    let all = || vec![point("a", 2, 2.0), point("b", 2, 0.1), point("a", 3, 3.0), point("b", 3, 0.1)];
    let report = compare(&truth, all(), &[]);
    assert!(report.is_complete(), "{:?}", words(&report));
    assert_eq!((report.sent, report.found), (4, 4));
    let cases = [
        (point("a", 2, 2.0), "a Doubled(Number(2.0))"),
        (point("a", 1, 1.0), "a Unknown(Number(1.0))"),
        (point("c", 2, 1.0), "c Unknown(Number(1.0))"),
    ];
    for (more, expected) in cases {
        let lake = all().into_iter().chain([more]).collect();
        assert_eq!(words(&compare(&truth, lake, &[])), [expected]);
    }
    let mut other = all();
    other[1] = point("b", 2, 0.100_000_000_000_000_02);
    other.pop();
    let expected = ["b Different(F64(0.1), Number(0.10000000000000002))", "b Missing(F64(0.1))"];
    assert_eq!(words(&compare(&truth, other, &[])), expected);
}

#[test]
fn values_are_the_same_bit_for_bit_unless_they_were_scaled() {
    let big = i128::from(u64::MAX);
    let cases = [
        (TrueValue::Integer(big), LakeValue::Text(big.to_string()), true),
        (TrueValue::Integer(big), LakeValue::Number(big as f64), false),
        (TrueValue::Integer(1 << 60), LakeValue::Number((1i64 << 60) as f64), true),
        (TrueValue::F64(0.0), LakeValue::Number(-0.0), false),
        (TrueValue::F32(0.1), LakeValue::Number(f64::from(0.1f32)), true),
        (TrueValue::F32(0.1), LakeValue::Number(0.1), false),
        (TrueValue::Bool(true), LakeValue::Number(1.0), true),
        (TrueValue::Scaled(20.1), LakeValue::Number(20.1f64.next_up()), true),
        (TrueValue::Scaled(20.1), LakeValue::Number(20.1001), false),
        (TrueValue::Text("auto".to_owned()), LakeValue::Text("auto".to_owned()), true),
        (TrueValue::Text("1".to_owned()), LakeValue::Number(1.0), false),
    ];
    for (truth, found, expected) in cases {
        assert_eq!(same(&truth, &found), expected, "{truth:?} {found:?}");
    }
}
