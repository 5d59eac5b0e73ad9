//! Fetches one file over HTTP: gone on with where it broke off, tried again where that may help, bounded in size and
//! in how long nothing may come.
use super::MAX_DISK_FILE;
use super::catalogue::is_loopback;
use super::part::Part;
use protocol::{ErrorCode, Fault};
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};
use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Vendors send to a mirror and to its other name; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// A list of checksums has some kilobytes.
const MAX_LIST: u64 = 1 << 20;

/// How patient a pull is.
#[derive(Clone, Debug)]
pub struct PullSettings {
    pub connect_timeout: Duration,
    /// How long no byte may come. There is no limit for the whole: gigabytes over a thin line take hours.
    pub stall_timeout: Duration,
    /// Tries after the first, counted anew whenever the download got further by `progress`.
    pub retries: u32,
    /// Doubles with each retry, up to the longest.
    pub first_backoff: Duration,
    pub longest_backoff: Duration,
    pub progress: u64,
    /// A server that asks for more patience than this is not waited for.
    pub longest_retry_after: Duration,
    pub max_bytes: u64,
}

impl Default for PullSettings {
    fn default() -> Self {
        PullSettings {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            retries: 3,
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(30),
            // Enough that a server which sends little and breaks off does not keep us for ever.
            progress: 1 << 20,
            longest_retry_after: Duration::from_secs(120),
            max_bytes: MAX_DISK_FILE,
        }
    }
}

/// What a pull tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEvent {
    /// Bytes that are here, and of how many, when the server says so.
    Progress {
        done: u64,
        total: Option<u64>,
    },
    /// It goes on behind what an earlier pull left.
    Resuming {
        from: u64,
    },
    /// What was here cannot be gone on with.
    Restarting,
    Retrying {
        why: String,
        after: Duration,
    },
    /// All is here and is looked at.
    Checking,
}

pub type Events<'a> = &'a mut (dyn FnMut(PullEvent) + Send);

/// Why a try ended.
enum Stop {
    /// Trying again may help.
    Broken {
        fault: Fault,
        after: Option<Duration>,
    },
    Final(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Final(fault)
    }
}

fn broken_off(fault: Fault) -> Stop {
    Stop::Broken { fault, after: None }
}

pub(super) struct Fetcher {
    client: reqwest::Client,
    settings: PullSettings,
}

impl Fetcher {
    pub fn new(first: &Url, settings: &PullSettings) -> Result<Self, Fault> {
        // Fails only when there is a provider already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = reqwest::redirect::Policy::custom(|attempt| match follow(attempt.previous(), attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(why) => attempt.error(why),
        });
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("golemnode/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .redirect(policy);
        if is_loopback(first) {
            // A proxy's own loopback is another.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            Fault::new(ErrorCode::Unavailable, format!("servers cannot be verified: {}", innermost(&error)))
                .hint("install the certificates that this system trusts (Debian, Ubuntu: ca-certificates)")
        })?;
        Ok(Fetcher { client, settings: settings.clone() })
    }

    /// A small text, whole.
    pub async fn text(&self, url: &Url, events: Events<'_>) -> Result<String, Fault> {
        let mut patience = Patience::new(&self.settings);
        loop {
            match self.try_text(url).await {
                Ok(text) => return Ok(text),
                Err(stop) => patience.pause(stop, 0, events).await?,
            }
        }
    }

    async fn try_text(&self, url: &Url) -> Result<String, Stop> {
        let mut response = self.request(url, None).await?;
        let mut text = Vec::new();
        while let Some(bytes) = self.chunk(url, &mut response).await? {
            text.extend_from_slice(&bytes);
            if text.len() as u64 > MAX_LIST {
                return Err(Fault::invalid(format!("{url} has more than {} KiB", MAX_LIST >> 10)).into());
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Fills the part until it is the whole file. Dropped in between, it leaves what it has.
    pub async fn file(&self, url: &Url, part: Part, events: Events<'_>) -> Result<Part, Fault> {
        let part = Arc::new(Mutex::new(part));
        let mut patience = Patience::new(&self.settings);
        patience.furthest = locked(&part).len;
        while let Err(stop) = self.try_file(url, &part, events).await {
            let done = locked(&part).len;
            patience.pause(stop, done, events).await?;
        }
        let part = Arc::into_inner(part).ok_or_else(|| Fault::internal("the download is still being written"))?;
        Ok(part.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn try_file(&self, url: &Url, part: &Shared, events: Events<'_>) -> Result<(), Stop> {
        let (from, memo) = {
            let part = locked(part);
            (part.len, part.memo.clone())
        };
        if from > 0 && memo.total == Some(from) {
            return Ok(());
        }
        let range = memo.validator.as_deref().filter(|_| from > 0).map(|validator| (from, validator));
        let mut response = self.request(url, range).await?;
        let total = match goes_on(response.status(), response.headers(), from, memo.total) {
            Some(total) => total,
            None if response.status() == StatusCode::OK => {
                let total = length(response.headers());
                let validator = validator(response.headers());
                if from > 0 {
                    events(PullEvent::Restarting);
                }
                on_disk(part, move |part| part.begin(validator, total)).await?;
                total
            }
            None => {
                // Not the bytes that were asked for: without a length the next request asks for all.
                on_disk(part, |part| part.begin(None, None)).await?;
                let short = response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
                let what =
                    if short { "has less of the file than it said" } else { "sent another part than was asked for" };
                return Err(broken_off(Fault::new(ErrorCode::Unreachable, format!("{url}: the server {what}"))));
            }
        };
        if let Some(total) = total {
            self.check_size(url, part, total)?;
            locked(part).check_room(total)?;
        }
        events(PullEvent::Progress { done: locked(part).len, total });
        while let Some(bytes) = self.chunk(url, &mut response).await? {
            let done = locked(part).len + bytes.len() as u64;
            self.check_size(url, part, done)?;
            on_disk(part, move |part| part.write(&bytes)).await?;
            events(PullEvent::Progress { done, total });
        }
        let done = locked(part).len;
        match total {
            Some(total) if total != done => Err(broken_off(Fault::new(
                ErrorCode::Unreachable,
                format!("{url} ended after {done} of {total} bytes"),
            ))),
            _ => Ok(()),
        }
    }

    fn check_size(&self, url: &Url, part: &Shared, size: u64) -> Result<(), Fault> {
        let most = self.settings.max_bytes;
        if size <= most {
            return Ok(());
        }
        locked(part).discard();
        Err(Fault::invalid(format!("{url} has {size} bytes or more, and an image at most {most}")))
    }

    /// Up to the head of an answer that has what was asked for.
    async fn request(&self, url: &Url, range: Option<(u64, &str)>) -> Result<Response, Stop> {
        let mut request = self.client.get(url.clone());
        if let Some((from, validator)) = range {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, validator);
        }
        let sent = timeout(self.settings.connect_timeout + self.settings.stall_timeout, request.send()).await;
        let response = sent.map_err(|_| self.stalled(url))?.map_err(|error| unreachable(url, &error))?;
        let status = response.status();
        // 416: a part that is longer than the file. What is here gets judged by the caller.
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if range.is_some() => Ok(response),
            _ => Err(self.refused(url, status, response.headers())),
        }
    }

    async fn chunk(
        &self,
        url: &Url,
        response: &mut Response,
    ) -> Result<Option<impl Deref<Target = [u8]> + Send + 'static + use<>>, Stop> {
        let read = timeout(self.settings.stall_timeout, response.chunk()).await;
        read.map_err(|_| self.stalled(url))?.map_err(|error| unreachable(url, &error))
    }

    fn stalled(&self, url: &Url) -> Stop {
        let seconds = self.settings.stall_timeout.as_secs_f32();
        broken_off(Fault::new(ErrorCode::Timeout, format!("nothing came from {} for {seconds} s", host(url))))
    }

    fn refused(&self, url: &Url, status: StatusCode, headers: &HeaderMap) -> Stop {
        let fault = |code| Fault::new(code, format!("{url}: the server answered {status}"));
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Stop::Final(
                fault(ErrorCode::NoSuchImage)
                    .hint("the file was moved or removed; give its new place with --url, or in catalogue.toml"),
            ),
            StatusCode::TOO_MANY_REQUESTS => Stop::Broken { fault: fault(ErrorCode::TooManyRequests), after },
            StatusCode::REQUEST_TIMEOUT => Stop::Broken { fault: fault(ErrorCode::Timeout), after },
            _ if status.is_server_error() => Stop::Broken { fault: fault(ErrorCode::Unavailable), after },
            _ => Stop::Final(fault(ErrorCode::Unreachable)),
        }
    }
}

type Shared = Arc<Mutex<Part>>;

/// A panic while it was held is passed on by the one who joins that thread; the part itself is whole at any time.
fn locked(part: &Shared) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hashing and writing take their time, which is not the runtime's.
async fn on_disk(
    part: &Shared,
    work: impl FnOnce(&mut Part) -> Result<(), Fault> + Send + 'static,
) -> Result<(), Fault> {
    let part = Arc::clone(part);
    blocking(move || work(&mut locked(&part))).await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Fault::internal(format!("the download broke off: {error}"))),
    }
}

struct Patience<'a> {
    settings: &'a PullSettings,
    left: u32,
    backoff: Duration,
    /// As far as the download ever was when tries were counted anew.
    furthest: u64,
}

impl<'a> Patience<'a> {
    fn new(settings: &'a PullSettings) -> Self {
        Patience { settings, left: settings.retries, backoff: settings.first_backoff, furthest: 0 }
    }

    /// Waits before the next try, or says that there is none.
    async fn pause(&mut self, stop: Stop, done: u64, events: Events<'_>) -> Result<(), Fault> {
        let (mut fault, after) = match stop {
            Stop::Final(fault) => return Err(fault),
            Stop::Broken { fault, after } => (fault, after),
        };
        if done >= self.furthest + self.settings.progress {
            *self = Patience { furthest: done, ..Patience::new(self.settings) };
        }
        if self.left == 0 || after.is_some_and(|after| after > self.settings.longest_retry_after) {
            fault.retry_after_s = after.map(|after| u32::try_from(after.as_secs()).unwrap_or(u32::MAX));
            let hint = match (done, fault.code) {
                (0, ErrorCode::Unavailable | ErrorCode::TooManyRequests) => "try again later",
                (0, _) => "check the network; a proxy is taken from HTTPS_PROXY",
                _ => "what came is kept: pull again to go on from there",
            };
            return Err(fault.hint(hint));
        }
        self.left -= 1;
        let wait = after.unwrap_or_else(|| jittered(self.backoff));
        self.backoff = (self.backoff * 2).min(self.settings.longest_backoff);
        events(PullEvent::Retrying { why: fault.message, after: wait });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Between half and all of it, so that those whom one outage threw out do not come back as one. A map's random keys
/// are random enough.
fn jittered(backoff: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    backoff.mul_f64(0.5 + random / 2.0)
}

/// Never from a protected address to an open one, where somebody else could answer.
fn follow(previous: &[Url], next: &Url) -> Result<(), String> {
    if previous.len() > MAX_REDIRECTS {
        return Err(format!("more than {MAX_REDIRECTS} redirects"));
    }
    if previous.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
        return Err(format!("a redirect from https to the unprotected {next}"));
    }
    Ok(())
}

/// The whole file's length, when the answer is the rest that was asked for, of the file that was begun.
fn goes_on(status: StatusCode, headers: &HeaderMap, from: u64, known: Option<u64>) -> Option<Option<u64>> {
    if status != StatusCode::PARTIAL_CONTENT || from == 0 {
        return None;
    }
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (span, total) = range.split_once('/')?;
    let first: u64 = span.split_once('-')?.0.parse().ok()?;
    let total: Option<u64> = total.parse().ok();
    (first == from && (known.is_none() || total.is_none() || total == known)).then_some(total.or(known))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What `If-Range` takes: a weak `ETag` says only that the file means the same. A server that tells that it has no
/// ranges is not asked for them.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if text(ACCEPT_RANGES).is_some_and(|units| units.eq_ignore_ascii_case("none")) {
        return None;
    }
    // Whichever of the two it came in, If-Range would read it as a weak tag.
    [ETAG, LAST_MODIFIED].into_iter().filter_map(text).find(|value| !value.starts_with("W/"))
}

/// What a server's headers are taken to say: the length, what vouches for the bytes, how a download goes on.
#[cfg(feature = "fuzzing")]
pub(crate) type Said = (Option<u64>, Option<String>, Option<Option<u64>>);

#[cfg(feature = "fuzzing")]
pub(crate) fn headers(lines: &str, from: u64, known: Option<u64>) -> Said {
    let mut headers = HeaderMap::new();
    for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
        let name = reqwest::header::HeaderName::from_bytes(name.as_bytes());
        let value = reqwest::header::HeaderValue::from_str(value.trim());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (length(&headers), validator(&headers), goes_on(StatusCode::PARTIAL_CONTENT, &headers, from, known))
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Stop {
    let host = host(url);
    let fault = |message: String| Fault::new(ErrorCode::Unreachable, message);
    let why = innermost(error);
    if error.is_redirect() {
        return Stop::Final(fault(format!("{url} leads astray: {why}")));
    }
    if certificate(error) {
        return Stop::Final(
            fault(format!("{host} is not who it should be: {why}"))
                .hint("check this machine's clock and certificates; nothing was fetched"),
        );
    }
    if error.is_timeout() {
        return broken_off(Fault::new(ErrorCode::Timeout, format!("{host} does not answer")));
    }
    broken_off(fault(format!("the connection to {host} failed: {why}")))
}

fn certificate(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

/// An error and what is behind it; an `io::Error` shows what it wraps only on request.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_few_and_never_leave_https() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(follow(&[url("https://a/")], &url("https://b/")).is_ok());
        assert!(follow(&[url("http://a/")], &url("https://b/")).is_ok());
        assert!(follow(&[url("http://a/")], &url("http://b/")).is_ok());
        assert!(follow(&[url("https://a/")], &url("http://b/")).unwrap_err().contains("unprotected"));
        assert!(follow(&[url("http://a/"), url("https://b/")], &url("http://c/")).is_err());
        assert!(follow(&vec![url("https://a/"); MAX_REDIRECTS + 1], &url("https://b/")).is_err());
    }

    #[test]
    fn a_weak_tag_does_not_vouch_for_bytes() {
        let headers = |pairs: &[(reqwest::header::HeaderName, &'static str)]| {
            let value = |text| reqwest::header::HeaderValue::from_static(text);
            pairs.iter().map(|(name, text)| (name.clone(), value(text))).collect::<HeaderMap>()
        };
        assert_eq!(validator(&headers(&[(ETAG, "\"a\""), (LAST_MODIFIED, "d")])).as_deref(), Some("\"a\""));
        assert_eq!(validator(&headers(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, "d")])).as_deref(), Some("d"));
        assert_eq!(validator(&headers(&[(LAST_MODIFIED, "W/d")])), None);
        assert_eq!(validator(&headers(&[(ETAG, "\"a\""), (ACCEPT_RANGES, "none")])), None);
        assert_eq!(validator(&headers(&[])), None);
    }

    #[test]
    fn waits_differ_and_stay_within_bounds() {
        let waits: Vec<Duration> = (0..20).map(|_| jittered(Duration::from_secs(8))).collect();
        assert!(waits.iter().all(|wait| (4.0..=8.0).contains(&wait.as_secs_f64())), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }
}
