//! The mesh's decoders, without libp2p's types.
use super::book::{self, Book};
use super::codec::{Codec, Request};
pub use super::codec::{Oversized, Response};
use futures::FutureExt;
use futures::io::Cursor;
use libp2p::request_response::Codec as _;
use libp2p::{Multiaddr, StreamProtocol};
use std::io;

pub use super::limits::{MAX_ADDR_BYTES, MAX_ADDRS_PER_PEER};

const NAME: StreamProtocol = StreamProtocol::new("/fuzz");

fn at_once<T>(done: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    done.now_or_never().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
}

pub fn read_request(said: &[u8]) -> io::Result<Request> {
    at_once(Codec.read_request(&NAME, &mut Cursor::new(said)))
}
pub fn write_request(body: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut wire = Cursor::new(Vec::new());
    at_once(Codec.write_request(&NAME, &mut wire, Ok(body))).map(|()| wire.into_inner())
}
pub fn read_response(said: &[u8]) -> io::Result<Response> {
    at_once(Codec.read_response(&NAME, &mut Cursor::new(said)))
}
pub fn write_response(response: Response) -> io::Result<Vec<u8>> {
    let mut wire = Cursor::new(Vec::new());
    at_once(Codec.write_response(&NAME, &mut wire, response)).map(|()| wire.into_inner())
}

/// An address as settings have it, and the peer in it; otherwise why it is refused.
pub fn address(text: &str) -> Result<(String, Option<String>), String> {
    let (addr, peer) = book::parse(text).map_err(|error| error.to_string())?;
    Ok((addr.to_string(), peer.map(|peer| peer.to_string())))
}
pub fn listen_address(text: &str) -> Result<String, String> {
    book::parse_listen(text).map(|addr| addr.to_string()).map_err(|error| error.to_string())
}

/// What is kept of the addresses that a peer announces, each in bytes: by those who serve it, and in the book.
pub fn announced(said: &[&[u8]], connected_by: &str) -> (Vec<String>, Vec<String>) {
    let Ok(by) = connected_by.parse::<Multiaddr>() else { return Default::default() };
    let addrs = said.iter().filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
    let kept = book::reachable(addrs, &by);
    let (mut book, peer) = (Book::default(), libp2p::PeerId::from_bytes(&PEER).expect("a peer id"));
    kept.iter().for_each(|addr| book.add(peer, addr.clone()));
    let text = |addrs: Vec<Multiaddr>| addrs.iter().map(Multiaddr::to_string).collect();
    (text(kept), text(book.of(&peer)))
}

/// Of a key that is all ones: nobody has it.
const PEER: [u8; 38] = {
    let mut bytes = [1; 38];
    (bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]) = (0, 0x24, 8, 1, 0x12, 0x20);
    bytes
};
