//! Decompresses a layer. Recognises the compression by the first bytes.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// About how many bytes are decompressed at once.
const PIECE: usize = 1 << 17;

/// The tar archive in a layer that is plain or compressed by gzip or zstd.
pub fn decompressed<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(PIECE, from);
    let first = from.fill_buf()?;
    Ok(if first.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(from))
    } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(first) {
        Box::new(Zstd {
            decoder: FrameDecoder::new(),
            source: from,
            is_in_frame: false,
        })
    } else {
        Box::new(from)
    })
}

/// Whether a zstd frame begins here that holds no data.
fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Decompresses all frames of a stream, one after the other.
struct Zstd<R> {
    decoder: FrameDecoder,
    source: R,
    is_in_frame: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.is_in_frame {
                let count = self.decoder.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                if !self.decoder.is_finished() {
                    let strategy = BlockDecodingStrategy::UptoBytes(PIECE);
                    self.decoder
                        .decode_blocks(&mut self.source, strategy)
                        .map_err(io::Error::other)?;
                    continue;
                }
                self.is_in_frame = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => self.is_in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::decompressed;

    fn read(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        super::super::read_all(decompressed(bytes)?)
    }

    #[test]
    fn each_compression_gives_back_what_went_in() {
        let text: Vec<u8> = (0..300_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        assert_eq!(read(&text).unwrap(), text);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(read(&gzip).unwrap(), text);
        let frame = compress_to_vec(text.as_slice(), CompressionLevel::Fastest);
        assert_eq!(read(&frame).unwrap(), text);
        // Two frames, with one that holds nothing before and between.
        let nothing = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let all = [&nothing[..], &frame, &nothing, &frame].concat();
        assert_eq!(read(&all).unwrap(), [text.clone(), text].concat());
        for damaged in [&gzip[..gzip.len() / 2], &frame[..frame.len() / 2]] {
            assert!(read(damaged).is_err());
        }
        assert!(read(&[]).unwrap().is_empty());
        let mut one = [0; 1];
        assert_eq!(decompressed(&frame[..]).unwrap().read(&mut one).unwrap(), 1);
    }
}
