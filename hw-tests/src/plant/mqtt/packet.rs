//! Packets of MQTT 3.1.1: those of a client are read, those of a broker are written.
//!
//! Invariant: no bytes make this file panic, and nothing is allocated beyond their number.

use thiserror::Error;

use crate::truth::log::TruthError;

/// Packets above this size end the connection. *Units*: bytes.
pub const PACKET_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Says why a connection ends.
#[derive(Debug, Error)]
pub enum PacketError {
    /// The socket.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// A publish cannot be written down, so it is not taken.
    #[error("a publish cannot be written down")]
    Truth(#[from] TruthError),
    /// The packet says that it is larger than the broker takes.
    #[error("a packet of {0} bytes")]
    TooLarge(usize),
    /// The packet ends too early.
    #[error("a packet of type {0} ends too early")]
    Short(u8),
    /// A packet that no client may send, or that this broker does not take.
    #[error("{0}")]
    Unexpected(&'static str),
}

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Section 3.1.
    Connect(Connect),
    /// Section 3.3.
    Publish(Publish),
    /// Section 3.4: the packet id.
    PubAck(u16),
    /// Section 3.8.
    Subscribe {
        /// Packet id.
        packet_id: u16,
        /// Filters with the QoS asked for.
        filters: Vec<(String, u8)>,
    },
    /// Section 3.10.
    Unsubscribe {
        /// Packet id.
        packet_id: u16,
        /// Filters.
        filters: Vec<String>,
    },
    /// Section 3.12.
    PingReq,
    /// Section 3.14.
    Disconnect,
}

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol level; 4 is 3.1.1.
    pub level: u8,
    /// Whether the session ends with the connection.
    pub clean: bool,
    /// *Units*: seconds; 0: never silent too long.
    pub keep_alive_s: u16,
    /// Client id.
    pub client_id: String,
}

impl Connect {
    /// Gives the return code of a refusal, section 3.2.2.3.
    #[must_use]
    pub fn refusal(&self) -> Option<u8> {
        match (self.level, self.client_id.as_str()) {
            (4, "") => Some(2),
            (4, _) => None,
            _ => Some(1),
        }
    }
}

/// A publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
    /// With QoS 1.
    pub packet_id: Option<u16>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Reads a packet whose first byte and body (all behind the length) are given.
    ///
    /// *Errors*: [`PacketError::Short`], [`PacketError::Unexpected`]; the connection has to end then.
    pub fn decode(first: u8, body: &[u8]) -> Result<Self, PacketError> {
        let mut fields = Fields { packet: first >> 4, rest: body };
        match first >> 4 {
            1 => connect(&mut fields).map(Self::Connect),
            3 => publish(first, fields).map(Self::Publish),
            4 => fields.number().map(Self::PubAck),
            8 => {
                let packet_id = fields.number()?;
                let mut filters = Vec::new();
                while !fields.rest.is_empty() {
                    filters.push((fields.text()?, fields.byte()?));
                }
                Ok(Self::Subscribe { packet_id, filters })
            }
            10 => {
                let packet_id = fields.number()?;
                let mut filters = Vec::new();
                while !fields.rest.is_empty() {
                    filters.push(fields.text()?);
                }
                Ok(Self::Unsubscribe { packet_id, filters })
            }
            12 => Ok(Self::PingReq),
            14 => Ok(Self::Disconnect),
            5..=7 => Err(PacketError::Unexpected("QoS 2 is not taken")),
            _ => Err(PacketError::Unexpected("a packet that no client may send")),
        }
    }
}

fn connect(fields: &mut Fields<'_>) -> Result<Connect, PacketError> {
    let name = fields.text()?;
    let level = fields.byte()?;
    let flags = fields.byte()?;
    if name != "MQTT" {
        return Err(PacketError::Unexpected("a protocol that is not MQTT"));
    }
    // Will, user name and password follow the client id; nobody asks for them here.
    Ok(Connect { level, clean: flags & 2 != 0, keep_alive_s: fields.number()?, client_id: fields.text()? })
}

fn publish(first: u8, mut fields: Fields<'_>) -> Result<Publish, PacketError> {
    let qos = first >> 1 & 3;
    if qos > 1 {
        return Err(PacketError::Unexpected("QoS 2 is not taken"));
    }
    let topic = fields.text()?;
    let packet_id = if qos == 0 { None } else { Some(fields.number()?) };
    Ok(Publish { topic, qos, packet_id, payload: fields.rest.to_vec() })
}

struct Fields<'a> {
    packet: u8,
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8], PacketError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(PacketError::Short(self.packet))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PacketError> {
        self.take(1).map(|bytes| bytes.iter().fold(0, |_, byte| *byte))
    }

    fn number(&mut self) -> Result<u16, PacketError> {
        self.take(2).map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u16::from(*byte)))
    }

    fn text(&mut self) -> Result<String, PacketError> {
        let length = usize::from(self.number()?);
        String::from_utf8(self.take(length)?.to_vec())
            .map_err(|_| PacketError::Unexpected("text that is not UTF-8"))
    }
}

/// Writes CONNACK.
#[must_use]
pub fn connack(session_present: bool, code: u8) -> Vec<u8> {
    vec![0x20, 2, u8::from(session_present), code]
}

/// Writes PUBACK.
#[must_use]
pub fn puback(packet_id: u16) -> Vec<u8> {
    let [high, low] = packet_id.to_be_bytes();
    vec![0x40, 2, high, low]
}

/// Writes SUBACK.
#[must_use]
pub fn suback(packet_id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&packet_id.to_be_bytes()[..], codes].concat())
}

/// Writes UNSUBACK.
#[must_use]
pub fn unsuback(packet_id: u16) -> Vec<u8> {
    packet(0xb0, &packet_id.to_be_bytes())
}

/// Writes PINGRESP.
#[must_use]
pub fn pingresp() -> Vec<u8> {
    vec![0xd0, 0]
}

/// Writes PUBLISH: with a packet id as QoS 1, without as QoS 0.
#[must_use]
pub fn publish_to(topic: &str, payload: &[u8], packet_id: Option<u16>, again: Again) -> Vec<u8> {
    let dup = if again == Again::Yes { 8 } else { 0 };
    let qos = if packet_id.is_some() { 2 } else { 0 };
    let length = u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes();
    let id = packet_id.map(u16::to_be_bytes);
    let id = id.as_ref().map_or(&[][..], |id| id);
    packet(0x30 | dup | qos, &[&length[..], topic.as_bytes(), id, payload].concat())
}

/// Whether a publish was sent before, on another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// For the first time.
    No,
    /// It may have been: DUP.
    Yes,
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let seven = (left % 128) as u8;
        left /= 128;
        bytes.push(if left > 0 { seven | 0x80 } else { seven });
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_of_a_packet_and_no_noise_makes_the_decoder_panic() {
        let body = b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x05agent\x00\x00\xff\xff\x01".as_slice();
        for first in 0..=u8::MAX {
            for from in 0..body.len() {
                for to in from..=body.len() {
                    drop(Packet::decode(first, &body[from..to]));
                }
            }
        }
        let whole = Packet::decode(0x10, &body[..17]).expect("connect");
        let expected = Connect { level: 4, clean: true, keep_alive_s: 60, client_id: "agent".to_owned() };
        assert_eq!(whole, Packet::Connect(expected));
        assert!(matches!(Packet::decode(0x10, &body[..9]), Err(PacketError::Short(1))));
    }

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        for (length, header) in
            [(0, vec![1, 0]), (127, vec![1, 127]), (128, vec![1, 0x80, 1]), (20_000, vec![1, 0xa0, 0x9c, 1])]
        {
            assert!(packet(1, &vec![7; length]).starts_with(&header), "{length}");
        }
    }
}
