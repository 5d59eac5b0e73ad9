//! Asks an SSH server for its host key and goes away. It decides readiness only: nothing here is proof of anything,
//! for the exchange's signature is not checked. Authentication is OpenSSH's job, with the pinned key.
//!
//! Only the cleartext start of RFC 4253 is spoken: version lines, KEXINIT, and ECDH (RFC 8731) up to the server's
//! reply, whose first field is the host key.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const OUR_VERSION: &[u8] = b"SSH-2.0-golemnode\r\n";
/// RFC 4253: a version line has at most 255 bytes; other lines may come before it.
const MAX_LINE: usize = 255;
const MAX_LINES_BEFORE_VERSION: usize = 16;
/// RFC 4253: every implementation must take packets of 35000 bytes; a key-exchange one is far smaller.
const MAX_PACKET: usize = 35_000;
/// Debug and ignore messages may come at any time.
const MAX_PACKETS_BEFORE_REPLY: usize = 8;
const MSG_DISCONNECT: u8 = 1;
const MSG_KEXINIT: u8 = 20;
const MSG_KEX_ECDH_INIT: u8 = 30;
const MSG_KEX_ECDH_REPLY: u8 = 31;
/// Once a banner is there the server is alive, and an emulated CPU takes its time for the curve and the signature.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// The host key blob that the server at `address` presents for ed25519. `banner_timeout` bounds the wait for the
/// version line: a user-mode network stack accepts connections long before the guest's server listens.
pub async fn host_key(address: SocketAddr, banner_timeout: Duration) -> io::Result<Vec<u8>> {
    let stream = timeout(banner_timeout, TcpStream::connect(address)).await.map_err(|_| silent())??;
    let mut stream = BufReader::new(stream);
    timeout(banner_timeout, read_version(&mut stream)).await.map_err(|_| silent())??;
    timeout(KEY_TIMEOUT, exchange(&mut stream)).await.map_err(|_| silent())?
}

/// The same with a server that says this and no more.
#[cfg(feature = "fuzzing")]
pub(crate) async fn host_key_in(said: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = tokio::io::join(said, tokio::io::sink());
    read_version(&mut stream).await?;
    exchange(&mut stream).await
}

/// Whether a server of any kind says `SSH-` there.
pub async fn banner(address: SocketAddr, banner_timeout: Duration) -> io::Result<()> {
    let stream = timeout(banner_timeout, TcpStream::connect(address)).await.map_err(|_| silent())??;
    timeout(banner_timeout, read_version(&mut BufReader::new(stream))).await.map_err(|_| silent())?
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer from an SSH server yet")
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn read_version(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    for _ in 0..MAX_LINES_BEFORE_VERSION {
        let mut line = Vec::with_capacity(64);
        loop {
            match stream.read_u8().await? {
                b'\n' => break,
                _ if line.len() >= MAX_LINE => return Err(bad("a version line without end")),
                byte => line.push(byte),
            }
        }
        if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
            return Ok(());
        }
        if line.starts_with(b"SSH-") {
            return Err(bad("an SSH version other than 2.0"));
        }
    }
    Err(bad("no SSH version line"))
}

async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Vec<u8>> {
    let mut hello = OUR_VERSION.to_vec();
    hello.extend(packet(&kexinit()));
    // The curve's base point: valid, and no secret is wanted.
    let mut point = [0u8; 32];
    point[0] = 9;
    let mut init = vec![MSG_KEX_ECDH_INIT];
    put_string(&mut init, &point);
    stream.write_all(&hello).await?;
    let mut sent_init = false;
    for _ in 0..MAX_PACKETS_BEFORE_REPLY {
        let payload = read_packet(stream).await?;
        match payload.first() {
            Some(&MSG_KEXINIT) if !sent_init => {
                stream.write_all(&packet(&init)).await?;
                sent_init = true;
            }
            Some(&MSG_KEX_ECDH_REPLY) if sent_init => return first_string(&payload[1..]),
            Some(&MSG_DISCONNECT) => return Err(bad("the SSH server disconnected: no algorithm in common")),
            _ => {}
        }
    }
    Err(bad("no key exchange reply"))
}

fn kexinit() -> Vec<u8> {
    let mut payload = vec![MSG_KEXINIT];
    payload.extend([0u8; 16]); // the cookie: it would matter for the session's secret, and there is none
    let ciphers = b"chacha20-poly1305@openssh.com,aes128-ctr,aes256-ctr";
    let macs = b"hmac-sha2-256,hmac-sha2-512,hmac-sha1";
    let lists: [&[u8]; 10] = [
        b"curve25519-sha256,curve25519-sha256@libssh.org",
        b"ssh-ed25519",
        ciphers,
        ciphers,
        macs,
        macs,
        b"none",
        b"none",
        b"",
        b"",
    ];
    for list in lists {
        put_string(&mut payload, list);
    }
    payload.extend([0u8; 5]); // no guess follows; reserved
    payload
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

/// An unencrypted binary packet: length, padding length, payload, padding up to a multiple of 8.
fn packet(payload: &[u8]) -> Vec<u8> {
    let mut padding = 8 - (5 + payload.len()) % 8;
    if padding < 4 {
        padding += 8;
    }
    let mut out = Vec::with_capacity(5 + payload.len() + padding);
    out.extend(((1 + payload.len() + padding) as u32).to_be_bytes());
    out.push(padding as u8);
    out.extend(payload);
    out.resize(out.len() + padding, 0);
    out
}

async fn read_packet(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if !(8..=MAX_PACKET).contains(&length) {
        return Err(bad("an SSH packet of an impossible length"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let padding = body[0] as usize;
    if padding + 1 > length {
        return Err(bad("an SSH packet with more padding than bytes"));
    }
    body.truncate(length - padding);
    body.remove(0);
    Ok(body)
}

fn first_string(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| bad("a key exchange reply cut short"))?;
    rest.get(..u32::from_be_bytes(*length) as usize)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| bad("a key exchange reply cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_to_whole_blocks() {
        for size in 0..40 {
            let packet = packet(&vec![1; size]);
            assert_eq!(packet.len() % 8, 0);
            assert!(packet[4] >= 4);
        }
    }

    #[tokio::test]
    async fn hostile_servers_are_bounded() {
        let endless_line = vec![b'x'; 4096];
        let huge_packet = b"SSH-2.0-x\r\n\xff\xff\xff\xff".to_vec();
        let tiny_packet = b"SSH-2.0-x\r\n\0\0\0\x01\0".to_vec();
        let mut padding = b"SSH-2.0-x\r\n\0\0\0\x08".to_vec();
        padding.extend([0xff; 8]);
        let old = b"SSH-1.5-x\r\n".to_vec();
        for answer in [endless_line, huge_packet, tiny_packet, padding, old] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&answer).await.ok();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.ok();
            });
            let error = host_key(address, Duration::from_secs(5)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            serve.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_silent_listener_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = host_key(listener.local_addr().unwrap(), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
