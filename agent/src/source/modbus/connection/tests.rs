//! Tests of `connection`: against a scripted device where there is a wire, against a slow reference where there is none.

use super::super::sample;
use super::super::script::{Answer, Server};
use super::*;

fn registers(address: u16, count: u16) -> Request {
    Request { table: Table::Holding, address, count, tags: vec![0] }
}

fn connection(server: &Server) -> Connection {
    Connection::new(&sample::bus(&server.endpoint(), Vec::new()))
}

/// How an answer ended, so that it can be compared.
fn outcome(answer: Result<Reply, Failure>) -> Result<Reply, Quality> {
    answer.map_err(|failure| failure.quality())
}

fn words(words: &[u16]) -> Result<Reply, Quality> {
    Ok(Reply::Registers(words.to_vec()))
}

#[tokio::test]
async fn the_four_tables_are_read_by_their_functions() {
    let server = Server::start(|_| Answer::Addresses(0)).await;
    let mut connection = connection(&server);
    let bits = Reply::Bits(vec![true, false, true]);
    let words = Reply::Registers(vec![7, 8, 9]);
    for (table, function, expected) in [
        (Table::Coil, 1, &bits),
        (Table::Discrete, 2, &bits),
        (Table::Holding, 3, &words),
        (Table::Input, 4, &words),
    ] {
        let request = Request { table, address: 7, count: 3, tags: Vec::new() };
        assert_eq!(&connection.ask(5, &request).await.unwrap(), expected);
        let asked = *server.asked().last().unwrap();
        assert_eq!((asked.function, asked.unit, asked.connection), (function, 5, 0));
    }
}

#[tokio::test]
async fn a_late_reply_is_never_taken_for_the_answer_to_another_question() {
    let server = Server::start(|asked| match asked.address {
        1 => Answer::Late(vec![111]),
        _ => Answer::Addresses(0),
    })
    .await;
    let mut connection = connection(&server);
    assert_eq!(outcome(connection.ask(1, &registers(1, 1)).await), Err(Quality::TIMEOUT));
    for address in [2, 3] {
        assert_eq!(outcome(connection.ask(1, &registers(address, 1)).await), words(&[address]));
    }
    let connections: Vec<_> = server.asked().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [0, 1, 1]);
}

#[tokio::test]
async fn an_answer_to_something_else_costs_the_connection_and_is_not_taken() {
    let wrong = [
        ("another unit", Answer::OtherUnit(9, vec![5]), Quality::MISMATCH),
        ("another transaction", Answer::OtherTransaction(vec![5]), Quality::MISMATCH),
        ("another function", Answer::Bytes(vec![4, 2, 0, 5]), Quality::MISMATCH),
        ("a refusal of another function", Answer::Bytes(vec![0x84, 2]), Quality::MISMATCH),
        ("a frame that ends before its data", Answer::Bytes(vec![3, 2, 0]), Quality::WRONG_LENGTH),
        ("half a register", Answer::Bytes(vec![3, 3, 0, 1, 2]), Quality::WRONG_LENGTH),
        ("more than it announces", Answer::Bytes(vec![3, 2, 0, 5, 6]), Quality::WRONG_LENGTH),
        ("nothing after the unit", Answer::Bytes(vec![]), Quality::WRONG_LENGTH),
    ];
    for (what, answer, quality) in wrong {
        let server = Server::start(move |asked| match asked.address {
            1 => answer.clone(),
            _ => Answer::Addresses(0),
        })
        .await;
        let mut connection = connection(&server);
        assert_eq!(outcome(connection.ask(1, &registers(1, 1)).await), Err(quality), "{what}");
        assert_eq!(outcome(connection.ask(1, &registers(2, 1)).await), words(&[2]), "{what}");
        let connections: Vec<_> = server.asked().iter().map(|asked| asked.connection).collect();
        assert_eq!(connections, [0, 1], "{what}");
    }
}

#[tokio::test]
async fn a_reply_with_fewer_or_more_registers_or_bits_than_asked_for_is_refused() {
    let server = Server::start(|asked| match (asked.function, asked.count) {
        (1, _) => Answer::Bytes(vec![1, 2, 0xff, 0xff]),
        (_, 4) => Answer::Registers(vec![7]),
        _ => Answer::Registers(vec![7; 5]),
    })
    .await;
    let mut connection = connection(&server);
    for count in [4, 3] {
        assert_eq!(outcome(connection.ask(1, &registers(0, count)).await), Err(Quality::WRONG_LENGTH));
    }
    for (count, is_right) in [(8, false), (9, true), (16, true), (17, false)] {
        let request = Request { table: Table::Coil, address: 0, count, tags: Vec::new() };
        let expected =
            if is_right { Ok(Reply::Bits(vec![true; count.into()])) } else { Err(Quality::WRONG_LENGTH) };
        assert_eq!(outcome(connection.ask(1, &request).await), expected, "{count} coils");
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_the_connection() {
    let server = Server::start(|asked| match asked.address {
        0 => Answer::Addresses(0),
        address => Answer::Exception(u8::try_from(address).unwrap()),
    })
    .await;
    let mut connection = connection(&server);
    for code in [1, 2, 6, 11, 31] {
        let answer = outcome(connection.ask(1, &registers(code, 1)).await);
        assert_eq!(answer, Err(Quality::exception(u8::try_from(code).unwrap())));
    }
    assert_eq!(outcome(connection.ask(1, &registers(0, 1)).await), words(&[0]));
    assert!(server.asked().iter().all(|asked| asked.connection == 0));
}

#[tokio::test]
async fn a_connection_closed_for_idleness_is_made_anew_without_a_failure() {
    let server = Server::start(|asked| match (asked.connection, asked.address) {
        (0, 2) | (_, 9) => Answer::Close,
        _ => Answer::Addresses(0),
    })
    .await;
    let mut connection = connection(&server);
    for address in [1, 2, 3] {
        assert_eq!(outcome(connection.ask(1, &registers(address, 1)).await), words(&[address]));
    }
    // What closes a connection that was just made is no idleness.
    assert_eq!(outcome(connection.ask(1, &registers(9, 1)).await), Err(Quality::NO_CONNECTION));
    let asked: Vec<_> = server.asked().iter().map(|asked| (asked.connection, asked.address)).collect();
    assert_eq!(asked, [(0, 1), (0, 2), (1, 2), (1, 3), (1, 9), (2, 9)]);
}

#[tokio::test]
async fn a_question_that_is_given_up_halfway_costs_the_connection() {
    let server = Server::start(|asked| match asked.address {
        1 => Answer::Late(vec![111]),
        _ => Answer::Addresses(0),
    })
    .await;
    let mut connection = connection(&server);
    let request = registers(1, 1);
    {
        let question = connection.ask(1, &request);
        tokio::pin!(question);
        while server.asked().is_empty() {
            assert!(futures_util::poll!(&mut question).is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(outcome(connection.ask(1, &registers(2, 1)).await), words(&[2]));
}

#[tokio::test]
async fn nobody_listening_is_no_connection() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut connection = Connection::new(&sample::bus(&free.to_string(), Vec::new()));
    assert!(matches!(connection.ask(1, &registers(0, 1)).await, Err(Failure::Connect(_))));
}

#[tokio::test]
async fn pauses_are_kept_after_a_reply_and_after_connecting() {
    let server = Server::start(|_| Answer::Addresses(0)).await;
    let mut bus = sample::bus(&server.endpoint(), Vec::new());
    (bus.pause, bus.connect_pause) = (Duration::from_millis(20), Duration::from_millis(30));
    let mut connection = Connection::new(&bus);
    let start = Instant::now();
    for _ in 0..3 {
        connection.ask(1, &registers(0, 1)).await.unwrap();
    }
    // A pause may be longer, never shorter.
    assert!(start.elapsed() >= Duration::from_millis(30 + 20 + 20));
}
