//! A Kafka message's value, and every chunk in it.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(record) = millrace_protocol::Record::decode(data) else { return };
    for item in &record.items {
        if let millrace_protocol::Item::Chunk(chunk) = item
            && let Some(layout) = record.header.layout(chunk.layout)
        {
            let _ = millrace_protocol::Chunk::unpack(chunk, layout);
        }
    }
});
