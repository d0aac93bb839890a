//! A Modbus TCP device whose holding register 0 counts the questions it was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// A running device; its threads end with the test.
pub(crate) struct Device {
    pub(crate) address: SocketAddr,
    answered: Arc<AtomicU16>,
}

impl Device {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answered = Arc::new(AtomicU16::new(0));
        let count = Arc::clone(&answered);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || serve(connection, &count));
            }
        });
        Self { address, answered }
    }

    /// How many questions were answered; the last answer held this number.
    pub(crate) fn answered(&self) -> u16 {
        self.answered.load(Ordering::SeqCst)
    }
}

/// Answers function 3 until the other side goes. *Source*: Modbus Application Protocol V1.1b3, 6.3, and
/// Modbus Messaging on TCP/IP V1.0b, 3.1.3.
fn serve(mut connection: TcpStream, answered: &AtomicU16) {
    let mut question = [0_u8; 12];
    while connection.read_exact(&mut question).is_ok() {
        assert_eq!(question[7], 3, "only holding registers are configured");
        let count = u16::from_be_bytes([question[10], question[11]]);
        let number = answered.fetch_add(1, Ordering::SeqCst) + 1;
        let bytes = count as u8 * 2;
        let mut answer = question[..4].to_vec();
        answer.extend_from_slice(&(u16::from(bytes) + 3).to_be_bytes());
        answer.extend_from_slice(&[question[6], 3, bytes]);
        answer.extend((0..count).flat_map(|at| if at == 0 { number } else { at }.to_be_bytes()));
        if connection.write_all(&answer).is_err() {
            return;
        }
    }
}
