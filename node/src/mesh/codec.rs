//! Framing of the control protocol. A request is a length (u32, big endian) and as many bytes; an answer has a status
//! byte before that. What is too long is refused by name, with nothing read of it.
use super::types::Refused;
use futures::prelude::*;
use libp2p::StreamProtocol;
use libp2p::request_response;
use protocol::codec::MAX_MESSAGE;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of {size} bytes, more than the {limit} allowed")]
pub struct Oversized {
    pub size: usize,
    pub limit: usize,
}

/// A refused request is still a request: it gets an answer that says why.
pub type Request = Result<Vec<u8>, Oversized>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Body(Vec<u8>),
    /// The length that we said, which the other side took as too much.
    Oversized,
    /// Over the rate or the number of requests that the other side takes from us.
    Refused(Refused),
    /// The other side has too many unanswered requests, of everybody.
    Busy,
}

const BODY: u8 = 0;
const OVERSIZED: u8 = 1;
const RATE: u8 = 2;
const BUSY: u8 = 3;

#[derive(Clone, Default)]
pub struct Codec;

async fn read_body<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Request> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let size = u32::from_be_bytes(length) as usize;
    if size > MAX_MESSAGE {
        return Ok(Err(Oversized { size, limit: MAX_MESSAGE }));
    }
    // Memory is taken as the bytes come, not as they are announced.
    let mut body = Vec::new();
    io.take(size as u64).read_to_end(&mut body).await?;
    if body.len() < size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} of {size} bytes came", body.len())));
    }
    Ok(Ok(body))
}

async fn write_body<T: AsyncWrite + Unpin + Send>(io: &mut T, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_MESSAGE {
        return Err(io::Error::other(Oversized { size: body.len(), limit: MAX_MESSAGE }));
    }
    io.write_all(&(body.len() as u32).to_be_bytes()).await?;
    io.write_all(body).await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Request> {
        read_body(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Response> {
        let mut status = [0];
        io.read_exact(&mut status).await?;
        match status[0] {
            BODY => read_body(io).await?.map(Response::Body).map_err(io::Error::other),
            OVERSIZED => Ok(Response::Oversized),
            RATE => Ok(Response::Refused(Refused::RequestRate)),
            BUSY => Ok(Response::Busy),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unknown status {other}"))),
        }
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()> {
        write_body(io, &request.map_err(io::Error::other)?).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()> {
        match response {
            Response::Body(body) => {
                io.write_all(&[BODY]).await?;
                write_body(io, &body).await
            }
            Response::Oversized => io.write_all(&[OVERSIZED]).await,
            Response::Refused(_) => io.write_all(&[RATE]).await,
            Response::Busy => io.write_all(&[BUSY]).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use libp2p::request_response::Codec as _;

    const NAME: StreamProtocol = StreamProtocol::new("/x");

    fn request(bytes: &[u8]) -> io::Result<Request> {
        block_on(Codec.read_request(&NAME, &mut futures::io::Cursor::new(bytes)))
    }

    #[test]
    fn what_is_written_is_read() {
        for body in [vec![], vec![1], vec![7; MAX_MESSAGE]] {
            let mut wire = futures::io::Cursor::new(Vec::new());
            block_on(Codec.write_request(&NAME, &mut wire, Ok(body.clone()))).unwrap();
            assert_eq!(request(wire.get_ref()).unwrap(), Ok(body.clone()));
            for response in
                [Response::Body(body), Response::Oversized, Response::Busy, Response::Refused(Refused::RequestRate)]
            {
                let mut wire = futures::io::Cursor::new(Vec::new());
                block_on(Codec.write_response(&NAME, &mut wire, response.clone())).unwrap();
                wire.set_position(0);
                assert_eq!(block_on(Codec.read_response(&NAME, &mut wire)).unwrap(), response);
            }
        }
    }

    #[test]
    fn oversized_and_short_messages_are_named() {
        let size = MAX_MESSAGE + 1;
        assert_eq!(request(&(size as u32).to_be_bytes()).unwrap(), Err(Oversized { size, limit: MAX_MESSAGE }));
        assert_eq!(request(&[0, 0, 0, 9, 1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut wire = futures::io::Cursor::new(Vec::new());
        let error = block_on(Codec.write_request(&NAME, &mut wire, Ok(vec![0; size]))).unwrap_err();
        assert!(error.get_ref().unwrap().is::<Oversized>());
    }
}
