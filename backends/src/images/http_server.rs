//! A web server for tests that does wrong on purpose: each request takes the next act of its script.
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub enum Act {
    /// As it should be, ranges included.
    Serve,
    WithoutRanges,
    /// Breaks off after so many bytes of the body.
    Cut(usize),
    /// Sends so many bytes, and then nothing until the other side gives up.
    Stall(usize),
    /// Says that the file has so many bytes.
    Claim(u64),
    /// Answers a range with another.
    OtherRange,
    Status(u16, &'static str),
    Redirect(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

pub struct State {
    pub file: Vec<u8>,
    pub etag: Option<&'static str>,
    /// When it is used up, the file is served.
    pub acts: VecDeque<Act>,
    /// Paths that are texts.
    pub texts: BTreeMap<String, String>,
    pub asked: Vec<Asked>,
}

pub struct Server {
    pub state: Arc<Mutex<State>>,
    addr: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    pub fn start(file: &[u8], acts: &[Act]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let acts = acts.iter().cloned().collect();
        let state =
            State { file: file.to_vec(), etag: Some("\"v1\""), acts, texts: BTreeMap::new(), asked: Vec::new() };
        let (state, stopped) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (shared, stop) = (Arc::clone(&state), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that hangs up in the middle is what some of the tests are about.
                std::thread::spawn(move || answer(stream, &shared).ok());
            }
        });
        Server { state, addr, stopped }
    }
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
    pub fn then(&self, acts: &[Act]) {
        self.state.lock().unwrap().acts = acts.iter().cloned().collect();
    }
    /// What was asked for, each as the range's beginning: 0 is the whole.
    pub fn ranges(&self) -> Vec<u64> {
        let from = |asked: &Asked| match &asked.range {
            Some(range) => range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap(),
            None => 0,
        };
        self.state.lock().unwrap().asked.iter().map(from).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let asked = read_request(&stream)?;
    let (act, file, etag) = {
        let mut state = state.lock().unwrap();
        if let Some(text) = state.texts.get(&asked.path).cloned() {
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
        state.asked.push(asked.clone());
        (state.acts.pop_front().unwrap_or(Act::Serve), state.file.clone(), state.etag)
    };
    let tag = etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
    let head = format!("{tag}Connection: close\r\n");
    let from = asked.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let ranged = !matches!(act, Act::WithoutRanges) && asked.if_range.as_deref() == etag;
    let from: usize = from.filter(|_| ranged).unwrap_or(0);
    let length = match act {
        Act::Claim(length) => length,
        _ => (file.len() - from.min(file.len())) as u64,
    };
    match &act {
        Act::Status(code, more) => {
            return write!(stream, "HTTP/1.1 {code} No\r\n{more}Content-Length: 0\r\n{head}\r\n");
        }
        Act::Redirect(to) => {
            return write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n{head}\r\n");
        }
        _ if from > 0 && from >= file.len() => {
            return write!(stream, "HTTP/1.1 416 No\r\nContent-Length: 0\r\n{head}\r\n");
        }
        _ if from > 0 => {
            let first = if matches!(act, Act::OtherRange) { from - 1 } else { from };
            let (last, all) = (file.len() - 1, file.len());
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{all}\r\n")?;
        }
        _ => write!(stream, "HTTP/1.1 200 OK\r\n")?,
    }
    write!(stream, "Content-Length: {length}\r\n{head}\r\n")?;
    let body = &file[from..];
    match act {
        Act::Cut(most) => stream.write_all(&body[..most.min(body.len())]),
        Act::Stall(most) => {
            stream.write_all(&body[..most.min(body.len())])?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        _ => stream.write_all(body),
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut asked = Asked { path, ..Asked::default() };
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => asked.range = Some(value.to_owned()),
            Some((name, value)) if name.eq_ignore_ascii_case("if-range") => asked.if_range = Some(value.to_owned()),
            None => break,
            _ => {}
        }
    }
    Ok(asked)
}
