//! An item or a layout as it stands on the agent's disk; what is read is written again the same.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(item) = millrace_protocol::Item::decode(data)
        && let Ok(bytes) = item.encode()
    {
        assert_eq!(millrace_protocol::Item::decode(&bytes), Ok(item));
    }
    let _ = millrace_protocol::Layout::decode(data);
});
