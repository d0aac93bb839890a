//! Which requests read a device's tags (pure).
//!
//! Invariant: every tag stands in exactly one request, whole, so that no value is put together from
//! two replies.

use crate::config::{Device, Table, Tag};

/// One read request and the tags that its reply carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which of the four tables.
    pub table: Table,
    /// The first register or coil, 0-based, as sent.
    pub address: u16,
    /// How many registers or coils.
    pub count: u16,
    /// Places of the tags in [`Device::tags`], in order of address.
    pub tags: Vec<usize>,
}

impl Request {
    /// Gives the function code.
    ///
    /// *Source*: Modbus Application Protocol V1.1b3, section 6.
    #[must_use]
    pub const fn function(&self) -> u8 {
        match self.table {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }

    /// Gives the size of the reply over TCP: header (7), function, byte count, data. *Units*: bytes.
    #[must_use]
    pub const fn reply_bytes(&self) -> usize {
        let count = self.count as usize;
        9 + if self.table.is_bits() { count.div_ceil(8) } else { count * 2 }
    }

    /// Makes the smallest request that reads these tags, which are in order of address.
    fn covering(device: &Device, table: Table, tags: &[usize]) -> Self {
        let spans = || tags.iter().filter_map(|&place| device.tags.get(place)).map(|tag| Span::of(tag));
        let start = spans().map(|span| span.start).min().unwrap_or(0);
        let end = spans().map(|span| span.end).max().unwrap_or(start);
        Self {
            table,
            address: u16::try_from(start).unwrap_or(u16::MAX),
            count: u16::try_from(end.saturating_sub(start)).unwrap_or(u16::MAX),
            tags: tags.to_vec(),
        }
    }

    /// Gives two requests for half of the tags each, or nothing if there is only one tag.
    #[must_use]
    pub fn split(&self, device: &Device) -> Option<(Self, Self)> {
        let (low, high) = self.tags.split_at_checked(self.tags.len().div_ceil(2))?;
        (!high.is_empty())
            .then(|| (Self::covering(device, self.table, low), Self::covering(device, self.table, high)))
    }
}

/// The addresses of a tag, the end not included.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(tag: &Tag) -> Self {
        let start = u32::from(tag.address);
        Self { start, end: start + u32::from(tag.decode.width()) }
    }
}

/// Groups a device's tags into requests, within its limits.
///
/// Tags are joined while the request stays within the limit and skips at most `max_gap` addresses. A
/// tag that is larger than the limit by itself makes a request of its own.
#[must_use]
pub fn plan(device: &Device) -> Vec<Request> {
    let mut places: Vec<usize> = (0..device.tags.len()).collect();
    let tag = |place: usize| device.tags.get(place);
    places.sort_by_key(|&place| tag(place).map(|t| (t.table, t.address, t.decode.width(), place)));
    let mut requests: Vec<Request> = Vec::new();
    let mut reach = Span { start: 0, end: 0 };
    for place in places {
        let Some(tag) = tag(place) else { continue };
        let span = Span::of(tag);
        let most = if tag.table.is_bits() { device.limits.max_coils } else { device.limits.max_registers };
        let last = requests.last_mut().filter(|last| {
            last.table == tag.table
                && span.start <= reach.end + u32::from(device.limits.max_gap)
                && span.end.max(reach.end) - reach.start <= u32::from(most)
        });
        if let Some(last) = last {
            reach.end = reach.end.max(span.end);
            last.count = u16::try_from(reach.end - reach.start).unwrap_or(u16::MAX);
            last.tags.push(place);
        } else {
            reach = span;
            requests.push(Request::covering(device, tag.table, &[place]));
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;
    use crate::config::NumberKind;

    fn shapes(requests: &[Request]) -> Vec<(u8, u16, u16, Vec<usize>)> {
        requests.iter().map(|r| (r.function(), r.address, r.count, r.tags.clone())).collect()
    }

    #[test]
    fn tags_are_joined_within_gap_and_limit_and_tables_stay_apart() {
        let mut device = sample::device(
            1,
            vec![
                sample::number("b", Table::Holding, 103, NumberKind::F32),
                sample::number("a", Table::Holding, 100, NumberKind::U16),
                sample::number("far", Table::Holding, 108, NumberKind::U16),
                sample::number("in", Table::Input, 101, NumberKind::U16),
                sample::bit("coil", Table::Coil, 9),
                sample::bit("coil2", Table::Coil, 11),
            ],
        );
        device.limits.max_gap = 2;
        let joined =
            [(1, 9, 3, vec![4, 5]), (4, 101, 1, vec![3]), (3, 100, 5, vec![1, 0]), (3, 108, 1, vec![2])];
        assert_eq!(shapes(&plan(&device)), joined);
        device.limits.max_gap = 3;
        device.limits.max_registers = 8;
        assert_eq!(shapes(&plan(&device))[2..], [(3, 100, 5, vec![1, 0]), (3, 108, 1, vec![2])]);
        device.limits.max_registers = 9;
        assert_eq!(shapes(&plan(&device))[2..], [(3, 100, 9, vec![1, 0, 2])]);
    }

    #[test]
    fn overlapping_tags_share_registers_and_a_short_tag_inside_a_long_one_shortens_nothing() {
        let device = sample::device(
            1,
            vec![
                sample::number("whole", Table::Holding, 10, NumberKind::U64),
                sample::number("part", Table::Holding, 11, NumberKind::U16),
                sample::number("next", Table::Holding, 14, NumberKind::U16),
            ],
        );
        assert_eq!(shapes(&plan(&device)), [(3, 10, 5, vec![0, 1, 2])]);
    }

    #[test]
    fn replies_are_as_long_as_the_protocol_says() {
        let request = |table, count| Request { table, address: 0, count, tags: Vec::new() };
        for (table, count, bytes) in [
            (Table::Holding, 125, 259),
            (Table::Input, 1, 11),
            (Table::Coil, 1, 10),
            (Table::Discrete, 2_000, 259),
        ] {
            assert_eq!(request(table, count).reply_bytes(), bytes, "{table:?} {count}");
        }
    }

    #[test]
    fn splitting_halves_the_tags_and_drops_the_registers_between() {
        let mut device = sample::device(
            1,
            vec![
                sample::number("a", Table::Holding, 0, NumberKind::U16),
                sample::number("b", Table::Holding, 1, NumberKind::U16),
                sample::number("c", Table::Holding, 6, NumberKind::F32),
            ],
        );
        device.limits.max_gap = 10;
        let all = plan(&device);
        let (low, high) = all[0].split(&device).unwrap();
        assert_eq!(shapes(&[low.clone(), high.clone()]), [(3, 0, 2, vec![0, 1]), (3, 6, 2, vec![2])]);
        assert_eq!((high.split(&device), low.split(&device).is_some()), (None, true));
    }

    proptest! {
        #[test]
        fn every_tag_stands_whole_in_exactly_one_request_within_the_limits(
            tags in prop::collection::vec((0u16..400, 0usize..4, 0usize..3), 0..60),
            max_registers in 4u16..126, max_coils in 1u16..2_000, max_gap in 0u16..20,
        ) {
            let kinds = [NumberKind::U16, NumberKind::F32, NumberKind::F64];
            let tables = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];
            let tags = tags.iter().enumerate().map(|(i, &(address, table, kind))| {
                let name = format!("t{i}");
                if table < 2 { sample::bit(&name, tables[table], address) }
                else { sample::number(&name, tables[table], address, kinds[kind]) }
            }).collect();
            let mut device = sample::device(1, tags);
            device.limits = crate::config::RequestLimits { max_registers, max_coils, max_gap };
            let requests = plan(&device);
            let mut seen = vec![0; device.tags.len()];
            for request in &requests {
                let most = if request.table.is_bits() { max_coils } else { max_registers };
                prop_assert!(request.count >= 1 && request.count <= most);
                for &place in &request.tags {
                    let tag = &device.tags[place];
                    seen[place] += 1;
                    prop_assert_eq!(tag.table, request.table);
                    prop_assert!(tag.address >= request.address);
                    prop_assert!(tag.address + tag.decode.width() <= request.address + request.count);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
