//! Bodies as they are and as they should not be.

use crate::exchange::announced;
use crate::fault::Framing;
use crate::services::Answer;
use axum::body::{Body, Bytes};
use flate2::{Compress, Compression, Crc, FlushCompress};
use futures::stream::{self, StreamExt as _};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

const MEBIBYTE: usize = 1024 * 1024;

fn with_body(answer: Answer, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    *response.headers_mut() = *answer.headers;
    response
}

fn broken() -> io::Error {
    io::Error::other("the connection is dropped on purpose")
}

/// The answer as it is.
pub(crate) fn plain(mut answer: Answer) -> Response<Body> {
    let body = Body::from(std::mem::take(&mut answer.body));
    with_body(answer, body)
}

/// The beginning of the answer, then the end of the connection.
pub(crate) fn truncated(mut answer: Answer, keep: usize, framing: Framing) -> Response<Body> {
    let mut body = std::mem::take(&mut answer.body);
    let whole = body.len();
    body.truncate(keep);
    let is_broken = framing != Framing::Consistent && body.len() < whole;
    if let Some(length) = announced(framing, whole, body.len()) {
        answer.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let end = if is_broken { Some(Err(broken())) } else { None };
    // The pause lets what was sent reach the client before the connection goes.
    let end = stream::iter(end).then(|end| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        end
    });
    with_body(answer, Body::from_stream(stream::iter([Ok(Bytes::from(body))]).chain(end)))
}

/// The answer in small pieces.
pub(crate) fn dripping(mut answer: Answer, bytes: usize, pause: Duration) -> Response<Body> {
    let body = Bytes::from(std::mem::take(&mut answer.body));
    answer.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let pieces = stream::unfold(body, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        tokio::time::sleep(pause).await;
        let piece = left.split_to(bytes.max(1).min(left.len()));
        Some((Ok::<_, io::Error>(piece), left))
    });
    with_body(answer, Body::from_stream(pieces))
}

fn json_answer() -> Answer {
    Answer::empty(StatusCode::OK).header(CONTENT_TYPE, "application/json")
}

/// JSON that begins well and goes on and on. Nothing is kept in memory.
pub(crate) fn huge(bytes: u64) -> Response<Body> {
    let beginning = Bytes::from_static(b"{\"applications\":[],\"padding\":\"");
    let block = Bytes::from(vec![b'a'; 64 * 1024]);
    let left = bytes.saturating_sub(beginning.len() as u64);
    let rest = stream::unfold(left, move |left| {
        let piece = block.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(block.len()));
        let next = left - piece.len() as u64;
        futures::future::ready((left > 0).then_some((Ok::<_, io::Error>(piece), next)))
    });
    let mut answer = json_answer();
    answer.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    with_body(answer, Body::from_stream(stream::iter([Ok(beginning)]).chain(rest)))
}

/// A MiB of zeros as one deflate block sequence that ends at a byte and refers to nothing before it, so that it can be repeated.
fn compressed_mebibyte() -> &'static (Bytes, Crc) {
    static BLOCK: OnceLock<(Bytes, Crc)> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let zeros = vec![0; MEBIBYTE];
        let mut block = Vec::with_capacity(64 * 1024);
        // Cannot fail: the output has room, and zeros are valid input.
        let _status = Compress::new(Compression::best(), false).compress_vec(&zeros, &mut block, FlushCompress::Full);
        let mut checksum = Crc::new();
        checksum.update(&zeros);
        (Bytes::from(block), checksum)
    })
}

/// A gzip body of about a thousandth of what it unpacks to. One member, because some clients read no second one.
pub(crate) fn bomb(bytes: u64) -> Response<Body> {
    let (block, one) = compressed_mebibyte();
    let count = bytes.div_ceil(MEBIBYTE as u64);
    let mut checksum = Crc::new();
    for _ in 0..count {
        checksum.combine(one);
    }
    // Magic, deflate, no flags, no time, best compression, unknown system (RFC 1952).
    let header = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    // An empty last block with fixed codes, then checksum and length.
    let mut trailer = vec![0x03, 0x00];
    trailer.extend_from_slice(&checksum.sum().to_le_bytes());
    trailer.extend_from_slice(&checksum.amount().to_le_bytes());
    let blocks =
        stream::unfold(count, move |left| futures::future::ready((left > 0).then(|| (Ok::<_, io::Error>(block.clone()), left - 1))));
    let parts = stream::iter([Ok(header)]).chain(blocks).chain(stream::iter([Ok(Bytes::from(trailer))]));
    let answer = json_answer().header(CONTENT_ENCODING, "gzip");
    with_body(answer, Body::from_stream(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::io::Read as _;

    #[tokio::test]
    async fn a_gzip_bomb_is_valid_gzip_and_small() {
        let packed = bomb(8 * MEBIBYTE as u64).into_body().collect().await.expect("body").to_bytes();
        assert!(packed.len() < 100 * 1024, "{}", packed.len());
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("valid gzip");
        assert_eq!(unpacked.len(), 8 * MEBIBYTE);
    }

    #[tokio::test]
    async fn a_huge_body_has_the_length_it_announces() {
        let body = huge(1_000_000).into_body().collect().await.expect("body").to_bytes();
        assert_eq!(body.len(), 1_000_000);
    }
}
