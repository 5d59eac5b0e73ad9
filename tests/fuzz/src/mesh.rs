//! The edge of the mesh: framing, and the addresses that settings and peers name.
use crate::{Bytes, must_be_plain};
use node::fuzzing::{
    MAX_ADDR_BYTES, MAX_ADDRS_PER_PEER, Oversized, Response, address, announced, listen_address, read_request,
    read_response, write_request, write_response,
};
use protocol::codec::MAX_MESSAGE;

pub fn mesh_codec(data: &[u8]) {
    match read_request(data) {
        Ok(Ok(body)) => {
            assert!(body.len() + 4 <= data.len() && body.len() <= MAX_MESSAGE);
            let written = write_request(body).expect("what was read can be written");
            assert!(data.starts_with(&written));
        }
        Ok(Err(Oversized { size, limit })) => assert!(size > limit && limit == MAX_MESSAGE),
        Err(error) => must_be_plain(&error.to_string(), 200),
    }
    match read_response(data) {
        Ok(response) => {
            if let Response::Body(body) = &response {
                assert!(body.len() + 5 <= data.len() && body.len() <= MAX_MESSAGE);
            }
            let written = write_response(response).expect("what was read can be written");
            assert!(data.starts_with(&written));
        }
        Err(error) => must_be_plain(&error.to_string(), 200),
    }
}

/// As a line of the settings; then as what a peer announces, in bytes.
pub fn addresses(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        match address(text) {
            Ok((addr, peer)) => {
                must_be_plain(&addr, 2 * MAX_ADDR_BYTES);
                assert_eq!(address(&addr), Ok((addr.clone(), peer.clone())));
                assert!(peer.is_none_or(|peer| addr.ends_with(&peer) && peer.parse::<protocol::PeerId>().is_ok()));
            }
            Err(why) => must_be_plain(&why, 300),
        }
        match listen_address(text) {
            Ok(addr) => assert!(!addr.contains("/p2p/") && !addr.contains("/dns")),
            Err(why) => must_be_plain(&why, 300),
        }
    }
    let mut input = Bytes::new(data);
    let by = ["/ip4/127.0.0.1/tcp/9", "/ip4/10.0.0.9/tcp/9", "/ip6/2001:db8::1/udp/9/quic-v1"];
    let by = by[usize::from(input.u8()) % by.len()];
    let mut said = Vec::new();
    while !input.is_empty() {
        said.push(input.chunk());
    }
    let (kept, known) = announced(&said, by);
    assert!(kept.len() <= MAX_ADDRS_PER_PEER && known.len() <= MAX_ADDRS_PER_PEER);
    for addr in kept.iter().chain(&known) {
        must_be_plain(addr, 2 * MAX_ADDR_BYTES);
        assert!(!addr.contains("/p2p-circuit") && !addr.contains("/0.0.0.0/"), "{addr}");
        assert!(by.starts_with("/ip4/127.") || !addr.starts_with("/ip4/127."), "their loopback is not ours: {addr}");
    }
}
