//! Frames: a 4-byte big-endian length and that many bytes of JSON.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame, in bytes; longer lists are paged.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Room reserved for a frame before any of it has come: a claim alone costs no memory.
const FIRST_RESERVE: usize = 64 * 1024;

/// A frame that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The peer claims a frame that is too large.
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(usize),
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Truncated,
    /// The document is not what it should be.
    #[error("a frame that is not a message")]
    Decode(#[source] serde_json::Error),
    /// A message of ours cannot be written as JSON.
    #[error("a message that cannot be encoded")]
    Encode(#[source] serde_json::Error),
}

/// Reads one frame; `None` where the peer closed between two frames.
///
/// Not cancel safe: a frame half read is lost.
pub(super) async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut head = [0_u8; 4];
    let mut have = 0;
    while have < head.len() {
        match reader
            .read(&mut head[have..])
            .await
            .map_err(FrameError::Io)?
        {
            0 if have == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated),
            n => have += n,
        }
    }
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(length.min(FIRST_RESERVE));
    let got = reader
        .take(length as u64)
        .read_to_end(&mut bytes)
        .await
        .map_err(FrameError::Io)?;
    if got < length {
        Err(FrameError::Truncated)
    } else {
        Ok(Some(bytes))
    }
}

/// Writes one frame.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    document: &[u8],
) -> Result<(), FrameError> {
    if document.len() > MAX_FRAME {
        return Err(FrameError::TooLarge(document.len()));
    }
    let mut bytes = Vec::with_capacity(4 + document.len());
    bytes.extend_from_slice(&(document.len() as u32).to_be_bytes());
    bytes.extend_from_slice(document);
    writer.write_all(&bytes).await.map_err(FrameError::Io)?;
    writer.flush().await.map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn can_round_trip_frames() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let sent = vec![7_u8; 1000];
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            write(&mut a, &copy).await.unwrap();
            write(&mut a, b"").await.unwrap();
        });
        assert_eq!(read(&mut b).await.unwrap().unwrap(), sent);
        assert_eq!(read(&mut b).await.unwrap().unwrap(), b"");
        assert!(read(&mut b).await.unwrap().is_none());
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn rejects_a_claim_that_is_too_large_before_it_allocates() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        assert!(matches!(
            read(&mut &bytes[..]).await,
            Err(FrameError::TooLarge(_))
        ));
    }

    #[tokio::test]
    async fn every_truncation_is_an_error() {
        let mut whole = Vec::new();
        write(&mut whole, b"{\"a\":1}").await.unwrap();
        for end in 1..whole.len() {
            assert!(
                matches!(read(&mut &whole[..end]).await, Err(FrameError::Truncated)),
                "{end}"
            );
        }
    }
}
