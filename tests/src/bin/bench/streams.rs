//! A byte stream through each way there is to the same kind of sink, in turns.
use crate::bare;
use crate::child::Child;
use crate::stats::{median, ratio};
use node::api::client::Tunnel;
use node::config::Home;
use node::mesh::{self, MeshConfig, MeshEvent};
use protocol::Keypair;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::runtime::Runtime;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Long enough that opening the stream does not count.
const SIZE: usize = 256 << 20;
/// What the tunnel's own copies use.
const CHUNK: usize = 128 * 1024;
const NETWORK: &str = "bench";

/// Takes a length and so many bytes, and says when it has them.
fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut left = u64::from_be_bytes(length);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        left = left.saturating_sub(stream.read(&mut buffer)? as u64);
    }
    stream.write_all(&[1])
}

async fn swallow_async(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut left = stream.read_u64().await?;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        left = left.saturating_sub(stream.read(&mut buffer).await? as u64);
    }
    stream.write_all(&[1]).await?;
    stream.flush().await
}

fn push(mut to: impl Write, mut from: impl Read) -> std::io::Result<Duration> {
    let chunk = vec![7; CHUNK];
    let started = Instant::now();
    to.write_all(&(SIZE as u64).to_be_bytes())?;
    for _ in 0..SIZE / CHUNK {
        to.write_all(&chunk)?;
    }
    to.flush()?;
    from.read_exact(&mut [0])?;
    Ok(started.elapsed())
}

async fn push_async(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<Duration> {
    let chunk = vec![7; CHUNK];
    let started = Instant::now();
    stream.write_all(&(SIZE as u64).to_be_bytes()).await?;
    for _ in 0..SIZE / CHUNK {
        stream.write_all(&chunk).await?;
    }
    stream.flush().await?;
    stream.read_exact(&mut [0]).await?;
    Ok(started.elapsed())
}

/// Roles: each is a process of its own, says where it is, and serves until it is killed.
pub fn sink() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    crate::child::say(listener.local_addr()?);
    for stream in listener.incoming() {
        // A stream that breaks is the sender's failure too, and is said there.
        let _ = swallow(stream?);
    }
    Ok(())
}

pub async fn bare_sink() -> Result<()> {
    let (addr, mut streams) = bare::listen().await?;
    crate::child::say(addr);
    while let Some(stream) = futures::StreamExt::next(&mut streams).await {
        tokio::spawn(swallow_async(stream));
    }
    Ok(())
}

/// The far end of a tunnel made of noise and yamux alone: each stream is joined to the sink.
pub async fn bare_exit(sink: String) -> Result<()> {
    let (addr, mut streams) = bare::listen().await?;
    crate::child::say(addr);
    while let Some(mut stream) = futures::StreamExt::next(&mut streams).await {
        let sink = sink.clone();
        tokio::spawn(async move {
            let mut far = tokio::net::TcpStream::connect(sink).await?;
            far.set_nodelay(true)?;
            copy_bidirectional_with_sizes(&mut stream, &mut far, CHUNK, CHUNK).await
        });
    }
    Ok(())
}

/// Its near end: each connection to a Unix socket becomes a stream.
pub async fn bare_entry(socket: String, exit: String) -> Result<()> {
    let mut wanted = bare::connect(exit.parse()?).await?;
    let listener = tokio::net::UnixListener::bind(&socket)?;
    crate::child::say(socket);
    loop {
        let (mut near, _) = listener.accept().await?;
        let mut stream = open_bare(&mut wanted).await?;
        tokio::spawn(async move { copy_bidirectional_with_sizes(&mut near, &mut stream, CHUNK, CHUNK).await });
    }
}

async fn open_bare(wanted: &mut bare::Opener) -> Result<bare::Stream> {
    let (answer, answered) = futures::channel::oneshot::channel();
    wanted.try_send(answer).map_err(|_| "the muxer is gone")?;
    Ok(answered.await?)
}

fn mesh_config() -> Result<MeshConfig> {
    let keypair = Keypair::from_secret(&node::config::random_32()?);
    let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    Ok(MeshConfig { listen, ..MeshConfig::new(keypair, NETWORK.parse()?) })
}

pub async fn mesh_sink() -> Result<()> {
    let (mesh, mut events) = mesh::spawn(mesh_config()?).await?;
    crate::child::say(mesh.listen_addrs().await?.first().ok_or("the mesh listens nowhere")?);
    while let Some(event) = events.recv().await {
        match event {
            MeshEvent::Stream { stream, .. } => drop(tokio::spawn(swallow_async(stream))),
            MeshEvent::Request { token, .. } => mesh.drop_request(token).await?,
            _ => {}
        }
    }
    Ok(())
}

/// `home` is that of a requestor whose VM `vm` leads to `sink`.
pub fn run(home: &std::path::Path, vm: &str, sink: &str, rounds: usize) -> Result<()> {
    let runtime = Runtime::new()?;
    let scratch = tempfile::tempdir()?;
    let socket = scratch.path().join("entry").display().to_string();
    let bare_sink = Child::role("bare-sink", &[])?;
    let exit = Child::role("bare-exit", &[sink])?;
    let _entry = Child::role("bare-entry", &[&socket, &exit.said])?;
    let mesh_sink = Child::role("mesh-sink", &[])?;
    let mut opener = runtime.block_on(bare::connect(bare_sink.said.parse()?))?;
    let (mesh, mut events) =
        runtime.block_on(async { mesh::spawn(mesh_config()?).await.map_err(Box::<dyn std::error::Error>::from) })?;
    let peer = runtime.block_on(mesh.dial(&mesh_sink.said))?;
    runtime.spawn(async move { while events.recv().await.is_some() {} });
    let home = Home::find(Some(home.to_owned()))?;

    let ways: [(&str, &mut dyn FnMut() -> Result<Duration>); 6] = [
        ("direct TCP to the port", &mut || {
            let stream = TcpStream::connect(sink)?;
            Ok(push(&stream, &stream)?)
        }),
        ("through us, local API", &mut || {
            let stream = Tunnel::open(&home, vm, 22)?.stream;
            Ok(push(&stream, &stream)?)
        }),
        ("through us, vm proxy", &mut || proxied(&home, vm)),
        ("noise+yamux, same hops", &mut || {
            let stream = UnixStream::connect(&socket)?;
            let took = push(&stream, &stream)?;
            stream.shutdown(Shutdown::Both)?;
            Ok(took)
        }),
        ("our mesh, end to end", &mut || {
            runtime.block_on(async { Ok(push_async(mesh.open_stream(peer).await?).await?) })
        }),
        ("noise+yamux, end to end", &mut || {
            runtime.block_on(async { Ok(push_async(open_bare(&mut opener).await?).await?) })
        }),
    ];
    let (names, mut ways): (Vec<&str>, Vec<_>) = ways.into_iter().unzip();
    let mut took = vec![Vec::new(); ways.len()];
    // The first round warms up and is not counted; each round begins with another way.
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let way = (turn + round) % ways.len();
            let time = ways[way]()?.as_secs_f64();
            if round > 0 {
                took[way].push(time);
            }
        }
    }
    println!("\n## A stream of {} MiB, {rounds} rounds", SIZE >> 20);
    for (name, times) in names.iter().zip(&took) {
        println!("  {name:<26} {:>7.0} MiB/s (median)", (SIZE >> 20) as f64 / median(times));
    }
    let speed = |ours: usize, theirs: usize| {
        ratio(&took[theirs].iter().copied().zip(took[ours].iter().copied()).collect::<Vec<_>>())
    };
    crate::goal("our mesh against bare noise+yamux, both end to end", &speed(4, 5), 0.95);
    crate::goal("through us against a bare tunnel of the same hops", &speed(1, 3), 0.95);
    println!("  through us (local API) against the direct port: {}", speed(1, 0));
    println!("  through us (vm proxy) against the direct port:  {}", speed(2, 0));
    Ok(())
}

fn proxied(home: &Home, vm: &str) -> Result<Duration> {
    let mut proxy = Command::new(tests::golemnode())
        .arg("--home")
        .arg(home.root())
        .args(["vm", "proxy", vm, "22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (stdin, stdout) = proxy.stdin.take().zip(proxy.stdout.take()).ok_or("no pipes")?;
    let took = push(&stdin, stdout)?;
    drop(stdin);
    proxy.wait()?;
    Ok(took)
}
